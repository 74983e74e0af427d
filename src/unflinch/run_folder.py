"""The folder of one run: where each step keeps its results, and what lets an interrupted run go on.

A step's file appears whole or not at all, so a step is done exactly when its file is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from unflinch.errors import RunFolderError

SETTINGS = "settings.json"
RESULTS = "results.json"
REPORT = "report.html"
PATCH = "patch"


class RunFolder:
    """`runs/NAME`: settings, one JSON file a step in `steps/`, results, report and patch."""

    def __init__(self, path: Path) -> None:
        """Refer to an existing run folder; see `open_run` for making one."""
        self.path = path

    @property
    def steps(self) -> Path:
        """Folder of the steps' own files."""
        return self.path / "steps"

    @property
    def patch(self) -> Path:
        """Where the patch goes once its guard has passed."""
        return self.path / PATCH

    @property
    def unverified_patch(self) -> Path:
        """Where the exported patch waits while it is measured; gone afterwards."""
        return self.steps / "unverified_patch"

    @property
    def scratch(self) -> Path:
        """Where statistics that memory does not hold wait while a step works; gone afterwards."""
        return self.steps / "scratch"

    def step_file(self, step: str, suffix: str = ".json") -> Path:
        """Return the path of a step's file."""
        return self.steps / f"{step}{suffix}"

    def done(self, step: str) -> bool:
        """Whether a step has finished."""
        return self.step_file(step).is_file()

    def read_step(self, step: str) -> dict[str, Any]:
        """Return what a finished step wrote.

        Raises:
            RunFolderError: if the step has not run, or its file is damaged.
        """
        if not self.done(step):
            raise RunFolderError(f"{self.path} has no finished step '{step}'; run it first, or use --resume")
        return read_object(self.step_file(step))

    def write_step(self, step: str, data: object, seconds: float) -> None:
        """Write a step's result with the seconds it took; from here on the step is done."""
        write_json(self.step_file(step), {"seconds": round(seconds, 3), "data": plain(data)})

    def forget_step(self, step: str) -> None:
        """Have a step done anew."""
        self.step_file(step).unlink(missing_ok=True)

    def write_file(self, path: Path, write: Callable[[Path], object]) -> None:
        """Let `write` fill a file under a temporary name, then give it its name.

        Raises:
            RunFolderError: if the disk does not take it.
        """
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(unfinished)
            os.replace(unfinished, path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise disk_error(path, error) from error

    def accept_patch(self) -> None:
        """Give the measured patch its name."""
        if self.patch.exists():
            shutil.rmtree(self.patch)
        os.replace(self.unverified_patch, self.patch)

    def discard_patch(self) -> None:
        """Remove a patch that did not pass, with the factors that it was made from."""
        for folder in (self.unverified_patch, self.patch):
            if folder.exists():
                shutil.rmtree(folder)
        for factors in self.steps.glob("fit*.safetensors"):
            factors.unlink()


def open_run(path: Path, settings: Mapping[str, Any], resume: bool) -> RunFolder:
    """Return the run folder, made or, with `resume`, continued.

    Args:
        path: `runs/NAME`.
        settings: everything that influences results; must equal what an interrupted run was started with.
        resume: go on with what is there.

    Raises:
        RunFolderError: if the folder exists and `resume` is off, or belongs to other settings, or cannot be written.
    """
    run = RunFolder(path)
    file = path / SETTINGS
    given = plain(settings)
    if file.is_file():
        if not resume:
            raise RunFolderError(
                f"{path} already holds a run; give another --name, or --resume to continue it with the same settings"
            )
        stored = read_object(file)
        changed = sorted(_differences(stored, given))
        if changed:
            raise RunFolderError(
                f"{path} was started with other settings ({', '.join(changed)}); "
                "resume with the same ones or give another --name"
            )
        return run
    if path.exists() and (not path.is_dir() or any(f.name != f".{SETTINGS}.unfinished" for f in path.iterdir())):
        raise RunFolderError(f"{path} exists and is no run folder; give another --name")
    write_json(file, given)
    return run


def plain(data: object) -> Any:
    """Return dataclasses, tuples and mappings as what JSON can hold."""
    if is_dataclass(data) and not isinstance(data, type):
        return plain(asdict(data))
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    if isinstance(data, Path):
        return str(data)
    return data


def write_json(path: Path, data: object) -> None:
    """Write JSON that appears whole or not at all.

    Raises:
        RunFolderError: if the disk does not take it.
    """
    text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    RunFolder(path.parent).write_file(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        RunFolderError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); it is missing or damaged: run the step again"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        RunFolderError: if it is missing, damaged, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise RunFolderError(
            f"{path} holds a {type(found).__name__} where a JSON object was expected; run the step again"
        )
    return found


def disk_error(path: Path, error: OSError) -> RunFolderError:
    """Return the error for a file that could not be written; nothing written before is touched."""
    return RunFolderError(
        f"cannot write {path} ({error.strerror or error}); free some disk space or choose another folder, "
        "then continue with --resume"
    )


def _differences(stored: Any, given: Any, name: str = "") -> list[str]:
    if isinstance(stored, dict) and isinstance(given, dict):
        keys = stored.keys() | given.keys()
        return [d for k in keys for d in _differences(stored.get(k), given.get(k), f"{name}.{k}" if name else k)]
    return [] if stored == given else [name]
