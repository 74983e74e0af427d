"""Throws damaged input at everything that reads a stranger's file, and says what went wrong.

Allowed are a result, or one of the errors of `unflinch.errors` with one line of text. Everything else is a finding:
another exception, five seconds without an end, a file opened for writing outside the scratch folder, a connection,
a process, a class loaded by pickle.

    python tools/fuzz.py --inputs 100000                     # all readers, mutated from valid files
    python tools/fuzz.py --reader gguf --engine atheris      # one reader, guided by coverage (pip install atheris)
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from fuzz_readers import Reader
    from fuzz_watch import Finding

_NUMBERS = (b"0", b"-1", b"1e999", b"18446744073709551615", b"NaN", b"null", b"true", b"\x00", b"\xff\xff\xff\xff")
_STRUCTURE = (
    b"{",
    b"}",
    b"[" * 5000,
    b'{"a":' * 2000,
    b'"',
    b"\\ud800",
    b"\n",
    b"\r\n",
    b",",
    b"=",
    b"../../etc/x",
    b"\xed\xa0\x80",
)
_LONGEST = 1 << 16


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return a valid input after one to eight random changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(data) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 64))
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[place : place + length] * chance.choice((1, 2, 50))
        elif kind == 3:
            data[place : place + length] = chance.choice(_NUMBERS)
        elif kind == 4:
            data[place:place] = chance.choice(_STRUCTURE)
        else:
            other = chance.choice(seeds)
            data[place:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data[:_LONGEST])


def fuzz(reader: Reader, inputs: int, seed: int) -> Iterator[Finding]:
    """Yield what went wrong in `inputs` mutated inputs of a reader."""
    from fuzz_watch import watched

    chance, seeds = random.Random(seed), reader.seeds
    with tempfile.TemporaryDirectory(prefix="unflinch-fuzz-") as scratch:
        for _ in range(inputs):
            data = mutated(chance, seeds)
            finding = watched(reader.read, data, Path(scratch))
            if finding:
                yield finding


def fuzz_by_coverage(name: str, inputs: int, seed: int) -> None:
    """Let atheris look for inputs that reach new code; it ends the process, with a traceback at the first finding."""
    import atheris

    with atheris.instrument_imports(include=["unflinch", "gguf", "peft.config"]):
        from fuzz_readers import READERS
    from fuzz_watch import watched

    reader = READERS[name]
    with tempfile.TemporaryDirectory(prefix="unflinch-fuzz-") as scratch:
        corpus, room = Path(scratch, "corpus"), Path(scratch, "room")
        corpus.mkdir()
        room.mkdir()
        for number, valid in enumerate(reader.seeds):
            (corpus / str(number)).write_bytes(valid)

        def one_input(data: bytes) -> None:
            finding = watched(reader.read, data, room)
            if finding:
                raise RuntimeError(f"{finding.what}, input: {finding.data!r}")

        options = [f"-runs={inputs}", f"-seed={seed + 1}", f"-max_len={_LONGEST}", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", metavar="NAME", action="append", help="see fuzz_readers.py; default: all")
    parser.add_argument("--inputs", type=int, default=10_000, help="in all, shared among the readers by their speed")
    parser.add_argument("--engine", choices=("mutation", "atheris"), default="mutation")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.getLogger("unflinch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    if given.engine == "atheris":
        if not given.reader or len(given.reader) != 1:
            parser.error("atheris ends the process: give one --reader")
        fuzz_by_coverage(given.reader[0], given.inputs, given.seed)
        return 0
    from fuzz_readers import READERS

    chosen = {name: READERS[name] for name in given.reader or READERS}
    found, shares = 0, sum(reader.share for reader in chosen.values())
    for name, reader in chosen.items():
        inputs, started = round(given.inputs * reader.share / shares), time.monotonic()
        findings = list(fuzz(reader, inputs, given.seed))
        found += len(findings)
        seconds = round(time.monotonic() - started)
        print(json.dumps({"reader": name, "inputs": inputs, "findings": len(findings), "seconds": seconds}))
        for finding in findings[:5]:
            print(f"  {finding.what}\n  input: {finding.data[:300]!r}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
