"""A model ready to be asked: from the Hub, a local folder, a GGUF file, or the demo wheels."""

from __future__ import annotations

import gc
import logging
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from unflinch.errors import ConfigError, ModelError
from unflinch.launch import local_rank, workers
from unflinch.models.architecture import architecture_of
from unflinch.models.chat import check_chat_template
from unflinch.models.demo_model import WHEEL_MODELS
from unflinch.models.families import Architecture
from unflinch.models.fetched_weights import watch_fetched
from unflinch.models.fingerprint import weight_hash
from unflinch.models.forward import check_forward
from unflinch.models.hooks import check_writers
from unflinch.models.layers import decoder_layers
from unflinch.models.loading import loading, unfit_weights
from unflinch.models.placement import Spreading, spread_map
from unflinch.models.quantised import (
    bitsandbytes_settings,
    check_gradients,
    keep_packing,
    linear_bytes,
    stored_linear_bytes,
    stored_quantisation,
)
from unflinch.models.shared_weights import share_weights
from unflinch.models.source import resolve_source
from unflinch.models.thinking import Askable, Modes, Thinking, in_modes, read_thinking

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LoadedModel:
    """A frozen base model with all that steps need to ask it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    model_id: str
    """As the user named it."""
    source: str
    """What transformers loads: a Hub id or a folder."""
    revision: str | None
    base_hash: str
    quantisation: str | None = None
    """How the weights are quantised, such as `bitsandbytes 4bit` or `gptq`; None if they are not."""
    thinking: Thinking | None = None
    """How it thinks before it answers; None if its chat template shows no thinking."""
    modes: Modes = (None,)
    """With thinking on, off, or both: how every prompt is asked."""
    system_prompt: str | None = None
    """What every prompt is asked under that has no system prompt of its own."""

    def in_modes(self, prompts: Sequence[Askable]) -> tuple[Askable, ...]:
        """Return every prompt once a mode, one mode after the other, under the system prompt if it has none."""
        return in_modes(prompts, self.modes, self.system_prompt)

    @property
    def hub_id(self) -> str | None:
        """The model on the Hub that the weights are, or were converted from; None for a user's own files."""
        if self.model_id in WHEEL_MODELS:
            return WHEEL_MODELS[self.model_id].hub_id
        return None if Path(self.source).is_dir() else self.source

    @property
    def dtype_name(self) -> str:
        """The type of the weights, such as `bfloat16`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Number of weights, of quantised ones as many as they stand for."""
        return int(self.model.num_parameters())

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(decoder_layers(self.model, self.architecture))


def pick_device(device: str) -> torch.device:
    """Return the device: `auto` is CUDA, of several workers each one's own GPU, else MPS, else CPU.

    Raises:
        ConfigError: if the device does not exist here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank()) if workers() > 1 else torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.zeros(1, device=picked).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device '{device}' is not usable here; expected auto, cpu, cuda or mps") from error
    return picked


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16; others take the same weights for float32, and several times as long."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported()


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the weights' type: `auto` is bfloat16 where the device computes in it, else float32.

    Raises:
        ConfigError: if the name is unknown.
    """
    if dtype == "auto":
        return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in names:
        raise ConfigError(f"dtype '{dtype}' is unknown; expected auto, {', '.join(names)}")
    return names[dtype]


@dataclass(frozen=True)
class Description:
    """What can be known of a model without reading its weights."""

    source: str
    """What transformers loads: a Hub id or a folder."""
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig


def describe(model_id: str, revision: str | None, trust_remote_code: bool) -> Description:
    """Return a model's tokenizer and config.

    Raises:
        ModelError: if there is no such model, or it has no chat template.
    """
    source = resolve_source(model_id)
    with loading(model_id):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        check_chat_template(tokenizer, model_id)
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    return Description(source, tokenizer, config)


def load_model(
    model_id: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    layers: str | None = None,
    writers: tuple[str, ...] = (),
    load_in: str | None = None,
    spread: Spreading | None = None,
    described: Description | None = None,
) -> LoadedModel:
    """Return the frozen model in evaluation mode with its tokenizer, architecture row and weight hash.

    Args:
        model_id: Hub id, local folder, `.gguf` file, or `demo`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda`, `mps` or a numbered device.
        revision: branch, tag or commit of a Hub model.
        trust_remote_code: run code that comes with the model; off unless asked for.
        layers: path of the decoder layers, for a family that is not recognised.
        writers: linear modules of a layer that may be changed, in place of those that are known.
        load_in: `8bit` or `4bit`, to quantise the weights while they are read.
        spread: over what weights are spread that one device does not hold.
        described: what `describe` has already read of the same model.

    Raises:
        ModelError: if there is none, without a chat template or all of its weights, or in a form that is not usable.
        ArchitectureError: if its modules are not recognised.
        ConfigError: if dtype or device is unknown, or `load_in` or `spread` cannot be used here.
        NotEnoughMemoryError: if a spread model does not fit either.
    """
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    described = described or describe(model_id, revision, trust_remote_code)
    stored = stored_quantisation(described.config)
    settings = bitsandbytes_settings(load_in, model_id, stored, kind, where)
    quantisation = f"bitsandbytes {load_in}" if load_in else stored
    with loading(model_id, stored):
        sizes = (kind.itemsize, linear_bytes(load_in, stored_linear_bytes(described.config)))
        placed = _device_map(described.config, trust_remote_code, (layers, writers), where, sizes, spread)
        model, found = _read_weights(described, revision, kind, trust_remote_code, settings, placed or where)
    _check_found(found, model_id)
    architecture = _checked_architecture(model, layers, writers, quantisation and f"{model_id} ({quantisation})")
    base_hash = weight_hash(model)
    if spread and spread.over == "workers":
        share_weights(model, where)
    return LoadedModel(
        model=model,
        tokenizer=described.tokenizer,
        architecture=architecture,
        model_id=model_id,
        source=described.source,
        revision=revision,
        base_hash=base_hash,
        quantisation=quantisation,
        thinking=read_thinking(described.tokenizer),
    )


def model_class(config: PreTrainedConfig) -> Any:
    """Return the class that reads a model: one that sees images is read whole where it has none for text alone."""
    sees_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if sees_images and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def without_weights(config: PreTrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    """Return the model of a config with all of its modules and none of its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = model_class(config).from_config(config, trust_remote_code=trust_remote_code)
    return model


def _device_map(
    config: PreTrainedConfig,
    trust_remote_code: bool,
    named: tuple[str | None, tuple[str, ...]],
    device: torch.device,
    sizes: tuple[int, float | None],
    spread: Spreading | None,
) -> dict[str, Any] | None:
    """Return where every part of a model is read to; None for the CPU, from where it can be moved as a whole.

    Args:
        config: of the model.
        trust_remote_code: run code that comes with it.
        named: the decoder layers and writers that the user named.
        device: where it computes.
        sizes: bytes of a weight, and of one in the layers' linear modules if they are quantised.
        spread: over what weights are spread that the device does not hold.
    """
    value_bytes, packed = sizes
    if spread is None:
        return {"": device} if packed else None  # quantised weights cannot be moved
    empty = without_weights(config, trust_remote_code)
    return spread_map(
        empty, architecture_of(empty, *named), device, (value_bytes, packed or float(value_bytes)), spread
    )


def _read_weights(
    described: Description,
    revision: str | None,
    dtype: torch.dtype,
    trust_remote_code: bool,
    settings: BitsAndBytesConfig | None,
    placed: dict[str, Any] | torch.device,
) -> tuple[Any, Any]:
    """Return the model and what transformers found in its files: typed as Any, as its own types depend on arguments."""
    # It says of every model that fetches weights that these are not there.
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
    converted = (
        Path(tempfile.mkdtemp(prefix="unflinch-")) if isinstance(placed, dict) and "disk" in placed.values() else None
    )
    read: Any = model_class(described.config).from_pretrained(
        described.source,
        revision=revision,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # found and refused by the caller, with their names
        output_loading_info=True,
        device_map=placed if isinstance(placed, dict) else None,
        offload_folder=converted,  # only weights go there that are held otherwise than they are stored
        **({"quantization_config": settings} if settings else {}),
    )
    model, found = read
    if isinstance(placed, torch.device):
        model = model.to(placed)
    model.eval().requires_grad_(False)
    keep_packing(model)
    watch_fetched(model)
    gc.collect()
    if converted:
        weakref.finalize(model, shutil.rmtree, converted, ignore_errors=True)
    return model, found


def _checked_architecture(
    model: PreTrainedModel, layers: str | None, writers: tuple[str, ...], packed: str | None
) -> Architecture:
    """Return the model's row, which is tried out where no test has done so, as are gradients of a `packed` model."""
    architecture = architecture_of(model, layers, writers)
    if architecture.source != "table":
        check_forward(model)
    if architecture.source == "structure":
        check_writers(model, architecture)
    if packed:
        check_gradients(model, architecture, packed)
    return architecture


def _check_found(found: Any, model_id: str) -> None:
    """Raise `ModelError` if a weight is missing or has another shape than its config says."""
    if unfit := unfit_weights(found):
        raise ModelError(
            f"the weights of '{model_id}' do not fit its config: {len(unfit)} are missing or of another shape, "
            f"{unfit[0]} for one; fetch the model again"
        )
