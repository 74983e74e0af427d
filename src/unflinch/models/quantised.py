"""Quantised weights: made while reading, or stored so; usable here if gradients pass through them."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from unflinch.errors import ConfigError, ModelError
from unflinch.models.batches import PADDING_ID, pad_behind
from unflinch.models.families import Architecture
from unflinch.models.forward import run_decoder
from unflinch.models.hooks import captured_gradients
from unflinch.models.layers import decoder_layers
from unflinch.models.writers import choose_writers

_REPACKS = "support_avx512bf16_for_cpu"
"""Attribute of bitsandbytes' linear modules: whether their codes are repacked when they first run."""
LINEAR_BYTES = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
"""Of a weight held so; in NF4 every block of 64 has a scale in float32."""

_CHECKED = ((5, 3, 6), (7, 2, 4))


def bitsandbytes_settings(
    load_in: str | None, model_id: str, stored: str | None, dtype: torch.dtype, device: torch.device
) -> BitsAndBytesConfig | None:
    """Return how weights are quantised while they are read: LLM.int8, or NF4 computed with in `dtype`.

    Args:
        load_in: `8bit`, `4bit`, or None for weights as they are.
        model_id: the model.
        stored: how its file is quantised already.
        dtype: of activations, and of what is not quantised.
        device: where the model will be.

    Raises:
        ConfigError: if the name is unknown, or cannot be done with this model or here.
    """
    if load_in is None:
        return None
    if load_in not in LINEAR_BYTES:
        raise ConfigError(f"load_in '{load_in}' is unknown; expected {' or '.join(LINEAR_BYTES)}")
    if stored:
        raise ConfigError(f"the weights of '{model_id}' are quantised already ({stored}); leave out load_in")
    if not installed():
        raise ConfigError(
            f"load_in {load_in} needs bitsandbytes, which is not installed: pip install 'unflinch[formats]'"
        )
    if device.type == "mps":
        raise ConfigError(f"load_in {load_in} does not work on {device}; give --device cpu, or leave out load_in")
    # It says at every call that it rounds inputs to float16, as LLM.int8 always does.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(
        load_in_8bit=load_in == "8bit",
        load_in_4bit=load_in == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )


def installed() -> bool:
    """Whether bitsandbytes is there."""
    return find_spec("bitsandbytes") is not None


def keep_packing(model: nn.Module) -> None:
    """Keep the codes of 4-bit weights as they were loaded, on processors for which bitsandbytes would repack them.

    Repacked codes have another hash, and no gradient passes through them.
    """
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)


def can_quantise(device: torch.device) -> bool:
    """Whether weights can be quantised here while they are read."""
    return installed() and device.type != "mps"


def stored_quantisation(config: PreTrainedConfig) -> str | None:
    """Return the method by which a model's file is quantised, such as `gptq`; None if it is not."""
    settings = _stored_settings(config)
    return str(settings.get("quant_method", "by an unnamed method")) if settings else None


def stored_linear_bytes(config: PreTrainedConfig) -> float | None:
    """Return the bytes of a weight in a quantised file, with a sixteenth for scales; None if it is not quantised."""
    settings = _stored_settings(config)
    if not settings:
        return None
    groups = [group.get("weights") or {} for group in (settings.get("config_groups") or {}).values()]
    bits = settings.get("bits") or max((group.get("num_bits") or 0 for group in groups), default=0)
    return 17 / 16 * (bits or (4 if settings.get("load_in_4bit") else 8)) / 8


def linear_bytes(load_in: str | None, stored: float | None) -> float | None:
    """Return the bytes of a weight in a linear module as the model will be held; None if it is not quantised.

    Args:
        load_in: how it is quantised while it is read.
        stored: its bytes in the file, where that is quantised.
    """
    return LINEAR_BYTES[load_in] if load_in else stored


def _stored_settings(config: PreTrainedConfig) -> dict[str, Any]:
    found = getattr(config, "quantization_config", None) or {}
    return dict(found if isinstance(found, dict) else found.to_dict())


def check_gradients(model: PreTrainedModel, architecture: Architecture, what: str) -> None:
    """Pass gradients through all layers of a quantised model: kernels made for inference alone stop them.

    Raises:
        ModelError: if they do not arrive at the first layer.
    """
    chosen = choose_writers(model, architecture, range(len(decoder_layers(model, architecture))), "feed_forward")
    modules = [chosen.modules[0], chosen.modules[-1]]
    batch = pad_behind(_CHECKED, 0, PADDING_ID, model.device)
    try:
        with captured_gradients(model, architecture, modules, batch.input_ids.shape) as captured:
            run_decoder(model, batch, {})[0].float().square().sum().backward()
        arrived = all(name in captured and bool(captured[name].gradient.isfinite().all()) for name in modules)
        reason = "they do not arrive"
    except (RuntimeError, NotImplementedError) as error:
        arrived, reason = False, str(error)
    if not arrived:
        raise ModelError(
            f"no gradients can be taken of {what} here ({reason}); give the unquantised model, with load_in 4bit if "
            "memory is short"
        )
