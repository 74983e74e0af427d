"""A model carried by installed data packages is joined, checked against its hash, and never imported."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_gguf import write_gguf
from tiny_models import own_logits, tiny_model

from unflinch.errors import ModelError
from unflinch.models import demo_model
from unflinch.models.demo_model import DEMO, DEMO_LARGE, WheelModel, wheel_model_folder
from unflinch.models.gguf_file import cache_folder
from unflinch.models.load import load_model


def install(site: Path, name: str, files: dict[str, bytes]) -> None:
    """Put files of a distribution where `importlib.metadata` finds them."""
    record = []
    for file, content in {**files, f"{name}/__init__.py": b"raise RuntimeError('imported')"}.items():
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        record.append(f"{file},,")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join(record) + "\n")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNFLINCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def wheel_model(site: Path, cache: Path, tmp_path: Path) -> WheelModel:
    """A tiny model in three installed pieces of different size."""
    content = write_gguf(tiny_model("qwen2"), tmp_path / "tiny.gguf").read_bytes()
    cuts: Sequence[int] = (0, 1000, len(content) // 3, len(content))
    names = ("tiny_part_a", "tiny_part_b", "tiny_part_c")
    for name, start, end in zip(names, cuts, cuts[1:], strict=False):
        install(site, name, {f"{name}/weights.bin": content[start:end], f"{name}/notes.txt": b"no data"})
    return WheelModel("Tiny", "owner/Tiny", names, ".bin", hashlib.sha256(content).hexdigest(), "tiny")


def test_installed_pieces_join_to_the_model(wheel_model: WheelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo_model.WHEEL_MODELS, "tiny", wheel_model)
    loaded = load_model("tiny", dtype="float32", device="cpu")
    reference = tiny_model("qwen2", dtype=torch.bfloat16).float()
    torch.testing.assert_close(own_logits(loaded.model, (5, 6, 7)), own_logits(reference, (5, 6, 7)))
    assert (loaded.model_id, loaded.hub_id) == ("tiny", "owner/Tiny")
    assert loaded.source.startswith(str(cache_folder()))


def test_a_joined_model_is_kept_and_needs_its_pieces_no_more(
    wheel_model: WheelModel, site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = wheel_model_folder(wheel_model)
    assert list((cache / "gguf").iterdir()) == [folder]
    monkeypatch.setattr(demo_model.metadata, "files", lambda _: pytest.fail("looked for a package"))
    assert wheel_model_folder(wheel_model) == folder


def test_pieces_with_another_hash_are_refused_and_leave_nothing(
    wheel_model: WheelModel, site: Path, cache: Path
) -> None:
    piece = site / "tiny_part_b" / "weights.bin"
    piece.write_bytes(piece.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match=f"expected {wheel_model.sha256}; reinstall them: .*unflinch\\[tiny\\]"):
        wheel_model_folder(wheel_model)
    assert list((cache / "gguf").iterdir()) == []


def test_pieces_in_another_order_are_refused(wheel_model: WheelModel) -> None:
    first, *others = wheel_model.distributions
    with pytest.raises(ModelError, match="join to SHA-256"):
        wheel_model_folder(replace(wheel_model, distributions=(*others, first)))


def test_a_package_that_is_not_installed_is_named_with_what_to_run(wheel_model: WheelModel) -> None:
    lacking = replace(wheel_model, distributions=(*wheel_model.distributions[:2], "tiny_part_z"))
    message = "Tiny needs the data package tiny_part_z, which is not installed; run: pip install 'unflinch[tiny]'"
    with pytest.raises(ModelError, match=re.escape(message)):
        wheel_model_folder(lacking)


def test_a_package_without_its_data_file_is_named(wheel_model: WheelModel) -> None:
    with pytest.raises(ModelError, match="Tiny needs the data package tiny_part_a"):
        wheel_model_folder(replace(wheel_model, suffix=".gguf"))


def test_a_piece_that_cannot_be_read_is_a_model_error(wheel_model: WheelModel, site: Path, cache: Path) -> None:
    (site / "tiny_part_c" / "weights.bin").unlink()
    with pytest.raises(ModelError, match="cannot join the data files of Tiny"):
        wheel_model_folder(wheel_model)
    assert list((cache / "gguf").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_a_model_error(
    wheel_model: WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("UNFLINCH_CACHE", str(tmp_path / "taken"))
    with pytest.raises(ModelError, match="set UNFLINCH_CACHE to another folder"):
        wheel_model_folder(wheel_model)


@pytest.mark.parametrize("model", [DEMO, DEMO_LARGE])
def test_the_packages_of_a_demo_are_those_of_its_extra(model: WheelModel) -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extra = pyproject["project"]["optional-dependencies"][model.extra]
    assert [line.partition("==")[0] for line in extra] == list(model.distributions)
