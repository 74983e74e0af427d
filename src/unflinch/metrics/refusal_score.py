"""How near a model is to refusing, differentiable and without generating anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_MIN_SEEN = 2
"""Openings seen less often in refusals say nothing."""


@dataclass(frozen=True)
class RefusalOpenings:
    """For every token, the share of the model's own answers beginning with it that are refusals."""

    weights: Float[Tensor, " vocab"]

    def score(self, logits: Float[Tensor, "prompts vocab"]) -> Float[Tensor, " prompts"]:
        """Return the refusal score at the decision position: log-odds that the answer is a refusal.

        Formula: s = log P - log(1 - P), P = sum_v w(v) softmax(logits)(v), P kept inside (1e-6, 1 - 1e-6).
        """
        probability = (logits.float().softmax(-1) @ self.weights.to(logits.device)).clamp(1e-6, 1 - 1e-6)
        return torch.log(probability) - torch.log1p(-probability)


def mine_openings(
    answers: Sequence[Sequence[int]], refused: Sequence[bool], vocabulary: int, prior: float = 0.5
) -> RefusalOpenings:
    """Return the refusal openings of a model, mined from its own answers.

    Formula: w(v) = refusals that begin with v / (answers that begin with v + prior), 0 for rare openings.

    Args:
        answers: token ids of the base model's answers.
        refused: whether each is a refusal.
        vocabulary: number of logits.
        prior: pseudo-count of answers.

    Raises:
        ValueError: if no answer is a refusal.
    """
    seen = Counter(answer[0] for answer in answers if answer)
    refusals = Counter(answer[0] for answer, r in zip(answers, refused, strict=True) if answer and r)
    weights = torch.zeros(vocabulary)
    for token, count in refusals.items():
        if count >= min(_MIN_SEEN, max(refusals.values())):
            weights[token] = count / (seen[token] + prior)
    if not refusals:
        raise ValueError("the model refused nothing, so its refusals have no opening")
    return RefusalOpenings(weights)
