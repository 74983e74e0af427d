"""A merged copy equals the attached patch, and the loaded model stays what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_models import own_logits, save_model, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.errors import ConfigError, InputError, PatchError
from unflinch.models.architecture import architecture_of
from unflinch.models.fingerprint import weight_hash
from unflinch.models.load import LoadedModel
from unflinch.patch.attach import attached
from unflinch.patch.export import check_new_folder
from unflinch.patch.merge import merge_into_copy, merged
from unflinch.provenance import changed_files, from_json, read_provenance
from unflinch.report.model_card import export_card

IDS = (5, 7, 11, 13, 17, 19)
MODULES = ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj")


def loaded_model(model: PreTrainedModel, model_id: str = "owner/model") -> LoadedModel:
    return LoadedModel(model, tiny_tokenizer(), architecture_of(model), model_id, model_id, None, weight_hash(model))


def random_patch(model: PreTrainedModel, modules: tuple[str, ...] = MODULES) -> Patch:
    generator = torch.Generator().manual_seed(1)
    factors = {}
    for name in modules:
        outer, inner = model.get_submodule(name).weight.shape
        a, b = torch.randn(2, inner, generator=generator), torch.randn(outer, 2, generator=generator)
        factors[name] = LowRankFactors(a, 0.1 * b)
    return Patch(factors, weight_hash(model))


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
@pytest.mark.parametrize("strength", [1.0, 0.4, 0.0])
def test_the_copy_has_the_logits_of_the_attached_patch(tmp_path: Path, family: str, strength: float) -> None:
    model = tiny_model(family)
    names = {"phi3": ("model.layers.1.self_attn.qkv_proj",)}
    patch = random_patch(model, names.get(family, MODULES))
    with attached(model, patch, strength):
        expected = own_logits(model, IDS)
    copy = AutoModelForCausalLM.from_pretrained(
        merge_into_copy(loaded_model(model), patch, tmp_path / "copy", export_card, strength)
    )
    torch.testing.assert_close(own_logits(copy, IDS), expected, atol=1e-4, rtol=0)
    assert torch.allclose(expected, own_logits(model, IDS), atol=1e-4) == (strength == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loaded_model_is_bit_equal_afterwards(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_model("llama", dtype=dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = own_logits(model, IDS)
    merge_into_copy(loaded_model(model), random_patch(model), tmp_path / "copy", export_card)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(own_logits(model, IDS), logits)


def test_weights_are_added_in_float32_and_rounded_once(tmp_path: Path) -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    patch = random_patch(model)
    folder = merge_into_copy(loaded_model(model), patch, tmp_path / "copy", export_card, 0.7)
    copy = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    for name, factors in patch.factors.items():
        exact = model.get_submodule(name).weight.double() + 0.7 * factors.b.double() @ factors.a.double()
        weight = copy.get_submodule(name).weight
        assert weight.dtype == torch.bfloat16
        assert ((weight.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


def test_the_model_is_restored_when_writing_fails(model: PreTrainedModel) -> None:
    logits = own_logits(model, IDS)
    with pytest.raises(KeyboardInterrupt), merged(model, random_patch(model), 1.0):
        assert not torch.equal(own_logits(model, IDS), logits)
        raise KeyboardInterrupt
    assert torch.equal(own_logits(model, IDS), logits)


def test_the_copy_says_that_it_was_modified(tmp_path: Path, model: PreTrainedModel) -> None:
    folder = merge_into_copy(loaded_model(model), random_patch(model), tmp_path / "copy", export_card, 0.5)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["unflinch_modified"], config["unflinch_strength"]) == (True, 0.5)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "\n# owner/model, modified by unflinch\n" in readme
    assert "base_model_relation: finetune" in readme
    assert "not the original model" in readme
    with safe_open(folder / "model.safetensors", framework="pt") as stream:
        inside = from_json(stream.metadata()["unflinch_provenance"], "the file")
    assert (inside.kind, inside.strength, inside.base.weight_hash) == ("merged model", 0.5, weight_hash(model))
    assert changed_files(folder, read_provenance(folder)) == []
    assert AutoTokenizer.from_pretrained(folder).chat_template == tiny_tokenizer().chat_template


def test_the_copy_does_not_tell_where_the_base_lies(tmp_path: Path, model: PreTrainedModel) -> None:
    base = save_model(model, tmp_path / "secret place" / "base")
    folder = merge_into_copy(loaded_model(model, str(base)), random_patch(model), tmp_path / "copy", export_card)
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".md", ".json")]
    assert not any("secret place" in text for text in texts)


def test_a_folder_in_use_and_the_base_itself_are_refused(tmp_path: Path, model: PreTrainedModel) -> None:
    base = save_model(model, tmp_path / "base")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out, reason in ((base, "the model itself"), (tmp_path, "not empty"), (tmp_path / "file", "not empty")):
        with pytest.raises(InputError, match=reason):
            check_new_folder(out, str(base))


def test_an_empty_folder_is_filled(tmp_path: Path, model: PreTrainedModel) -> None:
    (tmp_path / "copy").mkdir()
    folder = merge_into_copy(loaded_model(model), random_patch(model), tmp_path / "copy", export_card)
    assert (folder / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        (folder / "config.json").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(InputError, match="No space left on device"):
        merge_into_copy(loaded_model(model), random_patch(model), tmp_path / "copy", export_card)
    assert list(tmp_path.iterdir()) == []


def test_a_patch_for_other_weights_is_refused(tmp_path: Path, model: PreTrainedModel) -> None:
    other = tiny_model("llama", seed=1)
    with pytest.raises(PatchError, match="made for base weights"):
        merge_into_copy(loaded_model(model), random_patch(other), tmp_path / "copy", export_card)


def test_a_shared_weight_is_not_merged(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    with pytest.raises(PatchError, match="lm_head share"):
        merge_into_copy(loaded_model(model), random_patch(model, ("lm_head",)), tmp_path / "copy", export_card)


def test_a_strength_that_is_no_number_is_refused(tmp_path: Path, model: PreTrainedModel) -> None:
    with pytest.raises(ConfigError, match="strength is nan"):
        merge_into_copy(loaded_model(model), random_patch(model), tmp_path / "copy", export_card, float("nan"))
    assert list(tmp_path.iterdir()) == []
