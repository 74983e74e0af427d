"""Where a patch, or a copy of a model with it, comes from: told by a file beside it and inside its weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import TypeAdapter, ValidationError

from unflinch.errors import PatchError
from unflinch.results import PromptSetHash, StoredVerdict
from unflinch.run_folder import plain

PROVENANCE = "provenance.json"
METADATA_KEY = "unflinch_provenance"
"""Under which safetensors metadata, and a patch's notes, hold the same as JSON, all but the hashes of files."""
GGUF_KEY = "unflinch.provenance"
"""The same in a GGUF file."""
WEIGHTS = (".safetensors", ".gguf")

Kind = Literal["adapter", "GGUF adapter", "merged model"]


@dataclass(frozen=True)
class BaseModelFacts:
    """The model that a patch was made for."""

    name: str
    """Its id on the Hub, or the last part of a local path."""
    on_hub: bool
    revision: str | None
    weight_hash: str
    """See `models.fingerprint`; empty where a patch of other make does not say."""


@dataclass(frozen=True)
class Provenance:
    """What was done to which model, with what, and what was measured afterwards."""

    kind: Kind
    unflinch: str
    """The version of the tool."""
    created: str
    """When the patch was measured, or where it was not, when this was written."""
    base: BaseModelFacts
    modules: int
    rank: int
    parameters: int
    strength: float = 1.0
    """At which a patch is merged, or was scaled for export; 1 is what the verdict is about."""
    verdict: StoredVerdict | None = None
    """Of the adapter at strength 1, with every budget as its limit; None if unflinch did not measure it."""
    data: Mapping[str, Mapping[str, PromptSetHash]] = field(default_factory=dict)
    """By split and kind of prompt."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the steps that made and measured the patch."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every file with weights beside it; empty inside those files."""

    @property
    def passed(self) -> bool:
        """Whether the verdict holds for this strength: a weaker patch takes fewer refusals away, a stronger more."""
        return self.verdict is not None and self.verdict.holds and 0 <= self.strength <= 1


_READER = TypeAdapter(Provenance)


def to_json(provenance: Provenance) -> str:
    """Return what goes into the weights' own metadata: one line of JSON without the hashes of files."""
    return json.dumps(plain(replace(provenance, files={})), ensure_ascii=False, sort_keys=True, allow_nan=False)


def from_json(text: str | bytes, source: str) -> Provenance:
    """Return the provenance that a text holds.

    Raises:
        PatchError: if it is damaged; names where it came from.
    """
    try:
        return _READER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise PatchError(
            f"{source} holds a damaged provenance record ({key}: {first['msg'].lower()}); fetch the folder again"
        ) from error


def read_provenance(folder: Path) -> Provenance | None:
    """Return what `provenance.json` of a folder says; None where there is no such file.

    Raises:
        PatchError: if it is damaged.
    """
    file = folder / PROVENANCE
    return from_json(file.read_bytes(), str(file)) if file.is_file() else None


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write the provenance into the metadata of every safetensors file of a folder, and beside them with their hashes.

    Each file is replaced whole or not at all, the one beside the weights last.

    Raises:
        OSError: if the disk does not take it.
    """
    text = to_json(provenance)
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as source, _replaced(file) as target:
            _copy_with_metadata(source, target, METADATA_KEY, text)
    hashes = {file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.suffix in WEIGHTS}
    whole = json.dumps(plain(replace(provenance, files=hashes)), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    with _replaced(folder / PROVENANCE) as target:
        target.write(whole.encode())


def changed_files(folder: Path, provenance: Provenance) -> list[str]:
    """Return the names of weight files that are not what the provenance says: changed, missing, or added.

    A link that leads out of the folder is not read, and counts as changed.
    """
    found = {file.name for file in folder.iterdir() if file.suffix in WEIGHTS}
    own = {name for name in found & provenance.files.keys() if is_own(folder, folder / name)}
    kept = {name for name in own if _sha256(folder / name) == provenance.files[name]}
    return sorted((found | provenance.files.keys()) - kept)


def is_own(folder: Path, file: Path) -> bool:
    """Return whether a file is a plain one that lies in the folder, or where links of it may lead to."""
    return file.is_file() and file.resolve().is_relative_to(root_of(folder))


def root_of(folder: Path) -> Path:
    """Return what links may lead to: the folder, or the whole repository in the cache of huggingface_hub."""
    here = folder.resolve()
    return here.parent.parent if here.parent.name == "snapshots" else here


@contextmanager
def _replaced(file: Path) -> Iterator[BinaryIO]:
    """Give a stream whose content takes the place of a file at the end, unless something is raised."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with unfinished.open("wb") as stream:
            yield stream
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _copy_with_metadata(source: BinaryIO, target: BinaryIO, key: str, value: str) -> None:
    """Copy a safetensors file with one more entry of metadata; the bytes of its tensors stay what they are.

    The format: length of the header in eight bytes, the header as JSON padded with spaces, the tensors.
    """
    header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
    header["__metadata__"] = {**header.get("__metadata__", {}), key: value}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write(len(text).to_bytes(8, "little") + text)
    shutil.copyfileobj(source, target, 1 << 24)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
