"""A run folder: files whole or not at all, resumed with the same settings only, and safe on a full disk."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.errors import RunFolderError
from unflinch.results import Interval, Rate
from unflinch.run_folder import RunFolder, open_run, plain, read_json, write_json

SETTINGS: dict[str, Any] = {"model": {"model": "demo", "dtype": "auto"}, "fit": {"rank": 4, "seed": 0}}


@dataclass(frozen=True)
class Found:
    """Something nested that a step may write."""

    rates: tuple[Rate, ...]
    place: Path
    share: float | None = None


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return open_run(tmp_path / "runs" / "first", SETTINGS, resume=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill_disk(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """From here on every write, or every renaming, finds the disk full; half of a text still gets through."""
    original = Path.write_text

    def half_written(path: Path, text: str, **kwargs: Any) -> None:
        original(path, text[: len(text) // 2], **kwargs)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def not_renamed(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "write":
        monkeypatch.setattr(Path, "write_text", half_written)
    else:
        monkeypatch.setattr(os, "replace", not_renamed)


def test_a_step_comes_back_with_its_seconds_as_plain_values(run: RunFolder) -> None:
    found = Found((Rate(1, 4, Interval(0.0, 0.5)),), Path("a") / "b")
    assert not run.done("scan")
    run.write_step("scan", found, 1.23456)
    assert run.done("scan")
    rate = {"count": 1, "n": 4, "interval": {"low": 0.0, "high": 0.5, "level": 0.95}}
    expected = {"seconds": 1.235, "data": {"rates": [rate], "place": str(Path("a/b")), "share": None}}
    assert run.read_step("scan") == expected
    assert RunFolder(run.path).read_step("scan") == expected


def test_a_step_that_has_not_run_is_named_with_what_to_do(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="has no finished step 'fit'; run it first, or use --resume"):
        run.read_step("fit")


def test_a_damaged_step_says_so(run: RunFolder) -> None:
    run.write_step("scan", {"a": 1}, 1.0)
    file = run.step_file("scan")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(RunFolderError, match=r"scan.json cannot be read .* damaged: run the step again"):
        run.read_step("scan")


def test_a_step_that_holds_no_object_says_so(run: RunFolder) -> None:
    run.write_step("scan", {"a": 1}, 1.0)
    run.step_file("scan").write_text("[1]", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"scan.json holds a list where a JSON object was expected"):
        run.read_step("scan")


def test_a_file_that_its_writer_does_not_finish_never_appears(run: RunFolder) -> None:
    def interrupted(path: Path) -> None:
        path.write_text("half of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.write_file(run.step_file("fit", ".safetensors"), interrupted)
    assert not run.step_file("fit", ".safetensors").exists()
    run.write_file(run.step_file("fit", ".safetensors"), lambda path: path.write_text("all of it"))
    assert run.step_file("fit", ".safetensors").read_text() == "all of it"
    assert [path.name for path in run.steps.iterdir()] == ["fit.safetensors"]


@pytest.mark.parametrize("place", ["write", "rename"])
def test_a_full_disk_leaves_earlier_files_as_they_were(
    run: RunFolder, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_step("scan", {"a": 1}, 1.0)
    before = contents(run.path)
    fill_disk(monkeypatch, place)
    for step in ("scan", "fit"):
        with pytest.raises(
            RunFolderError, match=rf"{step}.json \(No space left on device\).*then continue with --resume"
        ):
            run.write_step(step, {"b": 2}, 1.0)
    assert contents(run.path) == before
    assert run.done("scan")
    assert not run.done("fit")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_never_written(run: RunFolder, value: float) -> None:
    run.write_step("scan", {"a": 1}, 1.0)
    before = contents(run.path)
    with pytest.raises(ValueError, match="[Oo]ut of range float|not JSON compliant"):
        run.write_step("scan", {"a": [1.0, value]}, 1.0)
    assert contents(run.path) == before


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=json_values)
def test_plain_data_is_written_as_it_is(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "data.json"
    assert plain(data) == data
    write_json(file, data)
    assert read_json(file) == data


def test_tuples_dataclasses_and_paths_become_what_json_holds() -> None:
    assert plain({1: (Interval(0.0, 1.0), Path("x"))}) == {"1": [{"low": 0.0, "high": 1.0, "level": 0.95}, "x"]}


def test_a_run_can_be_resumed_with_the_same_settings(run: RunFolder) -> None:
    run.write_step("scan", {"a": 1}, 1.0)
    again = open_run(run.path, SETTINGS, resume=True)
    assert again.read_step("scan")["data"] == {"a": 1}
    assert read_json(run.path / "settings.json") == SETTINGS


def test_resuming_what_was_not_there_begins_it(tmp_path: Path) -> None:
    assert open_run(tmp_path / "new", SETTINGS, resume=True).path.is_dir()


def test_resuming_with_other_settings_names_every_changed_option(run: RunFolder) -> None:
    changed = {"model": {"model": "demo", "dtype": "float32"}, "fit": {"rank": 4}, "validate": {"keep_best": True}}
    before = contents(run.path)
    with pytest.raises(RunFolderError) as caught:
        open_run(run.path, changed, resume=True)
    assert "other settings (fit.seed, model.dtype, validate)" in str(caught.value)
    assert contents(run.path) == before


def test_settings_survive_the_way_through_json(tmp_path: Path) -> None:
    settings = {"a": (1, 2.5), "b": {"c": None, "path": tmp_path}, "d": [Interval(0.1, 0.2)]}
    open_run(tmp_path / "run", settings, resume=False)
    open_run(tmp_path / "run", settings, resume=True)


def test_a_folder_that_holds_a_run_is_not_taken_without_resume(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="already holds a run; give another --name, or --resume"):
        open_run(run.path, SETTINGS, resume=False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    (tmp_path / "file").write_text("a file")
    for name in ("photos", "file"):
        with pytest.raises(RunFolderError, match="exists and is no run folder; give another --name"):
            open_run(tmp_path / name, SETTINGS, resume)
    assert contents(tmp_path) == {"photos/cat.jpg": b"cat", "file": b"a file"}


def test_an_empty_folder_can_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    open_run(tmp_path / "empty", SETTINGS, resume=False)
    assert read_json(tmp_path / "empty" / "settings.json") == SETTINGS


def test_a_patch_gets_its_name_only_once_it_is_accepted(run: RunFolder) -> None:
    run.unverified_patch.mkdir(parents=True)
    (run.unverified_patch / "adapter_config.json").write_text("new")
    assert not run.patch.exists()
    run.patch.mkdir()
    (run.patch / "adapter_config.json").write_text("old")
    run.accept_patch()
    assert not run.unverified_patch.exists()
    assert (run.patch / "adapter_config.json").read_text() == "new"


def test_a_patch_that_did_not_pass_is_removed_with_all_its_factors(run: RunFolder) -> None:
    for folder in (run.unverified_patch, run.patch):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_text("factors")
    run.step_file("fit", ".safetensors").write_text("factors")
    run.step_file("fit_2", ".safetensors").write_text("factors")
    run.write_step("scan", {"a": 1}, 1.0)
    run.discard_patch()
    run.discard_patch()
    assert not [name for name in contents(run.path) if "safetensors" in name]
    assert run.done("scan")


def test_settings_are_readable_text(run: RunFolder) -> None:
    write_json(run.path / "text.json", {"name": "żółw"})
    assert "żółw" in (run.path / "text.json").read_text(encoding="utf-8")
    assert json.loads((run.path / "settings.json").read_text(encoding="utf-8")) == SETTINGS
