"""Whether the header of a GGUF file fits into the file, before anything believes its numbers.

A reader that loops as often as a damaged or hostile header says does not come back.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type number; strings and arrays say how long they are."""
_MOST_DIMENSIONS = 4
_DEEPEST = 4
"""Arrays inside arrays: no writer makes even one."""


def check_header(path: Path) -> None:
    """Walk over the header without keeping anything.

    Raises:
        ValueError: if it is no GGUF header, or announces more than the file holds; names what and where.
    """
    if path.stat().st_size < len(_MAGIC):
        raise ValueError("the file is empty or nearly so")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Walk(data).header()


class _Walk:
    """A place in the file that only moves forward, and never beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._place, self._order = data, 0, "<"

    def header(self) -> None:
        if self._data[:4] != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        self._skip(4)
        if self._number("I") & 0xFFFF == 0:  # the version, a small number, in the other byte order
            self._order = ">"
        tensors, fields = self._number("Q"), self._number("Q")
        for _ in range(fields):
            self._string()
            self._value(self._number("I"))
        for _ in range(tensors):
            self._string()
            dimensions = self._number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions:,} dimensions at byte {self._place:,}")
            self._skip(8 * dimensions + 4 + 8)

    def _value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._number("I"), self._number("Q")
            if inner in _SIZES:
                self._skip(_SIZES[inner] * count)
                return
            for _ in range(count):
                self._value(inner, depth + 1)
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            raise ValueError(f"a value is of the unknown type {kind:,} at byte {self._place:,}")

    def _string(self) -> None:
        self._skip(self._number("Q"))

    def _number(self, kind: str) -> int:
        place = self._place
        self._skip(struct.calcsize(kind))
        return int(struct.unpack_from(self._order + kind, self._data, place)[0])

    def _skip(self, length: int) -> None:
        if length > len(self._data) - self._place:
            raise ValueError(f"its header announces {length:,} bytes at byte {self._place:,}, more than there are")
        self._place += length
