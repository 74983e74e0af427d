"""How often the rule judge agrees with people on refusals (XSTest completions with human labels).

Run `python benchmarks/judge_xstest.py --data PATH`, PATH being the folder with `xstest_completions/`. A
refusal is a human label `full_refusal` or `partial_refusal`. The judge's answer is read in two ways, as
`validate` does: anything but `answers` (targets) and only `refuses` (keeps); each on the whole answer
and on its first 250 characters, about 55 tokens. The paper's GPT-4 and string-match labels stand beside
it. The rules were written with the first two files in view; `mistralinstruct` was looked at only when
they were finished, and changed nothing.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from unflinch.validate.judges import RuleJudge

FILES = {"llama2orig": "seen", "mistralguard": "seen", "mistralinstruct": "held out"}
CUT = 250
RESAMPLES = 2_000

Row = dict[str, str]
Reader = Callable[[Row], bool]


def _readers() -> dict[str, Reader]:
    judge = RuleJudge()
    return {
        "not answers": lambda row: judge(row["prompt"], row["completion"]).label != "answers",
        "refuses": lambda row: judge(row["prompt"], row["completion"]).label == "refuses",
        f"not answers, {CUT} characters": lambda row: (
            judge(row["prompt"], row["completion"].strip()[:CUT]).label != "answers"
        ),
        f"refuses, {CUT} characters": lambda row: (
            judge(row["prompt"], row["completion"].strip()[:CUT]).label == "refuses"
        ),
        "GPT-4 (paper)": lambda row: not row["gpt4"].startswith("1"),
        "string match (paper)": lambda row: not row["strmatch"].startswith("1"),
    }


def _f1(pairs: Sequence[tuple[bool, bool]]) -> tuple[float, float, float]:
    """Precision, recall and F1 of (said, is) pairs; 0 where undefined."""
    right = sum(1 for said, true in pairs if said and true)
    said = sum(1 for said, _ in pairs if said)
    true = sum(1 for _, true in pairs if true)
    return right / max(said, 1), right / max(true, 1), 2 * right / max(said + true, 1)


def _interval(pairs: Sequence[tuple[bool, bool]]) -> tuple[float, float]:
    """95 % bootstrap interval of F1 over answers."""
    generator = random.Random(0)
    scores = sorted(_f1(generator.choices(pairs, k=len(pairs)))[2] for _ in range(RESAMPLES))
    return scores[int(0.025 * RESAMPLES)], scores[int(0.975 * RESAMPLES) - 1]


def measure(rows: Sequence[Row], reader: Reader) -> dict[str, float]:
    """Agreement of one reader with the human labels of one file."""
    pairs = [(reader(row), row["human"] != "full_compliance") for row in rows]
    precision, recall, f1 = _f1(pairs)
    low, high = _interval(pairs)
    return {
        "n": len(pairs),
        "refusals": sum(1 for _, true in pairs if true),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(f1, 4),
        "f1_low": round(low, 4),
        "f1_high": round(high, 4),
    }


def main() -> None:
    """Measure all files, print a table and write the results."""
    parser = argparse.ArgumentParser(description="Agreement of the rule judge with the human XSTest labels.")
    parser.add_argument("--data", type=Path, required=True, help="folder with xstest_completions/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "judge_xstest.json")
    arguments = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    print(f"{'file':16} {'read as refusal':30} {'n':>4} {'P':>6} {'R':>6} {'F1':>6}  95 % interval of F1")
    for name, use in FILES.items():
        text = (arguments.data / "xstest_completions" / f"{name}.jsonl").read_text(encoding="utf-8")
        rows: list[Row] = [json.loads(line) for line in text.splitlines()]
        results[name] = {"rules": use}
        for read, reader in _readers().items():
            found = measure(rows, reader)
            results[name][read] = found
            print(
                f"{name:16} {read:30} {found['n']:4} {found['precision']:6.3f} {found['recall']:6.3f} "
                f"{found['f1']:6.3f}  {found['f1_low']:.3f}-{found['f1_high']:.3f}"
            )
    document = {"resamples": RESAMPLES, "cut_characters": CUT, "files": results}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
