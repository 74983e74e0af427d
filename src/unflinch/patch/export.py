"""What every export of a patch shares: a new folder that appears whole, and the record of where it comes from."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError

from unflinch.artifacts import Patch
from unflinch.errors import ConfigError, InputError
from unflinch.models.load import LoadedModel
from unflinch.provenance import METADATA_KEY, BaseModelFacts, Kind, Provenance, from_json


def check_strength(strength: float) -> None:
    """Raise `ConfigError` if the strength is not finite."""
    if not math.isfinite(strength):
        raise ConfigError(f"strength is {strength}; expected a number, 1 being the patch as it was validated")


def check_new_folder(out: Path, model_id: str) -> None:
    """Raise `InputError` if an export of a patch for `model_id` must not be written to `out`."""
    if out.resolve() == Path(model_id).expanduser().resolve():
        raise InputError(f"{out} is the folder of the model itself, which is never changed; give another folder")
    if out.resolve() == Path.cwd():
        raise InputError(f"{out} is the current folder; give the name of a new one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; give a new folder")


@contextmanager
def new_folder(out: Path, model_id: str) -> Iterator[Path]:
    """Give a folder to be filled, which gets the name `out` if that succeeds and is removed otherwise.

    Raises:
        InputError: the folder is in use, or cannot be written.
    """
    check_new_folder(out, model_id)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if out.exists():
            out.rmdir()
        os.replace(unfinished, out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {out} ({reason}); free some disk space or choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def provenance_of(patch: Patch, loaded: LoadedModel, kind: Kind, strength: float) -> Provenance:
    """Return the provenance of an export: that of the patch with another kind and strength.

    A patch of other make brings none: then it says which model was changed and how, and that nothing was measured.

    Raises:
        PatchError: if the patch brings one that is damaged.
    """
    if METADATA_KEY in patch.notes:
        return replace(from_json(patch.notes[METADATA_KEY], "the patch"), kind=kind, strength=strength)
    local = Path(loaded.source).name  # a path would tell strangers about the maker's disk
    return Provenance(
        kind=kind,
        unflinch=version("unflinch"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=BaseModelFacts(loaded.hub_id or local, loaded.hub_id is not None, loaded.revision, loaded.base_hash),
        modules=len(patch.factors),
        rank=max(factors.a.shape[0] for factors in patch.factors.values()),
        parameters=patch.parameters,
        strength=strength,
    )
