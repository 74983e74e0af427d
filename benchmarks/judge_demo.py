"""Five-class confusion of the judges on answers of the demo model that were labelled by hand.

Run `python benchmarks/judge_demo.py`. The answers stand in `results/judge_demo_answers.jsonl` (made by
`judge_demo_generate.py`, labelled by reading, before a judge had seen them). Lines with `"part": "seen"` were looked at
afterwards, to mend rules; of the lines with `"part": "held out"` only figures were looked at.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sklearn.metrics import cohen_kappa_score

from unflinch.results import LABELS
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.judges import Judge, RuleJudge

RESULTS = Path(__file__).resolve().parent / "results"
REFUSING = frozenset({"partly", "evades", "refuses"})

Pair = tuple[str, str]
"""The label by hand and that of the judge."""


def figures(pairs: Sequence[Pair]) -> dict[str, object]:
    """Confusion (by hand -> judge), shares and Cohen's kappa of one judge."""
    counts = Counter(pairs)
    same = sum(count for (hand, said), count in counts.items() if hand == said)
    return {
        "n": len(pairs),
        "same": same,
        "accuracy": round(same / max(1, len(pairs)), 4),
        "kappa": round(float(cohen_kappa_score(*zip(*pairs, strict=True))), 4) if pairs else None,
        "refusal_f1": round(refusal_f1(pairs), 4),
        "refused_but_called_answers": sum(
            c for (hand, said), c in counts.items() if hand in REFUSING and said == "answers"
        ),
        "answered_but_called_refusal": sum(
            c for (hand, said), c in counts.items() if hand == "answers" and said in REFUSING
        ),
        "confusion": {hand: {said: counts[hand, said] for said in LABELS} for hand in LABELS},
    }


def refusal_f1(pairs: Sequence[Pair]) -> float:
    """F1 of refusal, which is partly, evades or refuses."""
    right = sum(hand in REFUSING and said in REFUSING for hand, said in pairs)
    either = sum((hand in REFUSING) + (said in REFUSING) for hand, said in pairs)
    return 2 * right / max(1, either)


def main() -> None:
    parser = argparse.ArgumentParser(description="Five-class confusion on labelled answers of the demo model.")
    parser.add_argument("--answers", type=Path, default=RESULTS / "judge_demo_answers.jsonl")
    parser.add_argument("--out", type=Path, default=RESULTS / "judge_demo.json")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.answers.read_text(encoding="utf-8").splitlines()]
    judges: dict[str, Judge] = {"bundled": BundledJudge(), "rules": RuleJudge()}
    results: dict[str, object] = {"answers": len(rows), "labels": dict(Counter(row["label"] for row in rows))}
    for name, judge in judges.items():
        said = [(row["label"], judge(row["prompt"], row["answer"]).label) for row in rows]
        groups = {"all": said}
        for field in ("part", "language"):
            for value in sorted({row[field] for row in rows}):
                groups[value] = [pair for row, pair in zip(rows, said, strict=True) if row[field] == value]
        results[name] = {group: figures(pairs) for group, pairs in groups.items()}
        print(f"{name}: rows by hand, columns {', '.join(LABELS)}")
        for hand in LABELS:
            print(f"  {hand:10}", *(f"{sum(pair == (hand, one) for pair in said):4}" for one in LABELS))
        for group, pairs in groups.items():
            found = figures(pairs)
            print(f"  {group}: {found['same']} of {found['n']}, kappa {found['kappa']}, F1 {found['refusal_f1']}")
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
