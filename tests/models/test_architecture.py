"""Every row of the table fits its family; other models are read off or refused with what was looked for."""

from __future__ import annotations

import pytest
import torch
from tiny_models import DEPTH, KNOWN, READ_OFF, WIDTH, own_logits, random_ids, tiny_model
from torch import nn

from unflinch.errors import ArchitectureError
from unflinch.models.architecture import ARCHITECTURES, architecture_of, decoder_layers

READ = {
    "stablelm": (
        "model.layers",
        {"self_attn.o_proj", "mlp.down_proj"},
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"},
    ),
    "cohere": (
        "model.layers",
        {"self_attn.o_proj", "mlp.down_proj"},
        {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"},
    ),
    "gpt_neox": (
        "gpt_neox.layers",
        {"attention.dense", "mlp.dense_4h_to_h"},
        {"attention.query_key_value", "mlp.dense_h_to_4h"},
    ),
}


def test_every_row_of_the_table_is_tested_on_a_tiny_model() -> None:
    assert set(KNOWN) == set(ARCHITECTURES)


@pytest.mark.parametrize("family", KNOWN)
def test_a_row_names_all_linear_modules_of_its_layers(family: str) -> None:
    model = tiny_model(family)
    row = architecture_of(model)
    assert row is ARCHITECTURES[family]
    layers = decoder_layers(model, row)
    assert len(layers) == DEPTH
    for layer in layers:
        linear = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
        assert set(linear) == {*row.writers, *row.readers}
        assert all(linear[name].out_features == WIDTH for name in row.writers)
        assert all(linear[name].in_features == WIDTH for name in row.readers)


@pytest.mark.parametrize("family", KNOWN)
def test_without_its_writers_a_layer_leaves_the_residual_stream_as_it_was(family: str) -> None:
    model = tiny_model(family)
    row = architecture_of(model)
    ids = random_ids((9,))[0]
    for layer in decoder_layers(model, row):
        for name in row.writers:
            layer.get_submodule(name).weight.zero_()
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert torch.equal(states[0], states[1])
        head = model.get_submodule("model.norm")(states[0])
    assert torch.equal(states[-1], head)


@pytest.mark.parametrize("family", READ_OFF)
def test_an_unknown_structure_is_read_off(family: str) -> None:
    model = tiny_model(family)
    row = architecture_of(model)
    layers, writers, readers = READ[family]
    assert (row.source, row.model_type, row.layers) == ("structure", family, layers)
    assert (set(row.writers), set(row.readers)) == (writers, readers)
    assert len(decoder_layers(model, row)) == DEPTH


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_reading_a_known_family_off_gives_its_row(family: str) -> None:
    model = tiny_model(family)
    model.config.model_type = "something_new"
    read, row = architecture_of(model), ARCHITECTURES[family]
    assert (read.layers, set(read.writers), set(read.readers)) == (row.layers, set(row.writers), set(row.readers))


def test_layers_without_linear_modules_are_refused_naming_what_was_looked_for() -> None:
    with pytest.raises(ArchitectureError, match=rf"'gpt2': looked in transformer.h.0 .* {WIDTH} inputs .* attn.c_attn"):
        architecture_of(tiny_model("gpt2"))


def test_an_unknown_model_without_a_list_of_layers_is_refused_naming_what_was_found() -> None:
    model = tiny_model("stablelm")
    model.config.num_hidden_layers = 7
    with pytest.raises(ArchitectureError, match="'stablelm': looked for one module list with num_hidden_layers=7"):
        architecture_of(model)
    model.config.num_hidden_layers = DEPTH
    model.model.more = nn.ModuleList(nn.Linear(2, 2) for _ in range(DEPTH))
    with pytest.raises(ArchitectureError, match="found model.layers, model.more"):
        architecture_of(model)


def test_a_known_family_with_other_modules_is_refused_naming_the_missing_one() -> None:
    model = tiny_model("llama")
    del model.model.layers[0].mlp.down_proj
    with pytest.raises(ArchitectureError, match=r"'llama' should have mlp.down_proj in model.layers.0"):
        architecture_of(model)
    model.model.layers = nn.Identity()
    with pytest.raises(ArchitectureError, match=r"'llama' at 'model.layers'"):
        architecture_of(model)


def test_a_row_is_taken_from_the_exact_model_type_alone() -> None:
    model = tiny_model("llama")
    model.config.model_type = "llama4_text"
    assert architecture_of(model).source == "structure"
    assert own_logits(model, (5, 6)).shape[0] == 2
