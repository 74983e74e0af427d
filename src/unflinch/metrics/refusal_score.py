"""How near a model is to refusing, differentiable and without generating anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_MIN_SEEN = 2
"""Openings seen less often in refusals say nothing."""
_OPENS = 0.5
"""A token opens refusals if at least this share of the answers that begin with it are refusals."""
_DECIDES = 0.9
"""An opening alone decides for a refusal if at least this share of the answers that begin with it are refusals."""
_SHARPNESS = 3.0
"""At 1 the score is the log-odds of the openings; from 3 on its sign agrees with greedy decoding almost always."""


Ids = Sequence[int]


@dataclass(frozen=True)
class Decision:
    """What a model has read where it decides whether to refuse."""

    ids: tuple[int, ...]
    """The prompt, followed by the path without its last token."""
    path: tuple[int, ...] = ()
    """How a refusal begins that only a later token decides; empty where the first token of the answer does."""

    @property
    def scored(self) -> int:
        """At how many of the last positions logits are wanted."""
        return max(1, len(self.path))


@dataclass(frozen=True)
class RefusalOpenings:
    """For every token, the share of the model's own answers beginning with it that are refusals."""

    weights: Float[Tensor, " vocab"]

    @property
    def tokens(self) -> Bool[Tensor, " vocab"]:
        """Which tokens open refusals; the likeliest ones where none does so more often than not."""
        return self.weights >= min(_OPENS, float(self.weights.max()))

    @property
    def deciding(self) -> Bool[Tensor, " vocab"]:
        """Which tokens open hardly anything but refusals; after others a later token decides."""
        return self.weights >= _DECIDES

    def score(self, logits: Float[Tensor, "prompts vocab"]) -> Float[Tensor, " prompts"]:
        """Return the refusal score at the decision position, in units of logits: above 0 the model refuses.

        Formula: s = (1/b) log sum_{v opens} exp(b z_v) - (1/b) log sum_{other v} exp(b z_v), b = 3: a smooth form of
        the best opening's logit minus that of the best other token.
        """
        opens = self.tokens.to(logits.device).nonzero()[:, 0]
        sharp = _SHARPNESS * logits.float()
        others = sharp.index_fill(1, opens, -torch.inf)  # half the time of indexing with a mask, forth and back
        scores: Tensor = (sharp.index_select(1, opens).logsumexp(-1) - others.logsumexp(-1)) / _SHARPNESS
        return scores

    def decision_scores(
        self, logits: Float[Tensor, "prompts scored vocab"], paths: Sequence[Ids]
    ) -> Float[Tensor, " prompts"]:
        """Return every prompt's refusal score: by its path where it has one, else by the first token of the answer.

        Args:
            logits: at the last positions of `Decision.ids`, as many as the longest path has tokens, at least one.
            paths: of the prompts.
        """
        scores = logits.new_empty(len(logits), dtype=torch.float32)
        first = [row for row, path in enumerate(paths) if not path]
        scores[first] = self.score(logits[first, -1])
        for row, path in enumerate(paths):
            if path:
                scores[row] = path_score(logits[row, -len(path) :], path)
        return scores


def path_score(logits: Float[Tensor, "tokens vocab"], path: Ids) -> Float[Tensor, ""]:
    """Return how surely greedy decoding writes a path, in units of logits: above 0 it does.

    Formula: s = -(1/b) log sum_t exp(-b s_t), b = 3, a smooth minimum over the path's tokens y_t of
    s_t = z_t(y_t) - (1/b) log sum_{v != y_t} exp(b z_t(v)).
    """
    sharp = _SHARPNESS * logits.float()
    own = torch.tensor(path, device=logits.device)[:, None]
    others = sharp.scatter(-1, own, -torch.inf).logsumexp(-1)
    scores = sharp.gather(-1, own)[:, 0] - others
    return -(-scores).logsumexp(-1) / _SHARPNESS


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
