"""What a hook shows or changes inside its block is right there, and gone bit for bit behind it."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from tiny_models import DEPTH, KNOWN, WIDTH, own_logits, random_ids, tiny_model
from torch import Tensor, nn

from unflinch.models.architecture import architecture_of
from unflinch.models.hooks import ablated_direction, recorded_inputs, recorded_layer_outputs
from unflinch.models.layers import blocks_of, decoder_layers

IDS = random_ids((13,))[0]
PLAIN = ("llama", "qwen2", "qwen3", "mistral", "smollm3", "granite", "phi3")
"""Families whose writers write into the residual stream without a norm behind them."""


def some_direction() -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(5)) * 3


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_ablation_equals_projecting_the_direction_out_of_embedding_and_writer_weights(
    family: str, strength: float
) -> None:
    model, edited = tiny_model(family), tiny_model(family)
    architecture = architecture_of(model)
    unit = some_direction() / some_direction().norm()
    projection = torch.eye(WIDTH) - strength * torch.outer(unit, unit)
    embedding = edited.get_input_embeddings()
    embedding.weight = nn.Parameter(embedding.weight @ projection)  # a new tensor: a tied head keeps the old one
    for layer in decoder_layers(edited, architecture):
        for block in blocks_of(layer, architecture):
            writer = layer.get_submodule(block.writer)
            writer.weight.copy_(projection @ writer.weight)
    with ablated_direction(model, architecture, some_direction(), strength):
        ablated = own_logits(model, IDS)
    torch.testing.assert_close(ablated, own_logits(edited, IDS), rtol=1e-4, atol=2e-5)
    assert (ablated - own_logits(model, IDS)).abs().max() > 1e-2


@pytest.mark.parametrize("family", KNOWN)
def test_no_layer_leaves_anything_along_an_ablated_direction(family: str) -> None:
    model = tiny_model(family)
    architecture = architecture_of(model)
    unit = some_direction() / some_direction().norm()
    with recorded_layer_outputs(model, architecture) as before:
        own_logits(model, IDS)
    with ablated_direction(model, architecture, some_direction()), recorded_layer_outputs(model, architecture) as after:
        own_logits(model, IDS)
    assert all((output @ unit).abs().max() > 1e-2 for output in before)
    for output in after:
        assert (output @ unit).abs().max() < 1e-5 * output.norm(dim=-1).max()


@pytest.mark.parametrize("family", KNOWN)
def test_logits_are_bit_equal_behind_an_ablation_also_after_an_exception(family: str) -> None:
    model = tiny_model(family)
    architecture = architecture_of(model)
    base = own_logits(model, IDS)
    with ablated_direction(model, architecture, some_direction()):
        assert not torch.equal(own_logits(model, IDS), base)
    assert torch.equal(own_logits(model, IDS), base)
    with pytest.raises(KeyError), ablated_direction(model, architecture, some_direction()):
        raise KeyError
    assert torch.equal(own_logits(model, IDS), base)


def test_ablation_in_bfloat16_keeps_the_models_type() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    with ablated_direction(model, architecture_of(model), some_direction()):
        output = model(input_ids=torch.tensor([IDS]))
    assert output.logits.dtype == torch.bfloat16


@pytest.mark.parametrize("family", KNOWN)
def test_recorded_layer_outputs_are_the_inputs_of_the_next_layer_and_end_with_the_block(family: str) -> None:
    model = tiny_model(family)
    architecture = architecture_of(model)
    with recorded_layer_outputs(model, architecture) as outputs:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([IDS]), output_hidden_states=True).hidden_states
    own_logits(model, IDS)
    assert len(outputs) == DEPTH
    for output, reference in zip(outputs[:-1], states[1:-1], strict=True):
        assert torch.equal(output, reference)
    assert torch.equal(model.get_submodule("model.norm")(outputs[-1]), states[-1])


def test_recorded_inputs_are_what_each_module_multiplies_and_end_with_the_block() -> None:
    model = tiny_model("qwen2")
    names = ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"]
    modules = {name: model.get_submodule(name) for name in names}
    seen: dict[str, list[Tensor]] = defaultdict(list)
    outputs: dict[str, Tensor] = {}
    for name, module in modules.items():
        module.register_forward_hook(lambda _module, _args, output, name=name: outputs.update({name: output}))
    base = own_logits(model, IDS)
    with recorded_inputs(modules, lambda name, x: seen[name].append(x)):
        assert torch.equal(own_logits(model, IDS), base)
    with pytest.raises(KeyError), recorded_inputs(modules, lambda name, x: seen[name].append(x)):
        raise KeyError
    own_logits(model, IDS)
    for name, module in modules.items():
        assert len(seen[name]) == 1
        assert torch.equal(module(seen[name][0]), outputs[name])
