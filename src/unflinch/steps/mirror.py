"""The run folder of workers that run together: the first one's is the run, the others work on copies of their own.

So every step reads and writes as it does alone, no disk need be shared, and after each step all go on from the first
worker's numbers: there is one result, however much the machines differ in rounding.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any

from unflinch.launch import is_first, workers
from unflinch.models.workers import by_first
from unflinch.run_folder import RunFolder, open_run


def open_for_all(path: Path, settings: Mapping[str, Any], resume: bool) -> RunFolder:
    """Return the run folder, opened by the first worker; on the others a copy that goes when they end.

    Raises:
        RunFolderError: on every worker, as `open_run` does.
    """
    if workers() == 1:
        return open_run(path, settings, resume)
    folder = RunFolder(path)
    files = by_first(lambda: _contents(_kept(open_run(path, settings, resume)), path))
    if not is_first():
        scratch = Path(tempfile.mkdtemp(prefix="unflinch-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        folder = RunFolder(scratch / path.name)
    _take_over(folder, files)
    return folder


def mirror_step(folder: RunFolder, step: str) -> None:
    """Give every worker the files of the first one whose names begin with a step's."""
    if workers() > 1:
        _take_over(folder, by_first(lambda: _contents(folder.steps.glob(f"{step}*"), folder.path)))


def _kept(folder: RunFolder) -> Iterator[Path]:
    """Yield what a later call goes on from: not what an interrupted one had no memory for."""
    return (path for path in folder.path.rglob("*") if not path.is_relative_to(folder.scratch))


def _contents(paths: Iterable[Path], root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def _take_over(folder: RunFolder, files: Mapping[str, bytes]) -> None:
    for name, content in files.items() if not is_first() else ():
        folder.write_file(folder.path / name, methodcaller("write_bytes", content))
