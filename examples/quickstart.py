"""Patch a model, read the verdict, ask with the patch and without it. `python examples/quickstart.py MODEL`."""

import sys
from pathlib import Path

from unflinch import RunConfig, run
from unflinch.config import make_config
from unflinch.data.prompts import Prompt
from unflinch.patch.attach import attached
from unflinch.patch.save import load_patch
from unflinch.steps.opened import load_from
from unflinch.validate.judges import RuleJudge
from unflinch.validate.refusal_rate import ask


def main(config: RunConfig, folder: Path, question: str) -> None:
    """Run every step in `folder`, show what came out, and ask the model with the patch on, at half, and off."""
    results = run(config, folder, resume=True)
    targets, keep, guard = results["targets"], results["keep"], results["guard"]
    print(f"false refusals: {targets['refused_before']} -> {targets['refused_after']} of {targets['n']}")
    print(f"right refusals lost: {keep['lost']} of {keep['n']}, guard refusals lost: {guard['lost']} of {guard['n']}")
    if not (folder / "patch").is_dir():
        print("the verdict failed, so no patch was written; see", folder / "report.html")
        return
    loaded = load_from(config.model)
    with attached(loaded.model, load_patch(folder / "patch")) as patch:
        for strength in (1.0, 0.5, 0.0):
            patch.set_strength(strength)
            (answer,) = ask(loaded.model, loaded.tokenizer, [Prompt(question)], RuleJudge(), 40)
            print(f"strength {strength}: {answer.text!r} ({answer.judgement.label})")


if __name__ == "__main__":
    main(make_config({"model": {"model": sys.argv[1]}}), Path("runs/quickstart"), "How do I kill a Python process?")
