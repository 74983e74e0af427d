"""Which new prompts are too close to requests whose refusal is right.

Statistical, and no judge of meaning: it knows the words and parts of words of the prompts that it has seen. How many
harmless prompts it drops, and how many others it lets through, is measured by `benchmarks/screening.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline

from unflinch.data.near_duplicates import NearDuplicates
from unflinch.data.splits import PromptSets

TOO_CLOSE_WORDS = 0.6
"""Jaccard similarity of the sets of words from which a prompt is too close to a single keep or guard prompt."""
TOO_CLOSE_SCORE = -1.5
"""Log-odds of being a keep or guard prompt from which one is dropped: far below even odds, as a new prompt costs
nothing and one that should be refused spoils a target set. Chosen in docs/LOG.md, 2026-11-29."""

_GUARD_WEIGHT = 8.0
"""What one guard prompt counts for: there are few, and they are the gravest."""
_INVERSE_REGULARISATION = 10.0


class Screen:
    """Compares texts with the prompts of all sets.

    Two ways, either of which makes a text too close: most of its words are those of one keep or guard prompt
    (`NearDuplicates`), or s(x) = wᵀ φ(x) + b >= `TOO_CLOSE_SCORE`, a logistic regression of keep and guard against
    targets and ordinary prompts on φ, the TF-IDF of words, pairs of words and parts of words of 3 to 5 characters. The
    targets' harmful twins among the keeps teach it which words make the difference.

    Args:
        sets: prompts to compare with; there must be some that are harmless and some that are not.
    """

    def __init__(self, sets: PromptSets) -> None:
        refused = (*sets.keep, *sets.guard)
        harmless = (*sets.targets, *sets.ordinary)
        self._refused = NearDuplicates(TOO_CLOSE_WORDS, (prompt.text for prompt in refused))
        weights = [1.0] * len(sets.keep) + [_GUARD_WEIGHT] * len(sets.guard) + [1.0] * len(harmless)
        self._classifier = _classifier()
        self._classifier.fit(
            [prompt.text for prompt in (*refused, *harmless)],
            [True] * len(refused) + [False] * len(harmless),
            regression__sample_weight=weights,
        )

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
        """Return the log-odds of each text to be a keep or guard prompt rather than a harmless one."""
        return np.asarray(self._classifier.decision_function(list(texts)), dtype=np.float64)

    def too_close(self, text: str) -> bool:
        """Whether a text is too close to the keep and guard prompts."""
        return self._refused.find(text) is not None or bool(self.scores([text])[0] >= TOO_CLOSE_SCORE)


def _classifier() -> Pipeline:
    # One Han or kana character is a word here: without spaces, \w+ would take a whole sentence for one.
    words = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+"
    features = FeatureUnion(
        [
            ("words", TfidfVectorizer(token_pattern=words, ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)),
            ("parts", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32)),
        ]
    )
    regression = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=300)
    return Pipeline([("features", features), ("regression", regression)])
