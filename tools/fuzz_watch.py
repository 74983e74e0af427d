"""What a reader must not do with a stranger's file, watched while it reads."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from unflinch.errors import UnflinchError

SECONDS = 5.0
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
_LEAVING = {
    "socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class"
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that must not happen."""

    what: str
    data: bytes


class Hang(BaseException):
    """Raised when a reader takes too long; no handler of ordinary exceptions catches it."""


class _Watch:
    """An audit hook: it cannot be taken off, so it is on only while a scratch folder is set."""

    def __init__(self) -> None:
        self.scratch: Path | None = None
        self.seen: list[str] = []
        self.installed = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.scratch is None:
            return
        if event in _LEAVING:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            self._check(event, arguments[0])
        elif event in _CHANGING:
            self._check(event, arguments[0])

    def _check(self, event: str, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.realpath(os.fsdecode(path))
            if self.scratch and not place.startswith(f"{self.scratch}{os.sep}") and place != os.devnull:
                self.seen.append(f"{event} of {place} outside the scratch folder")


_WATCH = _Watch()


def watched(read: Callable[[bytes, Path], object], data: bytes, scratch: Path) -> Finding | None:
    """Return what went wrong when `read` was given `data`, or None.

    Args:
        read: writes the data to a file in the folder it is given, and reads it.
        data: the content.
        scratch: an empty folder, emptied again afterwards.
    """
    if not _WATCH.installed:
        sys.addaudithook(_WATCH)
        _WATCH.installed = True
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _WATCH.scratch, _WATCH.seen = Path(os.path.realpath(scratch)), []
    what = ""
    try:
        read(data, scratch)
    except UnflinchError as error:
        if not str(error).strip() or "\n" in str(error):
            what = f"{type(error).__name__} without a plain line of text: {error!r:.300}"
    except BaseException as error:  # whatever else comes out is what is looked for
        what = f"{type(error).__name__}: {error!s:.300}"
        if isinstance(error, KeyboardInterrupt):
            raise
    finally:
        _WATCH.scratch = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for left in scratch.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    what = what or next(iter(_WATCH.seen), "")
    return Finding(what, data) if what else None


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise Hang(f"no end after {SECONDS:g} seconds")
