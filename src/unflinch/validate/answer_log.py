"""Answers kept while a long measurement goes on, so that an interrupted one loses at most the batch it was at."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from unflinch.run_folder import disk_error


class AnswerLog:
    """A file of JSON lines, one a batch: a key made of what was asked, and the answers.

    A line that was cut off in the middle of writing counts as missing, so its batch is asked again.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Read what is there; without a file, answers are kept only in memory.

        Raises:
            RunFolderError: if the file cannot be read.
        """
        self._file = file
        self._known: dict[str, list[Any]] = {}
        try:
            lines = file.read_text(encoding="utf-8").split("\n") if file and file.is_file() else []
        except OSError as error:
            assert file is not None
            raise disk_error(file, error) from error
        for line in lines:
            try:
                record = json.loads(line)
                self._known[record["asked"]] = record["answers"]
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, asked: object) -> list[Any] | None:
        """Return the answers to a batch, None if it was never finished."""
        return self._known.get(_key(asked))

    def add(self, asked: object, answers: list[Any]) -> None:
        """Keep the answers to a batch.

        Raises:
            RunFolderError: if the disk does not take them.
        """
        self._known[_key(asked)] = answers
        if self._file is None:
            return
        line = json.dumps({"asked": _key(asked), "answers": answers}, ensure_ascii=False)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(f"\n{line}")  # the line break first: what may have been cut off stays a line of its own
        except OSError as error:
            raise disk_error(self._file, error) from error


def _key(asked: object) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
