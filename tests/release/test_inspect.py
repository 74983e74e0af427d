"""Inspecting says what a folder is from headers alone, and what in it could do harm."""

from __future__ import annotations

import json
import os
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import save_model, tiny_model, tiny_tokenizer
from tiny_patches import random_patch

from unflinch.errors import PatchError
from unflinch.models.architecture import architecture_of
from unflinch.models.fingerprint import weight_hash
from unflinch.models.load import LoadedModel
from unflinch.patch.gguf_adapter import write_gguf_adapter
from unflinch.patch.merge import merge_into_copy
from unflinch.patch.save import save_patch
from unflinch.provenance import read_provenance
from unflinch.release.inspect import check_made_for, inspect_folder
from unflinch.report.model_card import export_card
from unflinch.run_folder import plain


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    model = tiny_model("qwen2")
    row = architecture_of(model)
    return LoadedModel(model, tiny_tokenizer(), row, "owner/base", "owner/base", None, weight_hash(model))


class RunsWhenUnpickled:
    """Makes a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


def test_a_patch_of_ours_is_described_whole(patch_folder: Path) -> None:
    facts = inspect_folder(patch_folder)
    assert facts.kind == "PEFT adapter"
    assert facts.base == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert facts.touches == {"mlp.down_proj": 3, "self_attn.q_proj": 1}
    assert facts.ranks == (1, 2)
    assert facts.parameters == 3 * (2 * 8 + 4 * 2) + (4 + 4)
    assert facts.provenance is not None
    assert facts.provenance.passed
    assert (facts.changed, facts.dangers, facts.signed) == ((), (), False)


def test_a_foreign_adapter_and_a_plain_model_say_nothing_about_their_making(
    tmp_path: Path, loaded: LoadedModel
) -> None:
    adapter = inspect_folder(save_patch(random_patch(loaded.model), tmp_path / "patch", "owner/base"))
    model = inspect_folder(save_model(loaded.model, tmp_path / "model"))
    assert (adapter.kind, adapter.base, adapter.provenance) == ("PEFT adapter", "owner/base", None)
    assert (model.kind, model.provenance, model.touches) == ("model", None, {})
    assert model.parameters == sum(parameter.numel() for parameter in loaded.model.parameters())


def test_exports_are_told_apart_and_bring_their_provenance(tmp_path: Path, loaded: LoadedModel) -> None:
    patch = random_patch(loaded.model, base_hash=loaded.base_hash)
    merged = inspect_folder(merge_into_copy(loaded, patch, tmp_path / "merged", export_card, 0.5))
    folder = write_gguf_adapter(loaded, patch, tmp_path / "gguf", export_card)
    adapter, alone = inspect_folder(folder), inspect_folder(folder / "adapter.gguf")
    assert merged.kind == "merged model"
    assert merged.provenance is not None
    assert merged.provenance.strength == 0.5
    assert adapter.kind == alone.kind == "GGUF adapter"
    assert (
        adapter.touches
        == alone.touches
        == dict.fromkeys(("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"), 2)
    )
    assert adapter.parameters == patch.parameters
    assert adapter.provenance is not None
    assert alone.provenance == replace(adapter.provenance, files={})


def test_whether_it_fits_a_base_is_told_by_hash_and_by_shape(tmp_path: Path, loaded: LoadedModel) -> None:
    ours = save_patch(random_patch(loaded.model, base_hash=loaded.base_hash), tmp_path / "ours", "owner/base")
    foreign = save_patch(random_patch(loaded.model), tmp_path / "foreign", "owner/base")
    assert "exactly these weights" in check_made_for(ours, inspect_folder(ours), loaded)
    assert "does not say for which weights" in check_made_for(foreign, inspect_folder(foreign), loaded)
    with pytest.raises(PatchError, match="made for base weights"):
        check_made_for(ours, inspect_folder(ours), replace(loaded, base_hash="b" * 64))
    with pytest.raises(PatchError, match="does not have as a linear module"):
        check_made_for(foreign, inspect_folder(foreign), replace(loaded, model=tiny_model("phi3")))


def test_pickles_and_code_are_named_and_not_touched(patch_folder: Path, tmp_path: Path) -> None:
    (patch_folder / "adapter_model.bin").write_bytes(pickle.dumps(RunsWhenUnpickled(tmp_path / "pwned")))
    (patch_folder / "deep").mkdir()
    (patch_folder / "deep" / "modeling.py").write_text("raise SystemExit")
    (patch_folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}))
    dangers = inspect_folder(patch_folder).dangers
    assert [danger.split()[0] for danger in dangers] == ["adapter_model.bin", "config.json", "deep/modeling.py"]
    assert not (tmp_path / "pwned").exists()


def test_a_link_out_of_the_folder_is_named_and_not_followed(patch_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"base_model_name_or_path": "secret"}')
    (patch_folder / "adapter_config.json").unlink()
    (patch_folder / "adapter_config.json").symlink_to(secret)
    (patch_folder / "inside.json").symlink_to(patch_folder / "provenance.json")
    facts = inspect_folder(patch_folder)
    assert facts.dangers == ("adapter_config.json is a link that leads out of the folder",)
    assert facts.kind == "no model"


def test_weights_behind_a_link_out_of_the_folder_are_not_read_and_count_as_changed(
    patch_folder: Path, tmp_path: Path
) -> None:
    weights = patch_folder / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    endless = patch_folder / "more.safetensors"
    endless.symlink_to("/dev/zero")
    record = read_provenance(patch_folder)
    assert record is not None
    hashes = {**record.files, endless.name: record.files[weights.name]}
    (patch_folder / "provenance.json").write_text(json.dumps(plain(replace(record, files=hashes))))
    assert inspect_folder(patch_folder).changed == (weights.name, endless.name)


def test_a_gguf_header_that_announces_more_than_the_file_holds_is_told_at_once(tmp_path: Path) -> None:
    key, string, array, endless = b"a.b", 8, 9, 2**60
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    file = tmp_path / "evil.gguf"
    file.write_bytes(header + struct.pack("<IIQ", array, string, endless))
    with pytest.raises(PatchError, match="has a damaged header"):
        inspect_folder(file)


def test_links_of_the_hub_cache_are_its_way_of_keeping_files(patch_folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--patch"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in patch_folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    facts = inspect_folder(snapshot)
    assert (facts.kind, facts.dangers, facts.changed) == ("PEFT adapter", (), ())


def test_an_index_that_leads_out_of_the_folder_is_named(patch_folder: Path) -> None:
    index = {
        "weight_map": {"a": "../../other/model.safetensors", "b": "/etc/model.safetensors", "c": "model.safetensors"}
    }
    (patch_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    dangers = inspect_folder(patch_folder).dangers
    assert len(dangers) == 2
    assert all("names weights outside of the folder" in danger for danger in dangers)


def test_a_pipe_is_named_and_not_read(patch_folder: Path) -> None:
    os.mkfifo(patch_folder / "config.json")
    assert inspect_folder(patch_folder).dangers == ("config.json is neither a file nor a folder",)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter.gguf"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"GGUF\x03\0\0\0" + b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_damaged_header_is_refused(patch_folder: Path, name: str, content: bytes) -> None:
    (patch_folder / name).write_bytes(content)
    with pytest.raises(PatchError, match="has a damaged header"):
        inspect_folder(patch_folder)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="no folder"):
        inspect_folder(tmp_path / "nowhere")


def test_weights_that_changed_since_they_were_measured_are_named(patch_folder: Path) -> None:
    file = patch_folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    assert inspect_folder(patch_folder).changed == ("adapter_model.safetensors",)
