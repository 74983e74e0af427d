"""How far a patched model's distribution moves on prompts whose answers must not change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.errors import NotFiniteError
from unflinch.metrics.kl import kl_divergence
from unflinch.models.forward import logits_from_hidden, scored_hidden

_ROWS = 8
"""Rows whose logits over the whole vocabulary are held at once."""


@dataclass(frozen=True)
class AnsweredSequence:
    """An ordinary prompt with the base model's own answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def forced(self) -> tuple[int, ...]:
        """Tokens whose last `len(answer)` positions predict the answer."""
        return (*self.prompt, *self.answer[:-1])


@dataclass(frozen=True)
class SequenceKL:
    """KL(base || patched) at every scored position of every prompt, in nats; NaN beyond a shorter answer's end."""

    positions: Float[Tensor, "prompts scored"]
    """Right-aligned: the last column is the last token of every answer."""
    flips: Bool[Tensor, "prompts scored"]
    """Scored positions whose most likely token changed."""

    @property
    def flipped(self) -> int:
        """How many scored positions have another most likely token."""
        return int(self.flips.sum())

    @property
    def scored(self) -> int:
        """How many positions are scored."""
        return int((~self.positions.isnan()).sum())

    @property
    def first_token(self) -> list[float]:
        """KL at the decision position, prompt by prompt."""
        rows: list[float] = []
        for row in self.positions:
            rows.append(float(row[~row.isnan()][0]))
        return rows

    @property
    def sequence_mean(self) -> list[float]:
        """Mean KL per token, prompt by prompt."""
        return [float(row[~row.isnan()].mean()) for row in self.positions]


@torch.inference_mode()
def base_states(model: PreTrainedModel, sequences: Sequence[AnsweredSequence]) -> Float[Tensor, "prompts scored width"]:
    """Return the base model's final hidden states that predict the answers, right-aligned."""
    return _states(model, sequences)


@torch.inference_mode()
def sequence_kl(
    model: PreTrainedModel,
    sequences: Sequence[AnsweredSequence],
    base: Float[Tensor, "prompts scored width"],
    changed: Callable[[], AbstractContextManager[object]],
    advance: Callable[[int], None] | None = None,
    head_changes: bool = False,
) -> SequenceKL:
    """Return the exact per-position KL along the base model's answers.

    Args:
        model: the base model.
        sequences: prompts with the base model's answers.
        base: `base_states` of the same sequences.
        changed: context in which the model is patched (or ablated).
        advance: called with the number of finished prompts.
        head_changes: whether the output head is among what is changed, so that the base model's is copied first.

    Raises:
        NotFiniteError: if a KL is no finite number.
    """
    longest = base.shape[1]
    head = copy.deepcopy(model.get_output_embeddings()) if head_changes else None
    positions = torch.full(base.shape[:2], torch.nan)
    flips = torch.zeros(base.shape[:2], dtype=torch.bool)
    with changed():
        patched = _states(model, sequences)
        for start in range(0, len(sequences), _ROWS):
            rows = slice(start, start + _ROWS)
            before, after = logits_from_hidden(model, base[rows], head), logits_from_hidden(model, patched[rows])
            kl = kl_divergence(before, after).cpu()
            flipped = (before.argmax(-1) != after.argmax(-1)).cpu()
            for row, sequence in enumerate(sequences[rows]):
                own = len(sequence.answer)
                if not kl[row, longest - own :].isfinite().all():
                    raise NotFiniteError(model.dtype)
                positions[start + row, longest - own :] = kl[row, longest - own :]
                flips[start + row, longest - own :] = flipped[row, longest - own :]
            if advance:
                advance(len(before))
    return SequenceKL(positions, flips)


def _states(model: PreTrainedModel, sequences: Sequence[AnsweredSequence]) -> Float[Tensor, "prompts scored width"]:
    lengths = [len(s.answer) for s in sequences]
    return scored_hidden(model, [s.forced for s in sequences], max(lengths), lengths=lengths)
