"""KL along answers equals a loop over single unpadded sequences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from tiny_models import own_logits, random_ids, tiny_model
from tiny_patches import random_patch

from unflinch.errors import ModelError
from unflinch.patch.attach import attached
from unflinch.validate.kl_distribution import AnsweredSequence, base_states, sequence_kl

START = (11, 7, 5, 3, 40, 41)
PROMPTS = random_ids((8, 13, 7, 10, 9), START) + random_ids((4, 6, 15, 5), seed=2) + random_ids((1,), seed=4)
LENGTHS = (5, 1, 3, 5, 2, 4, 1, 2, 3, 2)
"""Of the answers: more rows than one chunk, and no two neighbours alike."""


def answered() -> list[AnsweredSequence]:
    answers = random_ids(LENGTHS, seed=3)
    return [AnsweredSequence(p, a) for p, a in zip(PROMPTS, answers, strict=True)]


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_it_equals_a_loop_over_single_unpadded_sequences(family: str) -> None:
    model, sequences = tiny_model(family), answered()
    patch = random_patch(model)
    found = sequence_kl(model, sequences, base_states(model, sequences), lambda: attached(model, patch))
    flipped = scored = 0
    for row, sequence in enumerate(sequences):
        ids, own = (*sequence.prompt, *sequence.answer), len(sequence.answer)
        before = own_logits(model, ids).double()[-own - 1 : -1]
        with attached(model, patch):
            after = own_logits(model, ids).double()[-own - 1 : -1]
        expected = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1)
        assert int((~found.positions[row].isnan()).sum()) == own
        torch.testing.assert_close(found.positions[row, -own:].double(), expected, rtol=2e-3, atol=2e-5)
        assert found.first_token[row] == pytest.approx(expected[0].item(), rel=2e-3, abs=2e-5)
        assert found.sequence_mean[row] == pytest.approx(expected.mean().item(), rel=2e-3, abs=2e-5)
        flipped += int((before.argmax(-1) != after.argmax(-1)).sum())
        scored += own
    assert (found.flipped, found.scored) == (flipped, scored)
    assert flipped > 0 and max(found.first_token) > 1e-3  # the patch does something


def test_a_model_that_overflows_is_told_and_not_left_out() -> None:
    model, sequences = tiny_model("qwen2"), answered()
    base, norm = base_states(model, sequences), model.get_decoder().norm.weight

    @contextmanager
    def overflowing() -> Iterator[None]:
        with torch.no_grad():
            before = norm.clone()
            norm[0] = torch.inf
            yield
            norm.copy_(before)

    with pytest.raises(ModelError, match="overflows.*dtype float32"):
        sequence_kl(model, sequences, base, overflowing)


def test_a_model_that_is_not_changed_moves_by_nothing() -> None:
    model, sequences = tiny_model("qwen2"), answered()
    finished: list[int] = []
    found = sequence_kl(model, sequences, base_states(model, sequences), nullcontext, finished.append)
    assert max(found.first_token) == max(found.sequence_mean) == 0
    assert found.flipped == 0
    assert sum(finished) == len(sequences)


def test_what_a_change_of_the_output_head_does_is_part_of_it() -> None:
    model, sequences = tiny_model("qwen2"), answered()
    head = model.get_output_embeddings().weight

    @contextmanager
    def halved() -> Iterator[None]:
        original = head.detach().clone()
        with torch.no_grad():
            head.copy_(original / 2)
            yield
            head.copy_(original)

    found = sequence_kl(model, sequences, base_states(model, sequences), halved, head_changes=True)
    for row, sequence in enumerate(sequences):
        logits = own_logits(model, (*sequence.prompt, *sequence.answer)).double()[-len(sequence.answer) - 1]
        expected = (logits.softmax(-1) * (logits.log_softmax(-1) - (logits / 2).log_softmax(-1))).sum()
        assert found.first_token[row] == pytest.approx(expected.item(), rel=2e-3, abs=2e-5)
    assert max(found.first_token) > 1e-3
