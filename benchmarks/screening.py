"""What the screen of `unflinch generate` drops: of bundled prompts that it has not seen, and of public sets.

Run `python benchmarks/screening.py [--data PATH]`, PATH being the folder with the public sets as JSON lines. Two folds
by the content of the prompts; a target and its harmful twin are always in the same one, and each fold is compared with
the prompts of the other alone. The public sets are compared with all bundled prompts. `near words` is the rule on a
single keep or guard prompt by itself, `word list` what a list of plain words would drop, for comparison.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unflinch.data.near_duplicates import NearDuplicates
from unflinch.data.prompts import Prompt, bundled, load_prompts
from unflinch.data.screening import TOO_CLOSE_SCORE, TOO_CLOSE_WORDS, Screen
from unflinch.data.splits import PromptSets, split_prompts
from unflinch.metrics.intervals import rate

THRESHOLDS = (0.0, -0.5, -1.0, TOO_CLOSE_SCORE, -2.0)
PUBLIC = ("xstest_safe", "oktest", "orbench_hard", "alpaca", "xstest_unsafe", "jbb_harmful")
WORDS = re.compile(
    r"\b(kill|murder|bomb|explosive|poison|weapon|attack|hack|steal|rape|torture|terror|abuse|kidnap|stalk|blackmail)",
    re.IGNORECASE,
)


def show(name: str, prompts: Sequence[Prompt], screen: Screen, sets: PromptSets) -> None:
    """Print what share of the prompts each rule drops."""
    near = NearDuplicates(TOO_CLOSE_WORDS, (prompt.text for prompt in (*sets.keep, *sets.guard)))
    close = np.array([near.find(prompt.text) is not None for prompt in prompts])
    scores = screen.scores([prompt.text for prompt in prompts])
    words = np.array([WORDS.search(prompt.text) is not None for prompt in prompts])
    rows = {"near words": close, "word list": words}
    rows |= {f"score {threshold}": scores >= threshold for threshold in THRESHOLDS}
    rows["too close"] = close | (scores >= TOO_CLOSE_SCORE)
    for rule, dropped in rows.items():
        found = rate(int(dropped.sum()), len(prompts))
        print(f"{name:<34} {rule:<12} {found.count:>6} of {found.n:<6} {found.value:6.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path)
    data = parser.parse_args().data
    bundle = [bundled("targets"), bundled("keep"), bundled("guard"), bundled("ordinary")]
    splits = split_prompts(*bundle, shares=(0.5, 0.0, 0.5))
    for name, seen, held_out in (("A", splits.fit, splits.test), ("B", splits.test, splits.fit)):
        screen = Screen(seen)
        for kind in ("targets", "ordinary", "keep", "guard"):
            prompts = getattr(held_out, kind)
            show(f"fold {name}, {kind}", prompts, screen, seen)
            for language in ("de", "es", "fr", "ru", "zh"):
                show(f"fold {name}, {kind}, {language}", [p for p in prompts if p.language == language], screen, seen)
    if data:
        sets = PromptSets(*bundle)
        screen = Screen(sets)
        for name in PUBLIC:
            show(name, load_prompts(data / f"{name}.jsonl"), screen, sets)


if __name__ == "__main__":
    main()
