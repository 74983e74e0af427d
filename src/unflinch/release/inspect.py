"""What an adapter or model folder is, read without loading it: headers and small JSON files only."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from safetensors import SafetensorError, safe_open

from unflinch.errors import PatchError
from unflinch.models.gguf_header import check_header
from unflinch.models.load import LoadedModel
from unflinch.patch.attach import check_fits
from unflinch.patch.save import check_base, load_patch
from unflinch.provenance import GGUF_KEY, PROVENANCE, WEIGHTS, Provenance, changed_files, from_json, is_own, root_of
from unflinch.release.sign import SIGNATURE

_PICKLES = frozenset((".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"))
_CODE = frozenset((".bat", ".dll", ".dylib", ".exe", ".js", ".py", ".pyc", ".sh", ".so"))
_LARGEST_JSON = 64 * 1024 * 1024


@dataclass(frozen=True)
class FolderFacts:
    """What is in a folder, or in one GGUF file."""

    kind: str
    """`PEFT adapter`, `GGUF adapter`, `merged model`, `model`, `GGUF model`, or `no model`."""
    base: str | None
    """The base model that it names."""
    touches: Mapping[str, int]
    """Of an adapter: how many modules of each kind it changes, such as `mlp.down_proj: 8`."""
    ranks: tuple[int, ...]
    """Of an adapter: all ranks, ascending."""
    parameters: int
    """Values in all tensors."""
    provenance: Provenance | None
    """None for what unflinch did not make."""
    changed: tuple[str, ...]
    """Weight files that are not what the provenance says."""
    signed: bool
    """Whether there is a signature; `verify` says whether it holds."""
    dangers: tuple[str, ...]
    """Files that can run code or lead out of the folder."""


def inspect_folder(path: Path) -> FolderFacts:
    """Return what a folder or a `.gguf` file is; nothing in it is run, unpickled, or read through a link out of it.

    Raises:
        PatchError: if there is no such path, or its weights have a damaged header.
    """
    if path.is_file():
        return _describe(path.parent, {path.name: path}, alone=True)
    if not path.is_dir():
        raise PatchError(f"no folder {path}; expected an adapter or model folder, or a .gguf file: check the path")
    return _describe(path, {file.name: file for file in sorted(path.iterdir()) if is_own(path, file)}, alone=False)


def check_made_for(path: Path, facts: FolderFacts, loaded: LoadedModel) -> str:
    """Return how well what was inspected fits a base model, in words.

    Raises:
        PatchError: if it does not fit.
    """
    known = facts.provenance.base.weight_hash if facts.provenance else ""
    if facts.kind == "PEFT adapter":
        patch = load_patch(path)
        check_base(patch, loaded.base_hash, loaded.model_id)
        check_fits(loaded.model, patch)
        known = patch.base_hash
    elif known and known != loaded.base_hash:
        raise PatchError(
            f"it was made for base weights {known[:12]}, but {loaded.model_id} has {loaded.base_hash[:12]}"
        )
    if known:
        return "yes, it was made for exactly these weights"
    return "its modules fit; it does not say for which weights it was made" if facts.touches else "it does not say"


def _describe(folder: Path, files: Mapping[str, Path], alone: bool) -> FolderFacts:
    shapes: dict[str, tuple[int, ...]] = {}
    metadata: dict[str, str] = {}
    for file in files.values():
        if file.suffix in WEIGHTS:
            found, told = (_gguf_header if file.suffix == ".gguf" else _safetensors_header)(file)
            shapes, metadata = {**shapes, **found}, {**metadata, **told}
    configs = {name: _json(files[name]) for name in ("adapter_config.json", "config.json") if name in files}
    provenance = _provenance(files, metadata)
    pairs = {name: shape for name, shape in shapes.items() if _is_first_factor(name)}
    adapter, config = configs.get("adapter_config.json", {}), configs.get("config.json", {})
    named = adapter.get("base_model_name_or_path")
    return FolderFacts(
        kind=_kind(metadata, adapter, config, shapes),
        base=provenance.base.name if provenance else named if isinstance(named, str) else None,
        touches=dict(sorted(Counter(_module_kind(name) for name in pairs).items())),
        ranks=tuple(sorted({shape[0] for shape in pairs.values()})),
        parameters=sum(_product(shape) for shape in shapes.values()),
        provenance=provenance,
        changed=() if alone or provenance is None else tuple(changed_files(folder, provenance)),
        signed=SIGNATURE in files,
        dangers=() if alone else tuple(sorted(_dangers(folder, config, files))),
    )


def _kind(
    metadata: Mapping[str, str], adapter: Mapping[str, Any], config: Mapping[str, Any], shapes: Mapping[str, Any]
) -> str:
    if "general.architecture" in metadata:
        return "GGUF adapter" if metadata.get("general.type") == "adapter" else "GGUF model"
    if adapter and shapes:
        return "PEFT adapter"
    if config and shapes:
        return "merged model" if config.get("unflinch_modified") is True else "model"
    return "no model"


def _provenance(files: Mapping[str, Path], metadata: Mapping[str, str]) -> Provenance | None:
    """Return what the file says or, for a GGUF file without its folder, the metadata."""
    if PROVENANCE in files:
        return from_json(files[PROVENANCE].read_bytes(), str(files[PROVENANCE]))
    return from_json(metadata[GGUF_KEY], "the file") if GGUF_KEY in metadata else None


def _safetensors_header(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    try:
        with safe_open(file, framework="numpy") as stream:
            shapes = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
            return shapes, dict(stream.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise PatchError(f"{file} has a damaged header ({error}); fetch it again") from error


def _gguf_header(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    try:
        check_header(file)  # the reader loops as often as a header says
        reader = gguf.GGUFReader(file)
        shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
        texts = [name for name, field in reader.fields.items() if field.types == [gguf.GGUFValueType.STRING]]
        return shapes, {name: str(reader.fields[name].contents()) for name in texts}
    except Exception as error:  # the reader raises whatever a damaged header leads to
        raise PatchError(f"{file} has a damaged header ({error}); fetch it again") from error


def _is_first_factor(name: str) -> bool:
    return name.endswith((".lora_A.weight", ".lora_a"))


def _module_kind(tensor: str) -> str:
    """Return a module's name inside its layer: `mlp.down_proj`, or `ffn_down` in GGUF."""
    name = tensor.removesuffix(".lora_A.weight").removesuffix(".weight.lora_a")
    parts = name.split(".")
    place = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[place + 1 :])


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _json(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _LARGEST_JSON:
        raise PatchError(f"{file} has {file.stat().st_size:,} bytes, more than any such file needs; do not use it")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PatchError(f"{file} is no JSON ({error}); fetch it again") from error
    return content if isinstance(content, dict) else {}


def _dangers(folder: Path, config: Mapping[str, Any], files: Mapping[str, Path]) -> Iterator[str]:
    root = root_of(folder)
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            entry = Path(place, name)
            shown = entry.relative_to(folder).as_posix()
            mode = entry.lstat().st_mode
            if stat.S_ISLNK(mode) and not entry.resolve().is_relative_to(root):
                yield f"{shown} is a link that leads out of the folder"
            elif not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                yield f"{shown} is neither a file nor a folder"
            elif entry.suffix.lower() in _PICKLES:
                yield f"{shown} can hold pickled objects, which run code when they are loaded"
            elif entry.suffix.lower() in _CODE:
                yield f"{shown} is program code"
    if "auto_map" in config:
        yield "config.json asks for code of its own to be run (auto_map)"
    for name in files:
        if name.endswith(".safetensors.index.json"):
            shards = _json(files[name]).get("weight_map", {})
            outside = {str(shard) for shard in shards.values() if os.path.basename(str(shard)) != str(shard)}
            yield from (f"{name} names weights outside of the folder: {shard}" for shard in sorted(outside))
