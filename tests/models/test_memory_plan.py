"""The plan's sizes are the model's own, its graph is what autograd keeps, and statistics give way to the disk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import DEPTH, tiny_config, tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig

from unflinch.models.memory import GIB
from unflinch.models.memory_parts import Holding, MemoryParts, ModelShape, Workload
from unflinch.models.memory_plan import plan_memory, prompt_lengths, read_shape
from unflinch.options import ModelOptions

SHAPE = ModelShape(
    parameters=500_000_000,
    layer_linears=350_000_000,
    depth=24,
    width=896,
    vocabulary=150_000,
    feed_forward=4864,
    attention=896,
    keys=128,
    edited=((4864, 896),),
    tied=True,
)
WORK = Workload(
    lengths=prompt_lengths([range(30), range(50), range(120)]),
    answered=((40, 60), (150, 120)),
    answer_tokens=32,
    begun=(128, 90),
    fitted=2000,
    measured=150,
    fit_tokens=6,
    fine_tuned=108,
    kl_tokens=32,
)
HELD = Holding(value_bytes=4, linear_bytes=4.0, program=GIB // 2)


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2", "phi3", "stablelm"])
def test_a_config_alone_gives_the_sizes_of_the_model(family: str) -> None:
    found = read_shape(tiny_config(family), ModelOptions(), "all")
    model = tiny_model(family)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert (found.depth, found.width) == (DEPTH, model.config.hidden_size)
    down = model.get_submodule("model.layers.0.mlp.down_proj")
    assert found.edited[-1] == (down.in_features, down.out_features) == (found.feed_forward, found.width)
    assert len(found.edited) == 2
    assert read_shape(tiny_config(family), ModelOptions(), "feed_forward").edited == found.edited[-1:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "feed_forward", "heads", "keys"), [(64, 256, 8, 2), (128, 192, 4, 4)])
def test_the_graph_is_what_autograd_keeps(
    dtype: torch.dtype, width: int, feed_forward: int, heads: int, keys: int
) -> None:
    depth, rows, tokens = 6, 2, 40
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        vocab_size=50,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if value.untyped_storage().data_ptr() not in weights:
            kept[value.untyped_storage().data_ptr()] = value
        return value

    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[0, :7] = 0
    states = torch.randn(rows, tokens, width, dtype=dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model.get_decoder()(inputs_embeds=states, attention_mask=mask, use_cache=False)
    measured = sum(value.untyped_storage().nbytes() for value in kept.values())
    # the plan counts the layers from the first edited one on, a third up
    shape = replace(SHAPE, depth=9, width=width, feed_forward=feed_forward, attention=width)
    planned = MemoryParts(shape, WORK, Holding(dtype.itemsize, dtype.itemsize, 0), 1 / 3).graph(rows * tokens)
    assert planned == pytest.approx(measured, rel=0.15)


@given(factor=st.integers(2, 20))
def test_more_of_anything_never_needs_less(factor: int) -> None:
    def needs(shape: ModelShape = SHAPE, work: Workload = WORK, held: Holding = HELD) -> int:
        return plan_memory(shape, work, held, "cpu", 2000 * GIB, 1 / 3).needs

    assert needs(replace(SHAPE, vocabulary=factor * SHAPE.vocabulary)) >= needs()
    assert needs(replace(SHAPE, parameters=factor * SHAPE.parameters)) > needs()
    assert needs(work=replace(WORK, fitted=factor * WORK.fitted)) >= needs()
    assert needs(work=replace(WORK, answered=((factor * 40, 4000),))) >= needs()
    assert needs(work=replace(WORK, begun=(128, factor * 4000))) > needs()
    assert needs(held=replace(HELD, linear_bytes=0.5)) < needs()


def test_answers_that_the_scan_begins_are_counted_as_the_baselines_are() -> None:
    large_cache = replace(SHAPE, keys=8 * SHAPE.keys)
    same = replace(WORK, answered=((128, 60),), begun=(128, 60 + WORK.answer_tokens))
    steps = plan_memory(large_cache, same, HELD, "cpu", 2000 * GIB, 1 / 3).steps
    assert steps["scan"] == steps["baseline"]
    few = plan_memory(large_cache, replace(same, begun=(1, 10)), HELD, "cpu", 2000 * GIB, 1 / 3).steps
    assert few["scan"] < few["baseline"] == steps["baseline"]


def test_statistics_that_do_not_fit_beside_the_model_wait_on_the_disk() -> None:
    large = replace(SHAPE, feed_forward=28_672, width=8_192, edited=((28_672, 8_192),), depth=80)
    with_room = plan_memory(large, WORK, HELD, "cpu", 2000 * GIB, 1 / 3)
    without = plan_memory(large, WORK, HELD, "cpu", 80 * GIB, 1 / 3)
    metrics = 27 * 4 * (28_672**2 + 8_192**2)
    gradients = 27 * WORK.fitted * 2 * 4 * (28_672 + 8_192)
    assert with_room.on_disk == 0
    assert with_room.needs > metrics
    assert metrics + gradients - 80 * GIB < without.on_disk < metrics + gradients
    assert without.needs < 80 * GIB < with_room.needs
    assert without.headline()["on_disk"] == f"{without.on_disk / GIB:.1f} GiB"
