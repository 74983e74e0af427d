"""A copy of the model with the patch in its weights, for programs that load no adapters."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from unflinch.artifacts import Patch
from unflinch.errors import ConfigError, InputError, PatchError
from unflinch.models.load import LoadedModel
from unflinch.patch.attach import attached
from unflinch.patch.save import check_base

_README = """# {name}, modified by unflinch

The weights in this folder are a modified copy of `{name}`{revision}: they are not the original model.
unflinch {version} added a low-rank patch at strength {strength:g} to {modules} of its linear modules, so that the
model refuses fewer harmless questions. `config.json` says so as well: `"unflinch_modified": true`.

What the patch changes, and what was measured to stay as it was, is in the patch's own model card; it was measured
as an adapter at strength 1, before the weights were rounded to {dtype} here. The original model's licence applies.
"""


def check_copy_folder(out: Path, model_id: str) -> None:
    """Raise `InputError` if a merged copy of `model_id` must not be written to `out`."""
    if out.resolve() == Path(model_id).expanduser().resolve():
        raise InputError(f"{out} is the folder of the model itself, which is never changed; give another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; give a new folder for the copy")


def merge_into_copy(loaded: LoadedModel, patch: Patch, out: Path, strength: float = 1.0) -> Path:
    """Write a copy of the model with the patch in its weights, and return its folder.

    W' = W + strength * b @ a, added in float32 and rounded to the weight's own type. The folder appears whole or not
    at all. The loaded model is bit-equal before and after.

    Args:
        loaded: the base model.
        patch: made for it.
        out: new or empty folder.
        strength: 1 is the patch as it was validated.

    Raises:
        PatchError: the patch belongs to another model, or changes a weight that two modules share.
        ConfigError: the strength is not finite.
        InputError: the folder is in use, or cannot be written.
    """
    if not math.isfinite(strength):
        raise ConfigError(f"strength is {strength}; expected a number, 1 being the patch as it was validated")
    check_base(patch, loaded.base_hash, loaded.model_id)
    check_copy_folder(out, loaded.model_id)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        with merged(loaded.model, patch, strength):
            loaded.model.save_pretrained(unfinished)
        loaded.tokenizer.save_pretrained(unfinished)
        _mark(unfinished, loaded, patch, strength)
        if out.exists():
            out.rmdir()
        os.replace(unfinished, out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {out} ({reason}); free some disk space or choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


@contextmanager
@torch.no_grad()
def merged(model: PreTrainedModel, patch: Patch, strength: float) -> Iterator[None]:
    """Add the patch to the weights for the time of the block; afterwards they are bit-equal to what they were.

    Raises:
        PatchError: if the patch does not fit the model, changes a weight that two modules share, or the weights are
            quantised.
    """
    if getattr(model, "is_quantized", False):
        raise PatchError(
            "the model's weights are quantised, so that a patch cannot be added to them; use it as an adapter, or "
            "merge one that was made for the unquantised model"
        )
    _check_not_shared(model, patch)
    with attached(model, patch):
        pass  # raises unless every module is there and has the patch's shape
    weights = {name: model.get_submodule(name).get_parameter("weight") for name in patch.factors}
    originals = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        for name, factors in patch.factors.items():
            a, b = (factor.to(weights[name].device, torch.float32) for factor in (factors.a, factors.b))
            weights[name].copy_(weights[name].float() + strength * (b @ a))
        yield
    finally:
        for name, original in originals.items():
            weights[name].copy_(original)


def _check_not_shared(model: PreTrainedModel, patch: Patch) -> None:
    """Raise `PatchError` if the patch changes a weight that another module uses as well."""
    names_of: defaultdict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of[id(parameter)].append(name.removesuffix(".weight"))
    for names in names_of.values():
        if len(names) > 1 and not patch.factors.keys().isdisjoint(names):
            raise PatchError(
                f"the patch changes a weight that {' and '.join(names)} share, so merging it into one would change "
                "the other; use the patch as an adapter"
            )


def _mark(folder: Path, loaded: LoadedModel, patch: Patch, strength: float) -> None:
    """Write into config and README that these are not the original weights."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"unflinch_modified": True, "unflinch_strength": strength, "unflinch_base_hash": loaded.base_hash}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    local = Path(loaded.model_id).expanduser()
    text = _README.format(
        name=local.name if local.exists() else loaded.model_id,  # a path would tell strangers about the maker's disk
        revision=f" (revision {loaded.revision})" if loaded.revision else "",
        version=version("unflinch"),
        strength=strength,
        modules=len(patch.factors),
        dtype=loaded.dtype_name,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
