"""What a patch changes: of each chosen layer what every token passes, and no writer is passed over in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_models import tiny_model

from unflinch.errors import ArchitectureError
from unflinch.models.architecture import architecture_of
from unflinch.models.families import ARCHITECTURES, EXPERTS
from unflinch.models.writers import choose_writers
from unflinch.results import WriterCoverage

FIRST = "feed-forward blocks come first"


def test_a_layer_is_changed_in_its_feed_forward_block_or_else_in_what_it_has() -> None:
    model = tiny_model("nemotron_h")  # Mamba, experts with a shared one, attention, feed-forward
    chosen = choose_writers(model, architecture_of(model), range(4), "feed_forward")
    assert chosen.modules == (
        "model.layers.1.mixer.shared_experts.down_proj",
        "model.layers.2.mixer.o_proj",
        "model.layers.3.mixer.down_proj",
    )
    assert [(one.kind, one.changed) for one in chosen.coverage if one.reason] == [("Mamba", 0), ("experts", 0)]


def test_attention_is_changed_beside_feed_forward_blocks_only_if_all_is_asked_for() -> None:
    model = tiny_model("qwen2_moe")  # the first layer is dense
    row = architecture_of(model)
    few = choose_writers(model, row, (0, 2), "feed_forward")
    assert few.modules == ("model.layers.0.mlp.down_proj", "model.layers.2.mlp.shared_expert.down_proj")
    assert few.coverage == (
        WriterCoverage("self_attn.o_proj", "attention", 0, 3, FIRST),
        WriterCoverage("mlp.down_proj", "feed-forward", 1, 1, ""),
        WriterCoverage("mlp.shared_expert.down_proj", "shared expert", 1, 2, ""),
        WriterCoverage("mlp.experts.down_proj", "experts", 0, 2, EXPERTS),
    )
    every = choose_writers(model, row, (0, 2), "all")
    attention = [f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 2)]
    assert sorted(every.modules) == sorted([*attention, *few.modules])
    assert [one.reason for one in every.coverage] == ["", "", "", EXPERTS]


def test_attention_is_changed_where_nothing_else_can_be() -> None:
    model = tiny_model("mixtral")
    chosen = choose_writers(model, architecture_of(model), (0, 2), "feed_forward")
    assert chosen.modules == tuple(f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 2))
    assert [one.changed for one in chosen.coverage] == [2, 0]


@pytest.mark.parametrize("family", ["llama", "lfm2_moe", "qwen3_5_moe_text", "gemma4_text", "falcon_h1"])
@pytest.mark.parametrize("which", ["feed_forward", "all"])
def test_every_writer_is_changed_or_left_for_a_reason(family: str, which: str) -> None:
    model = tiny_model(family)
    row = architecture_of(model)
    chosen = choose_writers(model, row, (1, 2), which)
    assert {one.writer for one in chosen.coverage} <= {block.writer for block in row.blocks}
    assert sum(one.changed for one in chosen.coverage) == len(chosen.modules) == len(set(chosen.modules))
    for one in chosen.coverage:
        having = sum(name.endswith(f".{one.writer}") for name in chosen.modules)
        assert one.changed == having
        assert one.layers >= one.changed


def test_layers_without_a_linear_writer_are_refused_naming_what_they_have() -> None:
    model = tiny_model("mixtral")
    row = replace(ARCHITECTURES["mixtral"], blocks=ARCHITECTURES["mixtral"].blocks[2:])
    with pytest.raises(
        ArchitectureError, match=r"layers 0, 1 of model.layers, found mlp.experts.down_proj \(experts\)"
    ):
        choose_writers(model, row, (0, 1), "feed_forward")
