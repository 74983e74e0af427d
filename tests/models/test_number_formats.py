"""Weights rounded to number formats: as good as the format promises, and undone without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from tiny_models import tiny_model

from unflinch.models.architecture import architecture_of
from unflinch.models.number_formats import NUMBER_FORMATS, NumberFormat, not_measured, rounded_weights

AVAILABLE = [fmt for fmt in NUMBER_FORMATS if not fmt.missing()]
BITS = {"GGUF Q8_0": 8, "GGUF Q4_0": 4, "GGUF Q4_K_M": 4, "int8 (bitsandbytes)": 8, "4-bit NF4 (bitsandbytes)": 4}


def by_name(name: str) -> NumberFormat:
    return next(fmt for fmt in NUMBER_FORMATS if fmt.name == name)


@pytest.mark.parametrize("fmt", AVAILABLE, ids=lambda fmt: fmt.name)
def test_rounding_errs_about_as_much_as_the_bits_allow(fmt: NumberFormat) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 512)
    error = (fmt.rounding("q_proj", 0, 8)(weight) - weight).square().mean().sqrt()
    # A normal weight in 2^bits steps over +-3 deviations errs by 6 / 2^bits / sqrt(12) of them.
    expected = 6 / 2 ** BITS[fmt.name] / 12**0.5
    assert 0.3 * expected < error < 2.0 * expected


def test_q8_0_keeps_every_value_within_half_a_step_of_its_block() -> None:
    torch.manual_seed(1)
    weight = torch.randn(8, 96)
    left = by_name("GGUF Q8_0").rounding("any", 0, 1)(weight)
    steps = weight.reshape(8, 3, 32).abs().amax(-1, keepdim=True) / 127
    assert ((left - weight).reshape(8, 3, 32).abs() <= 0.57 * steps).all()  # half, and the float16 of the step


def test_rows_that_do_not_divide_into_blocks_are_kept_in_float16() -> None:
    weight = torch.randn(4, 40)
    assert torch.equal(by_name("GGUF Q4_0").rounding("any", 0, 1)(weight), weight.half().float())


@pytest.mark.parametrize("fmt", AVAILABLE, ids=lambda fmt: fmt.name)
def test_inside_the_weights_are_rounded_and_afterwards_bit_equal(fmt: NumberFormat) -> None:
    model = tiny_model("llama")
    architecture = architecture_of(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with rounded_weights(model, architecture, fmt):
        changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    inside = {name for name in before if name.startswith("model.layers.") and name.endswith("proj.weight")}
    assert inside <= changed
    assert ("lm_head.weight" in changed) == fmt.whole_model
    assert not any("norm" in name for name in changed)


def test_an_error_inside_leaves_the_weights_as_they_were() -> None:
    model = tiny_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(RuntimeError), rounded_weights(model, architecture_of(model), by_name("GGUF Q8_0")):
        raise RuntimeError
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_q4_k_m_gives_more_bits_where_llama_cpp_does() -> None:
    if by_name("GGUF Q4_K_M").missing():
        pytest.skip("llama-cpp-python is not installed")
    torch.manual_seed(2)
    weight = torch.randn(32, 512)

    def error(role: str, layer: int) -> float:
        return float((by_name("GGUF Q4_K_M").rounding(role, layer, 24)(weight) - weight).square().mean())

    careful = [layer for layer in range(24) if layer < 3 or layer >= 21 or (layer - 3) % 3 == 2]
    for role in ("v_proj", "down_proj"):
        fine = [layer for layer in range(24) if error(role, layer) < 0.25 * error("q_proj", 0)]
        assert fine == careful
    assert error("head", 0) < 0.25 * error("q_proj", 0)


def test_a_format_whose_package_is_not_there_says_what_it_needs() -> None:
    fmt = NumberFormat("other", lambda *_: lambda weight: weight, True, "no_such_module", "some-package")
    assert fmt.missing() == "needs: pip install some-package"


def test_gguf_rounds_as_its_own_file_would() -> None:
    weight = torch.randn(16, 64)
    kind = GGMLQuantizationType.Q4_0
    stored = quants.quantize(weight.numpy(), kind)
    assert np.array_equal(quants.dequantize(stored, kind), by_name("GGUF Q4_0").rounding("any", 0, 1)(weight).numpy())


def test_a_model_whose_experts_would_stay_unrounded_is_not_measured() -> None:
    formats = by_name("GGUF Q8_0"), by_name("GGUF Q4_0")
    dense, sparse = tiny_model("llama"), tiny_model("mixtral")
    assert [not_measured(fmt, dense, architecture_of(dense)) for fmt in formats] == [None, None]
    assert all("fused experts" in str(not_measured(fmt, sparse, architecture_of(sparse))) for fmt in formats)
