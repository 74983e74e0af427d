"""The weight hash is the same for the same weights, however held, and another after any change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import save_model, tiny_model
from torch import nn

from unflinch.models.fingerprint import weight_hash
from unflinch.models.load import load_model


def test_a_bfloat16_checkpoint_has_one_hash_in_float32_and_bfloat16(tmp_path: Path) -> None:
    folder = save_model(tiny_model("qwen2", dtype=torch.bfloat16), tmp_path / "model")
    hashes = {load_model(str(folder), dtype=dtype, device="cpu").base_hash for dtype in ("float32", "bfloat16")}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight", "model.norm.weight"]
)
def test_one_changed_weight_changes_the_hash(name: str) -> None:
    model, changed = tiny_model("qwen2"), tiny_model("qwen2")
    assert weight_hash(model) == weight_hash(changed)
    changed.get_parameter(name).view(-1)[-1] *= 1.02  # more than the rounding to bfloat16
    assert weight_hash(model) != weight_hash(changed)


def test_the_same_values_under_another_name_or_in_another_shape_have_another_hash() -> None:
    hashes = set()
    for name, shape in (("extra", (2, 3)), ("other", (2, 3)), ("extra", (3, 2))):
        model = tiny_model("qwen2")
        setattr(model, name, nn.Parameter(torch.arange(6.0).reshape(shape)))
        hashes.add(weight_hash(model))
    assert len(hashes) == 3


def test_two_modules_that_change_places_change_the_hash() -> None:
    model, swapped = tiny_model("qwen2"), tiny_model("qwen2")
    layer = swapped.model.layers[0].mlp
    layer.gate_proj, layer.up_proj = layer.up_proj, layer.gate_proj
    assert weight_hash(model) != weight_hash(swapped)


def test_a_tied_head_that_is_untied_and_changed_has_another_hash() -> None:
    model, untied = tiny_model("gemma2"), tiny_model("gemma2")
    untied.lm_head.weight = nn.Parameter(untied.lm_head.weight * 2)
    assert weight_hash(model) != weight_hash(untied)


def test_a_parameter_that_is_a_single_number_counts() -> None:
    model, other = tiny_model("llama"), tiny_model("llama")
    model.temperature, other.temperature = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(2.0))
    assert weight_hash(model) != weight_hash(other)
