"""Logits computed in parts, padded and behind a shared prefix equal the model's own, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import KNOWN, READ_OFF, own_logits, random_ids, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.errors import ArchitectureError
from unflinch.models import forward
from unflinch.models.batches import (
    MIN_SHARED_PREFIX,
    PaddedBatch,
    length_sorted_batches,
    pad_batch,
    shared_prefix_length,
)
from unflinch.models.forward import can_share_prefix, check_forward, logits_from_hidden, scored_hidden

START = (11, 7, 5, 3, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49)
"""Longer than the beginning by which batches are formed, and than the sliding window of the tiny models."""
LENGTHS = (20, 17, 31, 18, 25)
SHARING = ("llama", "qwen2", "qwen3", "smollm3", "olmo2", "granite")
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def expected_logits(model: PreTrainedModel, sequences: list[tuple[int, ...]], scored: int) -> Tensor:
    return torch.stack([own_logits(model, ids)[-scored:] for ids in sequences])


def prefix_lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the shared prefix of every batch from here on."""
    seen: list[int] = []
    original = forward.run_decoder

    def watching(model: PreTrainedModel, batch: PaddedBatch, prefixes: forward.Prefixes, **options: Any) -> object:
        seen.append(batch.prefix.shape[1])
        return original(model, batch, prefixes, **options)

    monkeypatch.setattr(forward, "run_decoder", watching)
    return seen


@pytest.mark.parametrize(
    ("family", "batch_tokens"),
    [*((family, 40) for family in (*KNOWN, *READ_OFF)), ("qwen2", 1), ("gemma2", 1), ("qwen2", 4096), ("gemma2", 4096)],
)
def test_logits_in_parts_equal_the_models_own_in_the_order_given(family: str, batch_tokens: int) -> None:
    model = tiny_model(family)
    sequences = random_ids((5, 23, 3, 12, 9))
    with torch.no_grad():
        logits = logits_from_hidden(model, scored_hidden(model, sequences, 3, batch_tokens=batch_tokens))
    torch.testing.assert_close(logits, expected_logits(model, sequences, 3), **TOLERANCE)


@pytest.mark.parametrize("family", KNOWN)
def test_a_common_start_does_not_change_the_logits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    sequences = random_ids(LENGTHS, START)
    seen = prefix_lengths(monkeypatch)
    with torch.no_grad():
        logits = logits_from_hidden(model, scored_hidden(model, sequences, 2))
    torch.testing.assert_close(logits, expected_logits(model, sequences, 2), **TOLERANCE)
    assert seen == ([len(START)] if family in SHARING else [0])


def test_a_start_that_all_batches_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, reads = tiny_model("qwen2"), []
    decoder = type(model.get_decoder())
    original = decoder.forward

    def counting(self: object, input_ids: Tensor, **arguments: object) -> object:
        reads.append(tuple(input_ids.shape))
        return original(self, input_ids=input_ids, **arguments)

    monkeypatch.setattr(decoder, "forward", counting)
    sequences = random_ids(LENGTHS * 2, START)
    with torch.no_grad():
        scored_hidden(model, sequences, 1, batch_tokens=70)
    batches = len(list(length_sorted_batches(sequences, 70)))
    assert batches > 3 and reads.count((1, len(START))) == 1 and len(reads) == batches + 1


def test_one_layer_with_a_sliding_window_is_enough_to_share_nothing() -> None:
    assert can_share_prefix(tiny_model("qwen2"))
    windowed = {"use_sliding_window": True, "sliding_window": 8}
    assert not can_share_prefix(tiny_model("qwen2", **windowed, max_window_layers=2))


def test_a_rotation_that_depends_on_the_length_shares_nothing() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not can_share_prefix(tiny_model("llama", rope_parameters=rope))
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert can_share_prefix(tiny_model("llama", rope_parameters=linear))


@pytest.mark.parametrize("family", READ_OFF)
def test_nothing_is_shared_by_a_family_that_is_not_known(family: str) -> None:
    assert not can_share_prefix(tiny_model(family))


@pytest.mark.parametrize("family", SHARING)
def test_the_gradient_through_a_shared_prefix_equals_the_gradient_row_by_row(family: str) -> None:
    model = tiny_model(family)
    weights = [
        model.get_submodule("model.layers.0.self_attn.k_proj").weight,
        model.get_submodule("model.layers.1.mlp.down_proj").weight,
        model.get_submodule("model.layers.2.self_attn.v_proj").weight,
    ]
    for weight in weights:
        weight.requires_grad_(True)
    sequences = random_ids(LENGTHS, START)
    losses = [
        logits_from_hidden(model, scored_hidden(model, sequences, 2)).square().sum(),
        sum(model(input_ids=torch.tensor([ids])).logits[0, -2:].square().sum() for ids in sequences),
    ]
    ours, own = (torch.autograd.grad(loss, weights) for loss in losses)
    for gradient, reference in zip(ours, own, strict=True):
        assert reference.abs().max() > 0
        torch.testing.assert_close(gradient, reference, rtol=2e-3, atol=1e-4 * float(reference.abs().max()))


@pytest.mark.parametrize("family", KNOWN)
def test_padding_leaves_no_trace_in_the_gradient(family: str) -> None:
    model = tiny_model(family)
    weight = model.get_submodule("model.layers.0.mlp.down_proj").weight.requires_grad_(True)
    sequences = random_ids((4, 19))
    padded = logits_from_hidden(model, scored_hidden(model, sequences, 1)).square().sum()
    alone = sum(model(input_ids=torch.tensor([ids])).logits[0, -1].square().sum() for ids in sequences)
    ours, own = (torch.autograd.grad(loss, weight)[0] for loss in (padded, alone))
    torch.testing.assert_close(ours, own, rtol=2e-3, atol=1e-4 * float(own.abs().max()))


def test_the_head_is_applied_in_its_own_type_and_answers_in_float32() -> None:
    model = tiny_model("granite", dtype=torch.bfloat16)
    sequences = random_ids((6, 9))
    with torch.no_grad():
        logits = logits_from_hidden(model, scored_hidden(model, sequences, 1))
    assert logits.dtype == torch.float32
    reference = expected_logits(model, sequences, 1)
    torch.testing.assert_close(logits, reference, rtol=0.05, atol=0.05 * float(reference.abs().max()))


def test_a_padding_id_outside_the_vocabulary_does_no_harm() -> None:
    model = tiny_model("llama")
    model.config.pad_token_id = -1
    sequences = random_ids((4, 9))
    with torch.no_grad():
        logits = logits_from_hidden(model, scored_hidden(model, sequences, 1))
    torch.testing.assert_close(logits, expected_logits(model, sequences, 1), **TOLERANCE)


def test_a_sequence_shorter_than_what_is_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="as many tokens as are scored, up to 4"):
        scored_hidden(tiny_model("llama"), random_ids((8, 3)), 4)
    with pytest.raises(ValueError, match="as many tokens as are scored, up to 4"):
        scored_hidden(tiny_model("llama"), random_ids((8, 3)), 4, lengths=(4, 4))


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
@pytest.mark.parametrize("start", [(), START], ids=["without a common start", "with a common start"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_positions_that_count_are_right_where_answers_differ_in_length(
    family: str, start: tuple[int, ...], batch_tokens: int
) -> None:
    model = tiny_model(family)
    sequences = random_ids((3 + len(start), 16 + len(start), 9 + len(start)), start)
    lengths = (2, 9, 5)
    with torch.no_grad():
        hidden = scored_hidden(model, sequences, 9, lengths=lengths, batch_tokens=batch_tokens)
        assert hidden.shape[:2] == (3, 9)
        for row, ids, length in zip(hidden, sequences, lengths, strict=True):
            logits = logits_from_hidden(model, row[-length:])
            torch.testing.assert_close(logits, own_logits(model, ids)[-length:], **TOLERANCE)


def test_tuples_and_lists_of_ids_may_be_mixed() -> None:
    assert shared_prefix_length([(1, 2, 3, 4, 5, 6), [1, 2, 3, 4, 9, 6]], 1) == 4


tokens = st.integers(0, 2)
id_lists = st.lists(st.lists(tokens, min_size=1, max_size=16).map(tuple), min_size=1, max_size=12)


@given(rows=id_lists, common=st.lists(tokens, max_size=8).map(tuple), reserve=st.integers(1, 3))
def test_the_shared_prefix_is_the_longest_common_start_outside_the_reserve(
    rows: list[tuple[int, ...]], common: tuple[int, ...], reserve: int
) -> None:
    sequences = [common + row for row in rows]
    columns = list(zip(*sequences, strict=False))
    alike = next((i for i, column in enumerate(columns) if len(set(column)) > 1), len(columns))
    longest = min(alike, min(len(s) for s in sequences) - reserve)
    expected = longest if len(sequences) > 1 and longest >= MIN_SHARED_PREFIX else 0
    assert shared_prefix_length(sequences, reserve) == expected


@given(rows=id_lists, common=st.lists(tokens, max_size=8).map(tuple), share=st.booleans())
def test_a_padded_batch_holds_every_token_once_at_its_own_position(
    rows: list[tuple[int, ...]], common: tuple[int, ...], share: bool
) -> None:
    sequences = [common + row for row in rows]
    batch = pad_batch(sequences, 1, 99, torch.device("cpu"), share)
    prefix = batch.prefix[0].tolist()
    for row, sequence in enumerate(sequences):
        own = batch.attention_mask[row, len(prefix) :].bool()
        assert prefix + batch.input_ids[row][own].tolist() == list(sequence)
        assert batch.position_ids[row][own].tolist() == list(range(len(prefix), len(sequence)))
        assert set(batch.input_ids[row][~own].tolist()) <= {99}
        assert own[-1]


@given(rows=st.lists(st.lists(tokens, max_size=20).map(tuple), max_size=30), limit=st.integers(1, 80))
def test_batches_hold_every_index_once_and_stay_below_the_token_limit(rows: list[tuple[int, ...]], limit: int) -> None:
    batches = list(length_sorted_batches(rows, limit))
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) == 1 or max(len(rows[i]) for i in batch) * len(batch) <= limit


def test_sequences_that_begin_alike_come_in_batches_of_their_own() -> None:
    sequences = random_ids((20, 30, 16), START) + random_ids((20, 21))
    batches = [set(batch) for batch in length_sorted_batches(sequences, 4096)]
    assert batches == [{0, 1, 2}, {3, 4}]


@pytest.mark.parametrize("family", [*KNOWN, *READ_OFF])
def test_the_check_of_unknown_families_passes_where_the_logits_agree(family: str) -> None:
    check_forward(tiny_model(family))


def test_the_check_of_unknown_families_allows_for_the_rounding_of_bfloat16() -> None:
    check_forward(tiny_model("gpt_neox", dtype=torch.bfloat16))


def test_the_check_of_unknown_families_refuses_logits_that_are_scaled_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("cohere")
    original = model.forward

    def scaled(*args: object, **kwargs: object) -> object:
        output = original(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    monkeypatch.setattr(model, "forward", scaled)
    with pytest.raises(ArchitectureError, match="'cohere' computes its logits in a way"):
        check_forward(model)


def test_the_check_of_unknown_families_refuses_a_model_that_cannot_be_run_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("stablelm")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with pytest.raises(ArchitectureError, match="'stablelm' cannot be run in parts"):
        check_forward(model)


def test_the_check_of_unknown_families_refuses_a_state_that_is_kept_outside_the_cache() -> None:
    with pytest.raises(ArchitectureError, match="'mamba2' does not go on from a cache"):
        check_forward(tiny_model("mamba2"))
