"""What goes wrong while files of a model are read, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from unflinch.errors import ModelError

LOADING_ERRORS = (
    *(OSError, ValueError, LookupError, ImportError, RuntimeError, SafetensorError, StrictDataclassError),
    *(ArithmeticError, TypeError),  # for files that hold something else than they should
)
"""What transformers raises for a model that is missing, damaged, or needs code or packages that are not there."""


@contextmanager
def loading(model_id: str, quantisation: str | None = None) -> Iterator[None]:
    """Turn whatever goes wrong while files of a model are read into one sentence.

    Args:
        model_id: what is read.
        quantisation: how its weights are stored, if not as plain numbers.

    Raises:
        ModelError: for every error that transformers raises there.
    """
    try:
        yield
    except LOADING_ERRORS as error:
        hint = f"; its weights are quantised ({quantisation}): give the unquantised model" if quantisation else ""
        raise ModelError(f"cannot load the model '{model_id}': {in_one_line(error)}{hint}") from error


def in_one_line(error: Exception) -> str:
    """Return the beginning of the error's message, with what to do where code of the model is asked for."""
    text = " ".join(str(error).split()) or type(error).__name__
    hint = "; trust_remote_code allows it, if you trust the author" if "trust_remote_code" in text else ""
    return (text if len(text) <= 300 else f"{text[:300]} ...") + hint


def unfit_weights(found: Mapping[str, Any]) -> list[str]:
    """Return the names of weights that the files lack or hold in another shape, in place of which there is chance.

    Args:
        found: what `from_pretrained` tells with `output_loading_info` and `ignore_mismatched_sizes`.
    """
    return sorted([*found["missing_keys"], *(name for name, *_shapes in found["mismatched_keys"])])
