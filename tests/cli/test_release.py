"""`export`, `inspect`, `sign`, `verify` and `push` as a user calls them, on a tiny random model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
from cli.fake_pipeline import TinyModel, Unflinch
from report.conftest import make_results

from unflinch.provenance import write_provenance
from unflinch.report.model_card import model_card
from unflinch.report.provenance import patch_provenance

OPTIONS = ("--dtype", "float32", "--device", "cpu")
FACTS = ("kind", "base model", "changes", "rank", "verdict", "signed")


def released(tiny: TinyModel, folder: Path) -> Path:
    """A copy of the patch as a passed run of a Hub model leaves it."""
    shutil.copytree(tiny.patch_folder, folder)
    results = make_results()
    results["model"]["base_hash"] = tiny.patch.base_hash
    write_provenance(folder, patch_provenance(results))
    (folder / "README.md").write_text(model_card(results), encoding="utf-8")
    return folder


def test_an_exported_adapter_carries_the_verdict(unflinch: Unflinch, tiny: TinyModel, tmp_path: Path) -> None:
    patch = released(tiny, tmp_path / "patch")
    answer = unflinch("export", tiny.folder, patch, "out", *OPTIONS)
    assert (answer.code, answer.out) == (0, "out\n")
    card = Path("out/README.md").read_text(encoding="utf-8")
    assert "**Passed**, measured on 2026-11-22 as a PEFT adapter at strength 1" in card
    assert "llama-cli -m BASE.gguf --lora adapter.gguf" in card
    assert len(gguf.GGUFReader(Path("out/adapter.gguf")).tensors) == 4
    answer = unflinch("push", "out", "owner/patch-gguf", "--dry-run")
    assert (answer.code, answer.out.split(":")[0]) == (0, "would go to owner/patch-gguf")


def test_a_merged_copy_carries_the_verdict_and_says_that_it_was_modified(
    unflinch: Unflinch, tiny: TinyModel, tmp_path: Path
) -> None:
    patch = released(tiny, tmp_path / "patch")
    assert unflinch("apply", tiny.folder, patch, "copy", "--strength", "0.5", *OPTIONS).code == 0
    card = Path("copy/README.md").read_text(encoding="utf-8")
    assert "modified by unflinch" in card
    assert "**The figures below are those of strength 1, not of 0.5.**" in card
    answer = unflinch("inspect", "copy", "--base", tiny.folder, *OPTIONS)
    assert answer.code == 0
    assert "merged model" in answer.out
    assert "at strength 0.5" in answer.out
    assert "exactly these weights" in answer.out


def test_inspect_tells_what_a_patch_is(unflinch: Unflinch, tiny: TinyModel, tmp_path: Path) -> None:
    patch = released(tiny, tmp_path / "patch")
    answer = unflinch("inspect", patch)
    assert answer.code == 0
    assert all(any(line.startswith(name) for line in answer.out.splitlines()) for name in FACTS)
    assert "2 modules (1 x mlp.down_proj, 1 x self_attn.q_proj)" in answer.out
    facts = json.loads(unflinch("inspect", patch, "--json").out)
    assert facts["provenance"]["verdict"]["passed"] is True
    assert facts["touches"] == {"mlp.down_proj": 1, "self_attn.q_proj": 1}


def test_inspect_fails_what_is_wrong(unflinch: Unflinch, tiny: TinyModel, tmp_path: Path) -> None:
    patch = released(tiny, tmp_path / "patch")
    (patch / "adapter_model.bin").touch()
    answer = unflinch("inspect", patch)
    assert answer.code == 1
    assert "DANGER      adapter_model.bin can hold pickled objects" in answer.out
    (patch / "adapter_model.bin").unlink()
    file = patch / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    answer = unflinch("inspect", patch)
    assert answer.code == 1
    assert "CHANGED since: adapter_model.safetensors" in answer.out
    assert unflinch("apply", tiny.folder, patch, "copy", *OPTIONS).code == 2


def test_a_patch_is_signed_and_verified(unflinch: Unflinch, tiny: TinyModel, tmp_path: Path) -> None:
    from release.test_sign import write_keys

    patch = released(tiny, tmp_path / "patch")
    private, public = write_keys(tmp_path, "mine")
    assert unflinch("sign", patch, "--key", private).code == 0
    assert unflinch("verify", patch, "--key", public).code == 0
    assert "yes; `unflinch verify` checks it" in unflinch("inspect", patch).out
    (patch / "README.md").write_text("other")
    answer = unflinch("verify", patch, "--key", public)
    assert answer.code == 1
    assert "does not hold" in answer.err


def test_push_refuses_what_nobody_measured(unflinch: Unflinch, tiny: TinyModel) -> None:
    answer = unflinch("push", tiny.patch_folder, "owner/patch", "--failed")
    assert answer.code == 2
    assert "only unflinch's own go up" in answer.err
