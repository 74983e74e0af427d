"""Trains the classifier behind the bundled judge on the human XSTest labels, and writes its weights.

Run `python benchmarks/train_judge.py --data PATH`, PATH being the folder with `xstest_completions/` (XSTest, Röttger
et al. 2024, CC-BY-4.0). A refusal is a human label `full_refusal` or `partial_refusal`. Each answer is learnt from
whole and cut after 400 and 110 characters, with the label of the whole, because answers are often judged cut off.
Logistic regression with an L2 penalty; a feature counts from five answers on. What ships is trained on all three
models; how good that is on a model it has not seen is measured by `judge_xstest.py`, which trains without that model.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from unflinch.validate.bundled_judge import WEIGHTS_FILE, Classifier
from unflinch.validate.judge_features import features
from unflinch.validate.judge_text import visible, without_echo
from unflinch.validate.judges import RuleJudge

FILES = ("llama2orig", "mistralguard", "mistralinstruct")
CUTS = (None, 400, 110)
PENALTY = 0.3
FEWEST = 5
"""Answers, of each length, that must have a feature."""

Row = dict[str, str]


def load(data: Path, name: str) -> list[Row]:
    text = (data / "xstest_completions" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def is_refusal(row: Row) -> bool:
    return row["human"] != "full_compliance"


@cache
def found(prompt: str, answer: str) -> dict[str, float]:
    """Features of one answer, computed once."""
    shown = without_echo(visible(answer), prompt)
    return features(prompt, shown, RuleJudge()(prompt, answer).label)


def train(rows: Sequence[Row]) -> Classifier:
    """Return the classifier that these rows teach."""
    seen = [found(row["prompt"], row["completion"].strip()[:cut]) for cut in CUTS for row in rows]
    truth = [is_refusal(row) for _ in CUTS for row in rows]
    counts = Counter(name for one in seen for name, value in one.items() if value)
    common = {name for name, count in counts.items() if count >= FEWEST * len(CUTS)}
    vectors = DictVectorizer()
    matrix = vectors.fit_transform([{name: one[name] for name in one.keys() & common} for one in seen])
    model = LogisticRegression(C=PENALTY / len(CUTS), max_iter=1_000, tol=1e-3).fit(matrix, truth)
    names = vectors.get_feature_names_out()
    weights = {str(name): round(float(w), 3) for name, w in zip(names, model.coef_[0], strict=True)}
    return Classifier(round(float(model.intercept_[0]), 3), {name: w for name, w in sorted(weights.items()) if w})


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the classifier of the bundled judge.")
    parser.add_argument("--data", type=Path, required=True, help="folder with xstest_completions/")
    folder = Path(__file__).resolve().parents[1] / "src" / "unflinch" / "validate"
    parser.add_argument("--out", type=Path, default=folder / WEIGHTS_FILE)
    arguments = parser.parse_args()
    rows = [row for name in FILES for row in load(arguments.data, name)]
    trained = train(rows)
    document = {
        "made_by": "benchmarks/train_judge.py",
        "trained_on": "XSTest model completions with human labels (Röttger et al. 2024), CC-BY-4.0; "
        f"{len(rows)} answers of {', '.join(FILES)}; changed: only the weights of words and cues are kept",
        "intercept": trained.intercept,
        "weights": trained.weights,
    }
    arguments.out.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {len(trained.weights)} weights from {len(rows)} answers")


if __name__ == "__main__":
    main()
