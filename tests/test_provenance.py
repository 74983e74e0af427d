"""A provenance record comes back as it was, stays beside and inside the weights, and notices other weights."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unflinch.errors import PatchError
from unflinch.provenance import (
    METADATA_KEY,
    BaseModelFacts,
    Provenance,
    changed_files,
    from_json,
    read_provenance,
    to_json,
    write_provenance,
)
from unflinch.results import Interval, Limit, PromptSetHash, StoredVerdict

LIMIT = Limit("guard refusals lost", 0.0, 0.0, Interval(0.0, 0.03), 120, True, "share")
RECORD = Provenance(
    kind="adapter",
    unflinch="0.1.0",
    created="2026-11-29T08:00:00+00:00",
    base=BaseModelFacts("owner/base", True, "main", "a" * 64),
    modules=4,
    rank=2,
    parameters=1234,
    verdict=StoredVerdict(True, (LIMIT,)),
    data={"fit": {"targets": PromptSetHash(7, "b" * 64)}},
    settings={"fit": {"rank": 2, "note": "Maßstab"}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files with weights, one of them with metadata, and a config."""
    save_file(
        {"a": torch.arange(6.0), "b": torch.ones(2, 3).bfloat16()}, tmp_path / "one.safetensors", {"format": "pt"}
    )
    save_file({"c": torch.zeros(3, dtype=torch.int8)}, tmp_path / "two.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_record_comes_back_as_it_was() -> None:
    assert from_json(to_json(RECORD), "the file") == RECORD
    assert from_json(to_json(replace(RECORD, files={"x": "y"})), "the file") == RECORD


def test_it_is_written_into_every_file_of_weights_and_beside_them(folder: Path) -> None:
    before = {file.name: load_file(file) for file in folder.glob("*.safetensors")}
    write_provenance(folder, RECORD)
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stream:
            assert from_json(stream.metadata()[METADATA_KEY], "the file") == RECORD
        after = load_file(file)
        assert after.keys() == before[file.name].keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before[file.name].items())
    with safe_open(folder / "one.safetensors", framework="pt") as stream:
        assert stream.metadata()["format"] == "pt"
    beside = read_provenance(folder)
    assert beside is not None
    assert replace(beside, files={}) == RECORD
    assert set(beside.files) == {"one.safetensors", "two.safetensors"}
    assert changed_files(folder, beside) == []


def test_writing_it_twice_changes_nothing(folder: Path) -> None:
    write_provenance(folder, RECORD)
    once = {file.name: file.read_bytes() for file in folder.iterdir()}
    write_provenance(folder, RECORD)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == once


def test_changed_missing_and_added_weights_are_named(folder: Path) -> None:
    write_provenance(folder, RECORD)
    record = read_provenance(folder)
    assert record is not None
    content = bytearray((folder / "one.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "one.safetensors").write_bytes(bytes(content))
    (folder / "two.safetensors").unlink()
    (folder / "three.gguf").touch()
    assert changed_files(folder, record) == ["one.safetensors", "three.gguf", "two.safetensors"]


def test_a_folder_without_a_record_has_none(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None


@pytest.mark.parametrize("damage", ["{", "[]", '{"kind": "adapter"}', to_json(RECORD).replace('"adapter"', '"toy"')])
def test_a_damaged_record_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "provenance.json").write_text(damage)
    with pytest.raises(PatchError, match=r"provenance\.json holds a damaged provenance record"):
        read_provenance(tmp_path)


def test_a_full_disk_leaves_the_weights_readable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "one.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_provenance(folder, RECORD)
    assert (folder / "one.safetensors").read_bytes() == before
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_verdict_holds_up_to_the_strength_that_was_measured(strength: float) -> None:
    assert replace(RECORD, strength=strength).passed


def test_nothing_else_counts_as_passed() -> None:
    failed = replace(LIMIT, passed=False)
    assert not replace(RECORD, strength=1.1).passed
    assert not replace(RECORD, strength=-0.5).passed
    assert not replace(RECORD, verdict=None).passed
    assert not replace(RECORD, verdict=StoredVerdict(True, ())).passed
    assert not replace(RECORD, verdict=StoredVerdict(True, (LIMIT, failed))).passed
    assert not replace(RECORD, verdict=StoredVerdict(False, (LIMIT,))).passed


def test_the_file_is_plain_json_with_standard_numbers(folder: Path) -> None:
    write_provenance(folder, RECORD)
    content = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert content["verdict"]["limits"][0]["name"] == "guard refusals lost"
    assert content["settings"]["fit"]["note"] == "Maßstab"
