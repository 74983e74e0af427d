"""A copy of the model with the patch in its weights, for programs that load no adapters."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from unflinch.artifacts import Patch
from unflinch.errors import PatchError
from unflinch.models.fetched_weights import fetched_of, replaced_weight, weight_of
from unflinch.models.load import LoadedModel
from unflinch.patch.attach import check_fits
from unflinch.patch.export import check_strength, new_folder, provenance_of
from unflinch.patch.save import check_base
from unflinch.provenance import Provenance, write_provenance

_FETCHED_FILE = "4GB"
"""Largest file of weights that are fetched to be written: as much is in memory at once."""


def merge_into_copy(
    loaded: LoadedModel, patch: Patch, out: Path, card: Callable[[Provenance], str], strength: float = 1.0
) -> Path:
    """Write a copy of the model with the patch in its weights, and return its folder.

    W' = W + strength * b @ a, added in float32 and rounded to the weight's own type. The folder appears whole or not
    at all; README, config, provenance and the weights' own metadata say that these are not the original weights. The
    loaded model is bit-equal before and after.

    Args:
        loaded: the base model.
        patch: made for it.
        out: new or empty folder.
        card: returns the text of its README.
        strength: 1 is the patch as it was validated.

    Raises:
        PatchError: the patch belongs to another model, or changes a weight that two modules share.
        ConfigError: the strength is not finite.
        InputError: the folder is in use, or cannot be written.
    """
    check_strength(strength)
    check_base(patch, loaded.base_hash, loaded.model_id)
    provenance = provenance_of(patch, loaded, "merged model", strength)
    with new_folder(out, loaded.model_id) as folder:
        with merged(loaded.model, patch, strength):
            _save_weights(loaded.model, folder)
        loaded.tokenizer.save_pretrained(folder)
        _mark_config(folder / "config.json", loaded, strength)
        write_provenance(folder, provenance)
        (folder / "README.md").write_text(card(provenance), encoding="utf-8")
    return out


def _save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write the weights as transformers does, in files that fit beside a model that fetches its own."""
    if fetched_of(model) is None:
        model.save_pretrained(folder)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")
        model.save_pretrained(folder, max_shard_size=_FETCHED_FILE)


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
    check_fits(model, patch)
    with ExitStack() as replaced:
        for name, factors in patch.factors.items():
            weight = weight_of(model, f"{name}.weight")
            a, b = (factor.to(weight.device, torch.float32) for factor in (factors.a, factors.b))
            merged_weight = (weight.float() + strength * (b @ a)).to(weight.dtype)
            replaced.enter_context(replaced_weight(model, f"{name}.weight", merged_weight))
        yield


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


def _mark_config(file: Path, loaded: LoadedModel, strength: float) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"unflinch_modified": True, "unflinch_strength": strength, "unflinch_base_hash": loaded.base_hash}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
