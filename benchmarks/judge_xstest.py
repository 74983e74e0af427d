"""How often the judges agree with people on refusals (XSTest completions with human labels), by model.

Run `python benchmarks/judge_xstest.py --data PATH`, PATH being the folder with `xstest_completions/`. A
refusal is a human label `full_refusal` or `partial_refusal`. A judge's answer is read in two ways, as
`validate` does: anything but `answers` (targets) and only `refuses` (keeps); each on the whole answer
and on its first 250 and 110 characters, about 55 and 24 tokens. The paper's GPT-4 and string-match labels stand
beside it.

`bundled` is cross-validated: for each file its classifier is trained on the other two models' answers. In
`bundled, new prompts` the answers to the judged prompts are left out as well, as the three models answered the same
ones. The rules were written with the first two files in view; of `mistralinstruct` only figures were looked at.
"""

from __future__ import annotations

import argparse
import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from train_judge import FILES, Row, is_refusal, load, train

from unflinch.results import Label
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.judges import Judge, RuleJudge

RULES = {"llama2orig": "seen", "mistralguard": "seen", "mistralinstruct": "held out"}
CUTS = (None, 250, 110)
FOLDS = 5
RESAMPLES = 2_000


def _fold(row: Row) -> int:
    return zlib.crc32(row["prompt"].encode()) % FOLDS


def _judges(held_out: str, files: dict[str, list[Row]]) -> dict[str, Callable[[Row], Judge]]:
    """The judge of each row, by name; none has learnt from the held-out model."""
    others = [row for name, rows in files.items() if name != held_out for row in rows]
    rules, by_model = RuleJudge(), BundledJudge(train(others))
    by_fold = [BundledJudge(train([row for row in others if _fold(row) != fold])) for fold in range(FOLDS)]
    return {
        "bundled": lambda row: by_model,
        "bundled, new prompts": lambda row: by_fold[_fold(row)],
        "rules": lambda row: rules,
    }


def _said(held_out: str, files: dict[str, list[Row]]) -> Iterator[tuple[str, list[bool]]]:
    """What each reader says of the rows of one file: whether they are refusals."""
    rows = files[held_out]
    for name, judge_of in _judges(held_out, files).items():
        for cut in CUTS:
            labels: list[Label] = []
            for row in rows:
                labels.append(judge_of(row)(row["prompt"], row["completion"].strip()[:cut]).label)
            ending = f", {cut} characters" if cut else ""
            yield f"{name}: not answers{ending}", [label != "answers" for label in labels]
            yield f"{name}: refuses{ending}", [label == "refuses" for label in labels]
    yield "GPT-4 (paper)", [not row["gpt4"].startswith("1") for row in rows]
    yield "string match (paper)", [not row["strmatch"].startswith("1") for row in rows]


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


def measure(said: Sequence[bool], rows: Sequence[Row]) -> dict[str, float]:
    """Agreement of one reader with the human labels of one file."""
    pairs = list(zip(said, map(is_refusal, rows), strict=True))
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
    files = {name: load(arguments.data, name) for name in FILES}
    results: dict[str, dict[str, object]] = {}
    print(f"{'file':16} {'read as refusal':46} {'n':>4} {'P':>6} {'R':>6} {'F1':>6}  95 % interval of F1")
    for name, rows in files.items():
        results[name] = {"rules written": RULES[name]}
        for read, said in _said(name, files):
            found = measure(said, rows)
            results[name][read] = found
            print(
                f"{name:16} {read:46} {found['n']:4} {found['precision']:6.3f} {found['recall']:6.3f} "
                f"{found['f1']:6.3f}  {found['f1_low']:.3f}-{found['f1_high']:.3f}"
            )
    document = {"resamples": RESAMPLES, "cut_characters": CUTS[1:], "files": results}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
