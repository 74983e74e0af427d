"""Collected states are those of transformers at the last token, whatever the batches."""

from __future__ import annotations

import pytest
import torch
from tiny_models import DEPTH, KNOWN, READ_OFF, WIDTH, random_ids, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.activations.collect import collect_activations
from unflinch.models.architecture import architecture_of
from unflinch.models.forward import can_share_prefix

START = (11, 7, 5, 3, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49)
LENGTHS = (20, 17, 31, 18)
FINAL_NORM = {"gpt_neox": "gpt_neox.final_layer_norm"}


def reference(model: PreTrainedModel, ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return what transformers says of the last token: the states behind all layers but one, and the normed last."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    return torch.stack([state[0, -1] for state in states[1:-1]]), states[-1][0, -1]


@pytest.mark.parametrize("family", [*KNOWN, *READ_OFF])
@pytest.mark.parametrize("start", [(), START], ids=["without a common start", "with a common start"])
def test_states_equal_the_hidden_states_of_transformers(family: str, start: tuple[int, ...]) -> None:
    model = tiny_model(family)
    sequences = random_ids(LENGTHS, start) + random_ids((3, 9), seed=1)
    states = collect_activations(model, architecture_of(model), sequences).states
    assert states.shape == (len(sequences), DEPTH, WIDTH)
    norm = model.get_submodule(FINAL_NORM.get(family, "model.norm"))
    for row, ids in zip(states, sequences, strict=True):
        inner, last = reference(model, ids)
        torch.testing.assert_close(row[:-1], inner, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(norm(row[-1]), last, rtol=1e-4, atol=2e-5)


def test_batches_do_not_matter() -> None:
    model = tiny_model("qwen2")
    assert can_share_prefix(model)
    sequences = random_ids(LENGTHS, START) + random_ids((3, 9), seed=1)
    whole = collect_activations(model, architecture_of(model), sequences).states
    alone = collect_activations(model, architecture_of(model), sequences, batch_tokens=1).states
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=2e-5)


def test_states_are_float32_and_can_stand_in_an_optimisation() -> None:
    model = tiny_model("qwen2", dtype=torch.bfloat16)
    states = collect_activations(model, architecture_of(model), random_ids((5, 8))).states
    assert (states.dtype, states.device.type, states.requires_grad) == (torch.float32, "cpu", False)
    weight = torch.zeros(WIDTH, requires_grad=True)
    (gradient,) = torch.autograd.grad((states @ weight).sum(), weight)
    torch.testing.assert_close(gradient, states.sum((0, 1)))


def test_every_prompt_is_reported_once_as_finished() -> None:
    finished: list[int] = []
    model = tiny_model("llama")
    collect_activations(model, architecture_of(model), random_ids(LENGTHS), batch_tokens=40, advance=finished.append)
    assert sum(finished) == len(LENGTHS)
    assert len(finished) > 1


def test_no_prompts_give_no_states() -> None:
    model = tiny_model("llama")
    assert collect_activations(model, architecture_of(model), []).states.shape == (0, DEPTH, WIDTH)
