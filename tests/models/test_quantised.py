"""Quantised weights carry gradients and patches, are told apart by their hash, and what cannot be used is said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from tiny_models import own_logits, random_ids, save_model, tiny_config, tiny_model
from tiny_patches import random_patch

from unflinch.activations.gradients import refusal_gradients
from unflinch.errors import ConfigError, ModelError, PatchError
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.models import quantised
from unflinch.models.architecture import architecture_of
from unflinch.models.fingerprint import weight_hash
from unflinch.models.load import LoadedModel, load_model
from unflinch.models.quantised import bitsandbytes_settings, check_gradients, stored_linear_bytes
from unflinch.patch.attach import attached
from unflinch.patch.merge import merged

SIZES = {"hidden_size": 64, "intermediate_size": 128}
"""Rows that divide into blocks of 64."""
SEQUENCES = random_ids((9, 5, 12))
MODULES = [f"model.layers.{layer}.mlp.down_proj" for layer in (1, 2)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny_model("qwen2", **SIZES), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def four_bit(folder: Path) -> LoadedModel:
    return load_model(str(folder), dtype="float32", device="cpu", load_in="4bit")


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Return the sum over prompts of every module's gradient of a refusal score."""
    weights = torch.zeros(model.config.vocab_size)
    weights[::2] = 0.9
    score = RefusalOpenings(weights).decision_scores
    decisions = [Decision(ids) for ids in SEQUENCES]
    found = refusal_gradients(model, architecture_of(model), MODULES, decisions, score, rank=12)
    return {n: torch.einsum("pro,pri->oi", found.outputs[n], found.inputs[n]) for n in MODULES}


def test_gradients_through_four_bits_equal_those_of_the_weights_that_they_stand_for(four_bit: LoadedModel) -> None:
    plain = tiny_model("qwen2", **SIZES)
    with torch.no_grad():
        for name, module in four_bit.model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                restored = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
                assert not torch.equal(restored, plain.get_submodule(name).weight)
                plain.get_submodule(name).weight.copy_(restored)
    expected, found = gradients(plain), gradients(four_bit.model)
    for name in MODULES:
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3 * scale)


def test_eight_bits_compute_nearly_what_the_plain_weights_do(folder: Path) -> None:
    loaded = load_model(str(folder), dtype="float32", device="cpu", load_in="8bit")
    plain = own_logits(tiny_model("qwen2", **SIZES), SEQUENCES[0])
    assert (own_logits(loaded.model, SEQUENCES[0]) - plain).abs().mean() < 0.1 * plain.abs().mean()
    assert loaded.model.get_submodule(MODULES[0]).weight.dtype == torch.int8
    assert loaded.quantisation == "bitsandbytes 8bit"
    assert loaded.parameters == sum(p.numel() for p in tiny_model("qwen2", **SIZES).parameters())


def test_a_patch_on_quantised_weights_acts_and_leaves_them_as_they_were(four_bit: LoadedModel) -> None:
    model = four_bit.model
    before = own_logits(model, SEQUENCES[0])
    with attached(model, random_patch(model)) as live:
        assert not torch.allclose(own_logits(model, SEQUENCES[0]), before)
        with live.disabled():
            assert torch.equal(own_logits(model, SEQUENCES[0]), before)
    assert torch.equal(own_logits(model, SEQUENCES[0]), before)
    with pytest.raises(PatchError, match="weights are quantised.*use it as an adapter"):
        with merged(model, random_patch(model), 1.0):
            pass


def test_the_hash_tells_formats_and_scales_apart_and_a_quantised_file_is_the_model_it_was_made_of(
    folder: Path, four_bit: LoadedModel, tmp_path: Path
) -> None:
    plain = load_model(str(folder), dtype="float32", device="cpu")
    assert four_bit.base_hash != plain.base_hash
    four_bit.model.save_pretrained(tmp_path)
    four_bit.tokenizer.save_pretrained(tmp_path)
    stored = load_model(str(tmp_path), dtype="float32", device="cpu")
    assert (stored.base_hash, stored.quantisation) == (four_bit.base_hash, "bitsandbytes")
    with pytest.raises(ConfigError, match=r"quantised already \(bitsandbytes\); leave out load_in"):
        load_model(str(tmp_path), dtype="float32", device="cpu", load_in="4bit")
    stored.model.get_submodule(MODULES[0]).weight.quant_state.absmax[0] *= 2
    assert weight_hash(stored.model) != four_bit.base_hash


def test_load_in_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="load_in '3bit' is unknown; expected 8bit or 4bit"):
        bitsandbytes_settings("3bit", "m", None, torch.float32, CPU)
    with pytest.raises(ConfigError, match="does not work on mps"):
        bitsandbytes_settings("4bit", "m", None, torch.float32, torch.device("mps"))
    monkeypatch.setattr(quantised, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes.*pip install 'unflinch\[formats\]'"):
        bitsandbytes_settings("4bit", "m", None, torch.float32, CPU)


def test_a_file_in_a_format_that_cannot_be_read_here_is_named(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"cannot load the model.*quantised \(gptq\): give the unquantised model"):
        load_model(str(tmp_path), dtype="float32", device="cpu")


def test_kernels_without_gradients_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen2")
    row = architecture_of(model)
    check_gradients(model, row, "m")
    block = model.get_submodule("model.layers.1")
    handle = block.register_forward_hook(lambda _module, _args, output: output.detach())
    with pytest.raises(ModelError, match="no gradients can be taken of m here"):
        check_gradients(model, row, "m")
    handle.remove()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4}, 0.53),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.53),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.06),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}, 0.53),
        ({"quant_method": "fp8"}, 1.06),
        (None, None),
    ],
)
def test_the_bytes_of_stored_weights_follow_from_the_config(settings: Any, expected: float | None) -> None:
    config = tiny_config("qwen2", quantization_config=settings) if settings else tiny_config("qwen2")
    found = stored_linear_bytes(config)
    assert found == expected if expected is None else found == pytest.approx(expected, abs=0.01)
