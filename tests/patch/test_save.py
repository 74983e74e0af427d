"""A patch on disk is what plain peft loads, and what comes back; anything else is refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import KNOWN, READ_OFF, own_logits, random_ids, tiny_model
from tiny_patches import random_patch
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.errors import PatchError, RunFolderError
from unflinch.patch.attach import attached
from unflinch.patch.save import check_base, load_patch, save_patch
from unflinch.provenance import BaseModelFacts, Provenance, write_provenance

# peft asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = random_ids((12,))[0]
PREFIX = "base_model.model."
MODULE = "model.layers.1.mlp.down_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved patch with a rank of its own for every other module."""
    patch = random_patch(tiny_model("qwen2"), ranks=(2, 3), base_hash="a" * 64)
    return save_patch(patch, tmp_path / "patch", "owner/base")


def patched_logits(model: PreTrainedModel, patch: Patch) -> Tensor:
    with attached(model, patch):
        return own_logits(model, IDS)


def assert_same(one: Patch, other: Patch) -> None:
    assert set(one.factors) == set(other.factors)
    for name, factors in one.factors.items():
        assert torch.equal(factors.a, other.factors[name].a)
        assert torch.equal(factors.b, other.factors[name].b)


@pytest.mark.parametrize("family", [*KNOWN, *READ_OFF])
def test_plain_peft_gives_the_same_logits_as_the_attached_patch(family: str, tmp_path: Path) -> None:
    patch = random_patch(tiny_model(family), ranks=(1, 3, 2))
    ours = patched_logits(tiny_model(family), patch)
    folder = save_patch(patch, tmp_path / "patch", "owner/base")
    theirs = peft.PeftModel.from_pretrained(tiny_model(family), str(folder)).eval()
    torch.testing.assert_close(own_logits(theirs, IDS), ours, rtol=1e-5, atol=1e-6)
    with theirs.disable_adapter():
        assert torch.equal(own_logits(theirs, IDS), own_logits(tiny_model(family), IDS))


def test_plain_peft_merges_the_patch_to_the_same_logits(folder: Path) -> None:
    merged = peft.PeftModel.from_pretrained(tiny_model("qwen2"), str(folder)).merge_and_unload()
    ours = patched_logits(tiny_model("qwen2"), load_patch(folder))
    torch.testing.assert_close(own_logits(merged, IDS), ours, rtol=1e-4, atol=2e-5)


def test_a_patch_comes_back_bit_for_bit(tmp_path: Path) -> None:
    patch = random_patch(tiny_model("qwen2"), ranks=(1, 4, 2), base_hash="b" * 64)
    noted = Patch(patch.factors, patch.base_hash, {"method": "constrained", "strength": "0.8"})
    loaded = load_patch(save_patch(noted, tmp_path / "deep" / "patch", "owner/base", "main"))
    assert_same(loaded, noted)
    assert (loaded.base_hash, dict(loaded.notes)) == (noted.base_hash, noted.notes)
    config = json.loads((tmp_path / "deep" / "patch" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", "main")
    assert config["peft_type"] == "LORA"
    assert not list((tmp_path / "deep" / "patch").glob(".*"))


def test_the_same_patch_gives_the_same_config(folder: Path, tmp_path: Path) -> None:
    again = save_patch(load_patch(folder), tmp_path / "again", "owner/base")
    assert (again / "adapter_config.json").read_bytes() == (folder / "adapter_config.json").read_bytes()


def test_factors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    a, b = torch.ones(2, 48), torch.ones(32, 2)
    patch = Patch({f"model.layers.{i}.mlp.down_proj": LowRankFactors(a, b.requires_grad_()) for i in (0, 1)}, "")
    assert_same(load_patch(save_patch(patch, tmp_path / "patch", "owner/base")), patch)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_patch_that_peft_trained_comes_with_its_own_scaling(use_rslora: bool, tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4,
        lora_alpha=10,
        use_rslora=use_rslora,
        target_modules=["q_proj", "down_proj", "up_proj"],
        rank_pattern={"down_proj": 2, r"layers\.1\.self_attn\.q_proj": 3},
        alpha_pattern={"up_proj": 7, "model.layers.0.mlp.down_proj": 5},
        task_type="CAUSAL_LM",
    )
    trained = peft.get_peft_model(tiny_model("qwen2"), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    trained.save_pretrained(str(tmp_path / "foreign"))
    patch = load_patch(tmp_path / "foreign")
    assert patch.base_hash == ""
    assert patch.factors["model.layers.0.mlp.down_proj"].a.shape[0] == 2
    ours = patched_logits(tiny_model("qwen2"), patch)
    torch.testing.assert_close(ours, own_logits(trained, IDS), rtol=1e-4, atol=2e-5)
    assert (ours - own_logits(tiny_model("qwen2"), IDS)).abs().max() > 0.05


def change_config(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def change_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return rewrite


def weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


A, B = f"{PREFIX}{MODULE}.lora_A.weight", f"{PREFIX}{MODULE}.lora_B.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: weights(folder).unlink(), "is no patch folder"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "is no patch folder"),
    "weights cut off": (lambda f: weights(f).write_bytes(weights(f).read_bytes()[:-10]), "damaged patch"),
    "header cut off": (lambda f: weights(f).write_bytes(weights(f).read_bytes()[:50]), "damaged patch"),
    "empty weights": (lambda folder: weights(folder).write_bytes(b""), "damaged patch"),
    "weights that are no safetensors": (lambda f: weights(f).write_bytes(b"PK\x03\x04" * 99), "damaged patch"),
    "a config that is no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "damaged patch"),
    "a config that is a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "damaged patch"),
    "a pattern that is none, behind one that is": (
        change_config(rank_pattern={"x*": 2, "(": 2}),
        "has a pattern that is none",
    ),
    "no factor at all": (change_tensors(lambda t: t.clear()), "changes no module"),
    "one factor missing": (change_tensors(lambda t: t.pop(B)), f"'{MODULE}' lacks one of its two factors"),
    "another rank than the config's": (
        change_tensors(lambda t: t.update({A: torch.ones(5, 48), B: torch.ones(32, 5)})),
        f"'{MODULE}' has rank 5",
    ),
    "factors of two ranks": (change_tensors(lambda t: t.update({A: torch.ones(1, 48)})), "not of one rank"),
    "factors of three axes": (change_tensors(lambda t: t.update({A: torch.ones(2, 48, 1)})), "not of one rank"),
    "factors that are not numbers": (change_tensors(lambda t: t[A].fill_(float("nan"))), "not finite"),
    "infinite factors": (change_tensors(lambda t: t[B].fill_(float("inf"))), "not finite"),
    "a trained bias": (
        change_tensors(lambda t: t.update({f"{PREFIX}{MODULE}.bias": torch.ones(32)})),
        "not a plain LoRA patch: unexpected tensor",
    ),
    "a DoRA magnitude": (
        change_tensors(lambda t: t.update({f"{PREFIX}{MODULE}.lora_magnitude_vector": torch.ones(32)})),
        "not a plain LoRA patch: unexpected tensor",
    ),
    "a whole trained module": (
        change_tensors(lambda t: t.update({f"{PREFIX}lm_head.weight": torch.ones(320, 32)})),
        "not a plain LoRA patch: unexpected tensor",
    ),
    "a pattern that is none": (change_config(rank_pattern={"(": 2}), "has a pattern that is none"),
    "another kind of adapter": (change_config(peft_type="IA3", feedforward_modules=[]), "expected peft_type LORA"),
    "layers used twice": (change_config(layer_replication=[[0, 2], [1, 3]]), "not a plain LoRA patch"),
    "tokens that switch it on": (change_config(alora_invocation_tokens=[5]), "not a plain LoRA patch"),
}


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")  # peft, of the other kind of adapter
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_foreign_patch_is_refused(folder: Path, name: str) -> None:
    load_patch(folder)
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(PatchError, match=message):
        load_patch(folder)


def test_a_folder_that_is_not_there_is_refused_without_looking_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="is no patch folder: expected adapter_config.json"):
        load_patch(tmp_path / "owner" / "name")


def test_a_patch_for_other_base_weights_is_refused() -> None:
    patch = Patch({}, "a" * 64)
    check_base(patch, "a" * 64, "owner/base")
    with pytest.raises(PatchError, match="made for base weights aaaaaaaaaaaa, but owner/other has bbbbbbbbbbbb"):
        check_base(patch, "b" * 64, "owner/other")


def test_a_foreign_patch_says_nothing_about_its_base_and_is_not_refused() -> None:
    check_base(Patch({}, ""), "b" * 64, "owner/other")


@pytest.mark.parametrize("place", ["write_bytes", "write_text", "replace"])
def test_a_full_disk_leaves_the_earlier_patch_readable(
    folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    earlier = load_patch(folder)
    other = random_patch(tiny_model("qwen2"), ranks=(2, 3), seed=9)
    with monkeypatch.context() as patching:
        patching.setattr(os if place == "replace" else Path, place, full)
        with pytest.raises(RunFolderError, match="No space left on device"):
            save_patch(other, folder, "owner/base")
    assert not list(folder.glob(".*"))
    loaded = load_patch(folder)
    assert_same(loaded, other if place == "write_text" else earlier)  # weights first, then the config


def test_notes_cannot_replace_the_hash_of_the_base(tmp_path: Path) -> None:
    patch = random_patch(tiny_model("qwen2"), base_hash="a" * 64)
    folder = save_patch(Patch(patch.factors, "a" * 64, {"unflinch_base_hash": "b" * 64}), tmp_path / "p", "owner/base")
    assert load_patch(folder).base_hash == "a" * 64
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as stream:
        assert stream.metadata()["format"] == "pt"


def test_factors_that_were_changed_after_they_were_measured_are_refused(folder: Path) -> None:
    base = BaseModelFacts("owner/base", True, None, "a" * 64)
    write_provenance(folder, Provenance("adapter", "0.1.0", "2026-11-29T08:00:00+00:00", base, 10, 3, 100))
    unchanged = load_patch(folder)
    change_tensors(lambda tensors: tensors.update({A: tensors[A] * 2}))(folder)
    with pytest.raises(PatchError, match=r"is not the file that provenance\.json was written for"):
        load_patch(folder)
    (folder / "provenance.json").unlink()
    assert not torch.equal(load_patch(folder).factors[MODULE].a, unchanged.factors[MODULE].a)
