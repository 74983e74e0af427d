"""A GGUF file as a folder of safetensors, dequantised once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGUFReader
from platformdirs import user_cache_path
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from unflinch.errors import ModelError
from unflinch.models.gguf_header import check_header
from unflinch.models.loading import LOADING_ERRORS, in_one_line, unfit_weights
from unflinch.models.memory import give_back_memory

_CHUNK = 1 << 22


def cache_folder() -> Path:
    """Return where dequantised models are kept: `UNFLINCH_CACHE`, else the platform's user cache folder."""
    override = os.environ.get("UNFLINCH_CACHE")
    return Path(override) if override else user_cache_path("unflinch")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_gguf(path: Path) -> GGUFReader:
    """Return what the header of a complete GGUF file says.

    Raises:
        ModelError: if the file is not a complete GGUF file.
    """
    try:
        check_header(path)
        reader = GGUFReader(path)
        end = max((t.data_offset + t.n_bytes for t in reader.tensors), default=0)
    except Exception as error:  # the reader raises whatever a damaged header leads to
        raise ModelError(
            f"{path} cannot be read as a GGUF file ({error}); expected a complete GGUF model: fetch the file again"
        ) from error
    if not reader.tensors or end > path.stat().st_size:
        raise ModelError(
            f"{path} is truncated: its header announces {end:,} bytes, the file has {path.stat().st_size:,}; "
            "fetch the file again"
        )
    return reader


def dequantised(path: Path, sha256: str | None = None) -> Path:
    """Return the cached safetensors folder of a GGUF file, making it on first use.

    Args:
        path: the GGUF file.
        sha256: its hash where already known.

    Raises:
        ModelError: if the file is damaged, or of a kind that cannot be dequantised.
    """
    folder = cache_folder() / "gguf" / (sha256 or file_sha256(path))[:32]
    if not folder.exists():  # else the same bytes have been read before: reading them all takes seconds
        with _header_read_once(path, check_gguf(path)):
            _convert(path, folder)
        give_back_memory()  # else a plan made now would count what the conversion took
    return folder


@contextmanager
def _header_read_once(path: Path, header: GGUFReader) -> Iterator[None]:
    """Give transformers, which reads a file's header for configuration, weights and tokenizer, what was read before.

    A vocabulary of 150,000 tokens takes six seconds each time.
    """

    def reader(given: str | Path, *options: Any) -> GGUFReader:
        return header if Path(given).resolve() == path.resolve() else GGUFReader(given, *options)

    gguf.GGUFReader = reader  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        gguf.GGUFReader = GGUFReader  # type: ignore[misc]


def _convert(path: Path, folder: Path) -> None:
    unfinished: Path | None = None
    whole_path = str(path.resolve())  # a name alone is looked for in the current folder first
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=whole_path,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            ignore_mismatched_sizes=True,  # found and refused below, with their names
            output_loading_info=True,
        )
        model, found = loaded
        _check_whole(path, found)
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(path.parent, gguf_file=whole_path).save_pretrained(unfinished)
        if not folder.exists():  # another process may have been faster
            unfinished.rename(folder)
    except OSError as error:
        raise ModelError(
            f"cannot keep the dequantised {path.name} in {folder.parent} ({error}); "
            "free some disk space or set UNFLINCH_CACHE to another folder"
        ) from error
    except LOADING_ERRORS as error:
        raise ModelError(
            f"{path} holds a model that cannot be dequantised ({in_one_line(error)}); "
            "expected an architecture that transformers reads from GGUF: give the safetensors folder instead"
        ) from error
    finally:
        if unfinished:
            shutil.rmtree(unfinished, ignore_errors=True)


def _check_whole(path: Path, found: Mapping[str, Any]) -> None:
    """Raise `ModelError` if the file lacks weights: transformers would make up random ones."""
    if unfit := unfit_weights(found):
        raise ModelError(
            f"{path} lacks {len(unfit)} of the model's weights, or has them in another shape, such as {unfit[0]}; "
            "it may be one part of a split file: join the parts with llama-gguf-split --merge, or fetch the file again"
        )
