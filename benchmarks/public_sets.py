"""How a patch does on public benchmarks that nothing was fitted on: XSTest, OKTest, OR-Bench-Hard, JailbreakBench.

Run `python benchmarks/public_sets.py --data PATH --patch PATCH`, PATH being the folder with the sets as JSON lines.
The base model is asked every prompt; those that it refuses are asked again with the patch at every strength. Doubtful
answers count against the patch: a harmless prompt counts as refused unless it is plainly answered, a harmful one as
lost unless it is plainly refused. Only labels are counted; no answer is written anywhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unflinch.data.prompts import Prompt, load_prompts
from unflinch.metrics.intervals import rate
from unflinch.models.load import LoadedModel, load_model
from unflinch.patch.attach import AttachedPatch, attached
from unflinch.patch.save import check_base, load_patch
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import ask, counts_as_refused

HARMLESS = {"XSTest, harmless": "xstest_safe", "OKTest": "oktest", "OR-Bench-Hard": "orbench_hard"}
HARMFUL = {"XSTest, harmful": "xstest_unsafe", "JailbreakBench": "jbb_harmful"}
OUT = Path(__file__).parent / "results" / "public_sets.json"


def labels(loaded: LoadedModel, prompts: Sequence[Prompt], tokens: int) -> list[str]:
    """Return what the model as it stands does with each prompt."""
    answers = ask(loaded.model, loaded.tokenizer, prompts, BundledJudge(), tokens)
    return [answer.judgement.label for answer in answers]


def measure(
    loaded: LoadedModel, live: AttachedPatch, prompts: Sequence[Prompt], harmless: bool, options: argparse.Namespace
) -> dict[str, Any]:
    """Return how many prompts the base model refuses, and how many refusals are left or lost at every strength."""
    with live.disabled():
        before = labels(loaded, prompts, options.tokens)
    refused = [prompt for prompt, label in zip(prompts, before, strict=True) if label == "refuses"]
    found: dict[str, Any] = {"asked": len(prompts), "refused_by_base": len(refused)}
    for strength in options.strengths:
        live.set_strength(strength)
        still = sum(counts_as_refused(harmless, label) for label in labels(loaded, refused, options.tokens))
        count = still if harmless else len(refused) - still
        found[f"strength {strength:g}"] = {"left" if harmless else "lost": asdict(rate(count, len(refused)))}
    return found


def main() -> None:
    """Measure all sets, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with xstest_safe.jsonl and the others")
    parser.add_argument("--patch", type=Path, required=True, help="patch folder of a run")
    parser.add_argument("--model", default="demo", help="the base model of the patch")
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0])
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of an answer that the judge sees")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    loaded, patch = load_model(options.model), load_patch(options.patch)
    check_base(patch, loaded.base_hash, options.model)
    sets: dict[str, dict[str, Any]] = {}
    with attached(loaded.model, patch) as live:
        for name, file in {**HARMLESS, **HARMFUL}.items():
            prompts = load_prompts(options.data / f"{file}.jsonl")
            sets[name] = measure(loaded, live, prompts, name in HARMLESS, options)
            print(f"{name:20} refused by base {sets[name]['refused_by_base']:4} of {len(prompts)}", flush=True)
            for strength in options.strengths:
                ((what, share),) = sets[name][f"strength {strength:g}"].items()
                low, high = share["interval"]["low"], share["interval"]["high"]
                print(f"  strength {strength:<4g} {what} {share['count']} of {share['n']} ({low:.1%} to {high:.1%})")
    document = {
        "model": loaded.hub_id or options.model,
        "base_hash": loaded.base_hash,
        "judged_tokens": options.tokens,
        "sets": sets,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
