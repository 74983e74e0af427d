"""Damaged files end in one sentence; and what the fuzzer looks for, it finds."""

from __future__ import annotations

import importlib
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unflinch.errors import ConfigError, ModelError
from unflinch.models.gguf_file import check_gguf

fuzz: Any = importlib.import_module("fuzz")
fuzz_watch: Any = importlib.import_module("fuzz_watch")
READERS: dict[str, Any] = importlib.import_module("fuzz_readers").READERS
INPUTS = 250


@pytest.mark.parametrize("name", sorted(READERS))
@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's, of names in a config that it does not know
def test_no_damaged_file_gives_more_than_a_sentence(name: str) -> None:
    assert list(fuzz.fuzz(READERS[name], INPUTS, seed=7)) == []


@pytest.mark.parametrize("name", sorted(READERS))
def test_readers_take_the_valid_files_that_mutation_starts_from(name: str, tmp_path: Path) -> None:
    accepted = 0
    for number, data in enumerate(READERS[name].seeds):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            READERS[name].read(data, folder)
        except Exception:
            continue
        accepted += 1
    assert accepted >= 1


def write_outside(_data: bytes, scratch: Path) -> None:
    (scratch.parent / "elsewhere").write_bytes(b"")


def write_through_a_link(_data: bytes, scratch: Path) -> None:
    (scratch / "link").symlink_to(scratch.parent)
    (scratch / "link" / "elsewhere").write_bytes(b"")


def start_a_process(_data: bytes, _scratch: Path) -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def wait(_data: bytes, _scratch: Path) -> None:
    time.sleep(60)


def fail(_data: bytes, _scratch: Path) -> None:
    raise IndexError("a bug")


def fail_without_a_word(_data: bytes, _scratch: Path) -> None:
    raise ConfigError("")


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (write_outside, "outside the scratch folder"),
        (write_through_a_link, "outside the scratch folder"),
        (start_a_process, "subprocess.Popen"),
        (wait, "no end after"),
        (fail, "IndexError: a bug"),
        (fail_without_a_word, "without a plain line of text"),
    ],
)
def test_what_must_not_happen_is_found(
    read: Callable[[bytes, Path], object], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_watch, "SECONDS", 0.2)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    finding = fuzz_watch.watched(read, b"input", scratch)
    assert finding is not None and expected in finding.what and finding.data == b"input"


def test_allowed_outcomes_are_no_findings(tmp_path: Path) -> None:
    def refuse(_data: bytes, _scratch: Path) -> None:
        raise ConfigError("one sentence")

    for read in (refuse, lambda data, scratch: (scratch / "own").write_bytes(data)):
        assert fuzz_watch.watched(read, b"", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_mutation_depends_on_its_seed_alone() -> None:
    drawn = [fuzz.mutated(random.Random(seed), [b"some valid input", b"another"]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "announces"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "announces"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**60), "announces"),
        (b"GGUF" + struct.pack(">IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**60), "announces"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 2**31), "dimensions"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "unknown type"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 9) + struct.pack("<IQ", 9, 1) * 50, "unknown type"),
        (b"", "empty"),
        (b"PK\x03\x04 an archive", "begin with GGUF"),
    ],
)
def test_a_header_that_announces_too_much_is_turned_down_at_once(header: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header)
    started = time.monotonic()
    with pytest.raises(ModelError, match=said):
        check_gguf(path)
    assert time.monotonic() - started < 2
