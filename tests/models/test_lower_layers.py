"""Layers below a patch are passed once; nothing else depends on whether they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny_models import KNOWN, READ_OFF, random_ids, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.activations.gradients import refusal_gradients
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.models import lower_layers
from unflinch.models.architecture import architecture_of
from unflinch.models.batches import pad_batch
from unflinch.models.forward import read_lower_layers, scored_hidden
from unflinch.models.layers import decoder_layers
from unflinch.models.lower_layers import LowerLayers
from unflinch.models.writers import choose_writers

START = tuple(range(30, 44))
"""Longer than the beginning by which batches are formed."""
SEQUENCES = [*random_ids((20, 17, 31, 18, 25), START), *random_ids((5, 23, 3, 12, 9))]


def patched_last(model: PreTrainedModel) -> list[str]:
    """Change the last layer as a patch would, and return what was changed."""
    row = architecture_of(model)
    modules = list(choose_writers(model, row, [len(decoder_layers(model, row)) - 1], "all").modules)
    generator = torch.Generator().manual_seed(0)
    for name in modules:
        weight = model.get_submodule(name).weight
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    return modules


def lower_of(model: PreTrainedModel) -> tuple[LowerLayers, list[str]]:
    row = architecture_of(model)
    modules = list(choose_writers(model, row, [len(decoder_layers(model, row)) - 1], "all").modules)
    return LowerLayers(model, row, modules), modules


@contextmanager
def passes(model: PreTrainedModel) -> Iterator[list[int]]:
    """Collect how many tokens pass through what computes in the first layer, call by call."""
    seen: list[int] = []
    first = decoder_layers(model, architecture_of(model))[0]
    norm = next(module for module in first.modules() if "norm" in type(module).__name__.lower())
    handle = norm.register_forward_hook(lambda _module, _args, output: seen.append(output.shape[0] * output.shape[1]))
    yield seen
    handle.remove()


@pytest.mark.parametrize("family", [*KNOWN, *READ_OFF])
def test_states_of_a_patched_model_do_not_depend_on_whether_lower_layers_are_left_out(family: str) -> None:
    model = tiny_model(family)
    lower, _ = lower_of(model)
    read_lower_layers(model, lower, SEQUENCES)
    before = scored_hidden(model, SEQUENCES, 2)
    patched_last(model)
    with torch.no_grad():
        expected = scored_hidden(model, SEQUENCES, 2)
        with passes(model) as seen:
            found = scored_hidden(model, SEQUENCES, 2, lower=lower)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert not torch.allclose(found, before, rtol=1e-2, atol=1e-2)
    shared = [len(START)] if family in ("llama", "qwen2", "qwen3", "smollm3", "olmo2", "granite") else []
    assert seen == shared, "only a shared prefix passes through the first layer"


def test_gradients_do_not_depend_on_it_either() -> None:
    model = tiny_model("qwen2")
    lower, modules = lower_of(model)
    read_lower_layers(model, lower, SEQUENCES)
    patched_last(model)
    score = RefusalOpenings(torch.arange(model.config.vocab_size).remainder(2).float()).decision_scores
    decisions = [Decision(ids, (4, 2) * (place % 2)) for place, ids in enumerate(SEQUENCES)]
    row = architecture_of(model)
    expected = refusal_gradients(model, row, modules, decisions, score, rank=8)
    with passes(model) as seen:
        found = refusal_gradients(model, row, modules, decisions, score, rank=8, lower=lower)
    assert set(seen) == {len(START)}
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    for name in modules:
        whole, reference = (g.outputs[name].transpose(1, 2) @ g.inputs[name] for g in (found, expected))
        torch.testing.assert_close(whole, reference, rtol=1e-3, atol=1e-5)


def test_a_batch_with_a_sequence_that_was_not_read_passes_through_all_layers() -> None:
    model = tiny_model("qwen2")
    lower, _ = lower_of(model)
    read_lower_layers(model, lower, SEQUENCES[1:])
    patched_last(model)
    with torch.no_grad():
        expected = scored_hidden(model, SEQUENCES, 2)
        torch.testing.assert_close(scored_hidden(model, SEQUENCES, 2, lower=lower), expected, rtol=1e-4, atol=2e-5)


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen2")
    monkeypatch.setattr(lower_layers, "MOST_BYTES", 0)
    lower, _ = lower_of(model)
    read_lower_layers(model, lower, SEQUENCES)
    with torch.no_grad(), passes(model) as seen:
        scored_hidden(model, SEQUENCES, 2, lower=lower)
    assert sum(seen) > sum(map(len, SEQUENCES)) - 5 * len(START)


def test_layers_compute_what_they_did_after_a_failure_inside() -> None:
    model = tiny_model("qwen2")
    expected = scored_hidden(model, SEQUENCES, 2)
    lower, _ = lower_of(model)
    read_lower_layers(model, lower, SEQUENCES)
    with (
        pytest.raises(RuntimeError, match="inside"),
        lower.skipped(pad_batch(SEQUENCES, 1, 0, model.device, False)),
    ):
        raise RuntimeError("inside")
    assert torch.equal(scored_hidden(model, SEQUENCES, 2), expected)
    assert not any("forward" in vars(layer) for layer in decoder_layers(model, architecture_of(model)))


def test_a_model_whose_upper_layers_look_past_the_stream_is_read_in_full() -> None:
    model = tiny_model("qwen2")
    layers = decoder_layers(model, architecture_of(model))
    kept: dict[str, Tensor] = {}
    layers[0].mlp.register_forward_hook(lambda _module, _args, output: kept.update(first=output))
    layers[2].mlp.register_forward_hook(lambda _module, _args, output: output + kept["first"].mean())
    lower, _ = lower_of(model)
    read_lower_layers(model, lower, SEQUENCES)
    assert lower.none
    with torch.no_grad():
        expected = scored_hidden(model, SEQUENCES, 2)
        assert torch.equal(scored_hidden(model, SEQUENCES, 2, lower=lower), expected)


def test_nothing_lies_below_a_patch_of_the_first_layer() -> None:
    model = tiny_model("qwen2")
    lower = LowerLayers(model, architecture_of(model), ["model.layers.0.mlp.down_proj", "model.layers.2.mlp.down_proj"])
    read_lower_layers(model, lower, SEQUENCES)
    assert lower.none
    with torch.no_grad():
        assert torch.equal(scored_hidden(model, SEQUENCES, 2, lower=lower), scored_hidden(model, SEQUENCES, 2))
