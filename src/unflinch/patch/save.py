"""A patch on disk: a PEFT LoRA folder that plain `peft` loads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.errors import PatchError
from unflinch.patch.attach import lora_config
from unflinch.provenance import PROVENANCE, changed_files, read_provenance
from unflinch.run_folder import RunFolder

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_BASE_HASH = "unflinch_base_hash"
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight$")


def save_patch(patch: Patch, folder: Path, base_model: str, revision: str | None = None) -> Path:
    """Write the patch as a PEFT folder and return it; each file appears whole or not at all.

    Args:
        patch: the update at strength 1.
        folder: made if missing.
        base_model: id or path written as `base_model_name_or_path`.
        revision: revision of the base model.

    Raises:
        RunFolderError: if the disk does not take it.
    """
    config = lora_config(patch)
    config.base_model_name_or_path = base_model
    config.revision = revision
    config.inference_mode = True
    tensors = {}
    for name, factors in patch.factors.items():
        for letter, factor in (("A", factors.a), ("B", factors.b)):
            # A copy, as the format does not take tensors that share memory.
            tensors[f"base_model.model.{name}.lora_{letter}.weight"] = (
                factor.detach().float().cpu().contiguous().clone()
            )
    weights = save(tensors, metadata={**patch.notes, "format": "pt", _BASE_HASH: patch.base_hash})
    text = json.dumps(_plain(config), indent=2, sort_keys=True) + "\n"
    files = RunFolder(folder)
    files.write_file(folder / _WEIGHTS, lambda file: file.write_bytes(weights))
    files.write_file(folder / _CONFIG, lambda file: file.write_text(text, encoding="utf-8"))
    return folder


def load_patch(folder: Path) -> Patch:
    """Return the patch in a folder that `save_patch`, or any PEFT LoRA training without bias, wrote.

    Raises:
        PatchError: if files are missing, damaged, changed since they were measured, or not plain LoRA.
    """
    weights, config_path = folder / _WEIGHTS, folder / _CONFIG
    if not weights.is_file() or not config_path.is_file():
        raise PatchError(f"{folder} is no patch folder: expected {_CONFIG} and {_WEIGHTS} in it")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        with safe_open(weights, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PatchError(f"{folder} holds a damaged patch ({error}); fetch or fit it again") from error
    if not isinstance(config, LoraConfig) or config.alora_invocation_tokens or config.layer_replication:
        raise PatchError(f"{folder} is not a plain LoRA patch: it is of another kind; expected peft_type LORA")
    _check_numbers(folder, config)
    _check_unchanged(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if not match:
            raise PatchError(f"{folder} is not a plain LoRA patch: unexpected tensor '{key}'")
        factors.setdefault(match["module"], {})[match["factor"]] = tensor.float()
    if not factors:
        raise PatchError(f"{folder} holds a patch that changes no module; fetch or fit it again")
    patch = {module: _scaled(folder, config, module, pair) for module, pair in sorted(factors.items())}
    notes = {key: value for key, value in metadata.items() if key not in {"format", _BASE_HASH}}
    return Patch(patch, metadata.get(_BASE_HASH, ""), notes)


def _check_unchanged(folder: Path) -> None:
    """Raise `PatchError` if the folder's provenance, where there is one, was written for other factors."""
    provenance = read_provenance(folder)
    if provenance and _WEIGHTS in changed_files(folder, provenance):
        raise PatchError(
            f"{folder / _WEIGHTS} is not the file that {PROVENANCE} was written for, so nothing measured there holds "
            f"for it; fetch the patch again, or remove {PROVENANCE} if you changed it yourself"
        )


def check_base(patch: Patch, base_hash: str, model_id: str) -> None:
    """Raise `PatchError` if the patch says that it was made for other base weights; foreign patches say nothing."""
    if patch.base_hash and patch.base_hash != base_hash:
        raise PatchError(
            f"this patch was made for base weights {patch.base_hash[:12]}, but {model_id} has {base_hash[:12]}; "
            "give the base model that the patch was made for"
        )


def _check_numbers(folder: Path, config: LoraConfig) -> None:
    """Raise `PatchError` unless ranks and alphas are numbers: PEFT takes the file's word for it."""
    patterns: list[Any] = [config.rank_pattern or {}, config.alpha_pattern or {}]
    numbers: list[Any] = [config.r, config.lora_alpha]
    whole = all(isinstance(pattern, dict) for pattern in patterns)
    numbers += [value for pattern in patterns if whole for value in pattern.values()]
    if not whole or not all(type(value) in (int, float) and isfinite(value) for value in numbers):
        raise PatchError(f"{folder} holds a damaged patch: {_CONFIG} gives a rank or alpha that is no number")
    try:
        for key in (key for pattern in patterns for key in pattern):
            get_pattern_key([key], "")
    except re.error as error:
        raise PatchError(f"{folder} holds a damaged patch: {_CONFIG} has a pattern that is none ({error})") from error


def _scaled(folder: Path, config: LoraConfig, module: str, pair: Mapping[str, Tensor]) -> LowRankFactors:
    """Return one module's factors with PEFT's scaling inside, checked against each other."""
    damaged = f"{folder} holds a damaged patch: '{module}'"
    if set(pair) != {"A", "B"}:
        raise PatchError(f"{damaged} lacks one of its two factors")
    a, b = pair["A"], pair["B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
        raise PatchError(f"{damaged} has factors of shapes {tuple(a.shape)} and {tuple(b.shape)}, not of one rank")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise PatchError(f"{damaged} has factors that are not finite")
    rank = a.shape[0]
    if rank != _by_pattern(config.rank_pattern, module, config.r):
        raise PatchError(f"{damaged} has rank {rank}, which {_CONFIG} does not say; fetch or fit it again")
    alpha = float(_by_pattern(config.alpha_pattern, module, config.lora_alpha))
    return LowRankFactors(a, b * (alpha / (rank**0.5 if config.use_rslora else rank)))


def _by_pattern(pattern: dict[str, Any] | None, module: str, default: int | float) -> Any:
    """Return what PEFT takes for a module: the first pattern that its name matches, or ends with, decides."""
    pattern = pattern or {}
    return pattern.get(get_pattern_key(list(pattern), module), default)


def _plain(config: LoraConfig) -> dict[str, object]:
    values = config.to_dict()
    return {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()}
