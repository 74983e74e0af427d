"""Every row of the table fits its family; other models are read off or refused with what was looked for."""

from __future__ import annotations

import pytest
from tiny_models import DEPTH, READ_OFF, WIDTH, own_logits, tiny_model
from torch import nn

from unflinch.errors import ArchitectureError
from unflinch.models.architecture import architecture_of
from unflinch.models.families import ARCHITECTURES, Architecture
from unflinch.models.layers import blocks_of, decoder_layers

READ = {
    "stablelm": ("model.layers", {"self_attn.o_proj": "mixer", "mlp.down_proj": "feed-forward"}),
    "cohere": ("model.layers", {"self_attn.o_proj": "mixer", "mlp.down_proj": "feed-forward"}),
    "gpt_neox": ("gpt_neox.layers", {"attention.dense": "mixer", "mlp.dense_4h_to_h": "feed-forward"}),
}
HYBRID = "granitemoehybrid"
"""Mamba and attention layers, each with fused experts and a shared one."""


def kinds(row: Architecture) -> dict[str, str]:
    return {block.writer: block.kind for block in row.blocks}


@pytest.mark.parametrize("family", READ_OFF)
def test_an_unknown_structure_is_read_off(family: str) -> None:
    model = tiny_model(family)
    row = architecture_of(model)
    assert (row.source, row.model_type) == ("structure", family)
    assert (row.layers, kinds(row)) == READ[family]
    assert len(decoder_layers(model, row)) == DEPTH


@pytest.mark.parametrize("family", ["llama", "phi", "qwen3_5_text", "lfm2", "qwen2_moe", "llama4_text"])
def test_reading_a_known_family_off_finds_the_writers_of_its_row(family: str) -> None:
    model = tiny_model(family)
    model.config.model_type = "something_new"
    read, row = architecture_of(model), ARCHITECTURES[family]
    assert (read.source, read.layers) == ("structure", row.layers)
    found = [{b.writer: (b.left, b.output) for b in one.blocks} for one in (read, row)]
    assert found[0] == found[1]


def test_every_layer_of_a_hybrid_has_the_blocks_that_its_modules_say() -> None:
    model = tiny_model(HYBRID)
    row = architecture_of(model)
    has = [[block.kind for block in blocks_of(layer, row)] for layer in decoder_layers(model, row)]
    mamba, attention = (["Mamba", "shared expert", "experts"], ["attention", "shared expert", "experts"])
    assert has == [mamba, attention, mamba]


def test_a_layer_with_a_block_that_the_row_does_not_know_is_refused_naming_what_was_seen() -> None:
    model = tiny_model("qwen3_5_text")
    model.config.model_type = "qwen3"
    with pytest.raises(ArchitectureError, match=r"'qwen3' .* in linear_attn of model.layers.0, found .*out_proj"):
        architecture_of(model)


def test_layers_without_linear_modules_are_refused_naming_what_was_looked_for() -> None:
    with pytest.raises(
        ArchitectureError, match=rf"'gpt2': looked in transformer.h.0 .* {WIDTH} outputs, found .*attn.c_attn"
    ):
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
    model.model.layers[1].mlp.other = nn.Linear(48, WIDTH)
    del model.model.layers[1].mlp.down_proj
    with pytest.raises(ArchitectureError, match=r"'llama' .* in mlp of model.layers.1, found .*mlp.other; check"):
        architecture_of(model)
    model.model.layers = nn.Identity()
    with pytest.raises(ArchitectureError, match=r"'llama' at 'model.layers'"):
        architecture_of(model)


def test_a_row_is_taken_from_the_exact_model_type_alone() -> None:
    model = tiny_model("llama")
    model.config.model_type = "llama_next"
    assert architecture_of(model).source == "structure"
    assert own_logits(model, (5, 6)).shape[0] == 2
