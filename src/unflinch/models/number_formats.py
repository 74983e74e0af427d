"""Weights as a number format of fewer bits holds them: rounded the way that format's own library rounds.

A quantised file is written once and then read as whatever its bits stand for, so rounding the weights in place and
running the model as usual measures the file: the arithmetic in between is that of the loaded model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.models.families import Architecture
from unflinch.models.fetched_weights import fetched_of
from unflinch.models.layers import decoder_layers, find

RoundTrip = Callable[[Tensor], Tensor]
"""A float32 weight `(output, input)` to what is left of it."""

_Q = GGMLQuantizationType


@dataclass(frozen=True)
class NumberFormat:
    """One way of storing weights."""

    name: str
    rounding: Callable[[str, int, int], RoundTrip]
    """From a weight's role, its layer and the depth to how it is rounded; roles are those of `_role`."""
    whole_model: bool
    """Whether embedding and output head are stored so too."""
    module: str | None = None
    """What it is rounded with, beyond this package's own requirements."""
    package: str = ""
    """What brings that module."""

    def missing(self) -> str | None:
        """Return what has to be installed first; None if nothing has."""
        if self.module is None or find_spec(self.module) is not None:
            return None
        return f"needs: pip install {self.package}"


def _gguf_round_trip(kind: GGMLQuantizationType) -> RoundTrip:
    """Return rounding by gguf's own quantiser; rows that do not divide into its blocks stay as they are."""

    def rounded(weight: Tensor) -> Tensor:
        if weight.shape[-1] % GGML_QUANT_SIZES[kind][0]:
            return weight.half().float()
        values = weight.numpy()
        return torch.from_numpy(quants.dequantize(quants.quantize(values, kind), kind)).reshape(weight.shape)

    return rounded


def _k_quant_round_trip(kind: GGMLQuantizationType) -> RoundTrip:
    """Return rounding by llama.cpp's own quantiser, which gguf has only the reading half of."""
    fallback = {_Q.Q4_K: _Q.Q5_0, _Q.Q6_K: _Q.Q8_0}[kind]

    def rounded(weight: Tensor) -> Tensor:
        block, size = GGML_QUANT_SIZES[kind]
        rows, columns = weight.shape
        if columns % block:
            return _gguf_round_trip(fallback)(weight)
        source = np.ascontiguousarray(weight.numpy(), dtype=np.float32)
        stored = np.empty((rows, columns // block * size), dtype=np.uint8)
        written = _ggml().ggml_quantize_chunk(int(kind), source.ctypes.data, stored.ctypes.data, 0, rows, columns, None)
        assert written == stored.nbytes, f"llama.cpp wrote {written} bytes of a weight where {stored.nbytes} belong"
        return torch.from_numpy(quants.dequantize(stored, kind)).reshape(weight.shape)

    return rounded


def _ggml() -> ctypes.CDLL:
    """Return llama.cpp's library as its Python package brings it."""
    spec = find_spec("llama_cpp")
    assert spec is not None and spec.origin is not None, "asked for only where it is installed"
    library = ctypes.CDLL(str(min(Path(spec.origin).parent.glob("lib/*ggml-base.*"))))
    quantise = library.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    quantise.argtypes = [ctypes.c_int, pointer, pointer, whole, whole, whole, pointer]
    return library


def _q4_k_m(role: str, layer: int, depth: int) -> RoundTrip:
    """Return how llama.cpp's mixture Q4_K_M stores a weight: what errors hurt most gets six bits.

    Source: llama.cpp, `llama_tensor_get_type`.
    """
    eighth = depth // 8
    careful = layer < eighth or layer >= 7 * depth // 8 or (layer - eighth) % 3 == 2
    more = role == "head" or (role in {"v_proj", "down_proj"} and careful)
    return _k_quant_round_trip(_Q.Q6_K if more else _Q.Q4_K)


def _int8(weight: Tensor) -> Tensor:
    """Return rows rounded to 8 bits of their largest magnitude, as LLM.int8 stores them."""
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    stored, scales, _ = int8_vectorwise_quant(weight.half())
    restored: Tensor = int8_vectorwise_dequant(stored, scales)
    return restored.float()


def _nf4(weight: Tensor) -> Tensor:
    """Return blocks of 64 rounded to the 16 values of NF4, as QLoRA stores them."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    stored, state = quantize_4bit(weight.contiguous(), quant_type="nf4")
    restored: Tensor = dequantize_4bit(stored, state)
    return restored.float()


def _everywhere(round_trip: RoundTrip) -> Callable[[str, int, int], RoundTrip]:
    return lambda _role, _layer, _depth: round_trip


NUMBER_FORMATS = (
    NumberFormat("GGUF Q8_0", _everywhere(_gguf_round_trip(_Q.Q8_0)), True),
    NumberFormat("GGUF Q4_0", _everywhere(_gguf_round_trip(_Q.Q4_0)), True),
    NumberFormat("GGUF Q4_K_M", _q4_k_m, True, "llama_cpp", "llama-cpp-python"),
    NumberFormat("int8 (bitsandbytes)", _everywhere(_int8), False, "bitsandbytes", "bitsandbytes"),
    NumberFormat("4-bit NF4 (bitsandbytes)", _everywhere(_nf4), False, "bitsandbytes", "bitsandbytes"),
)
"""What people run models in. The last two leave embedding and head as they are."""


def not_measured(fmt: NumberFormat, model: PreTrainedModel, architecture: Architecture) -> str | None:
    """Return why a model cannot be measured in a number format here; None if it can."""
    layers = decoder_layers(model, architecture)
    if any(isinstance(find(layer, block.writer), Tensor) for layer in layers for block in architecture.blocks):
        return "its fused experts are tensors, and linear modules alone are rounded here"
    if fetched_of(model) is not None:
        return "not all of its layers are in memory, where they would be rounded"
    return fmt.missing()


@contextmanager
@torch.no_grad()
def rounded_weights(model: PreTrainedModel, architecture: Architecture, fmt: NumberFormat) -> Iterator[None]:
    """Hold the weights as a number format does for the time of the block; afterwards they are bit-equal again.

    The originals wait in memory beside the rounded ones.

    Args:
        model: its linear layers inside decoder layers are rounded, and where the format says so embedding and head.
        architecture: where the decoder layers are.
        fmt: how.
    """
    prefix, depth = f"{architecture.layers}.", len(decoder_layers(model, architecture))
    originals: list[tuple[Tensor, Tensor]] = []
    try:
        for name, weight, role in _weights(model, prefix, fmt.whole_model):
            layer = architecture.layer_of(name) if name.startswith(prefix) else 0
            originals.append((weight, weight.detach().clone()))
            weight.copy_(fmt.rounding(role, layer, depth)(weight.detach().float().cpu()))
        yield
    finally:
        for weight, original in originals:
            weight.copy_(original)


def _weights(model: PreTrainedModel, prefix: str, whole: bool) -> Iterator[tuple[str, Tensor, str]]:
    """Yield every weight that is stored in fewer bits, with its role: the module's own name, `embedding` or `head`.

    A weight that embedding and head share is stored once, as the head.
    """
    for name, module in model.named_modules():
        if name.startswith(prefix) and isinstance(module, nn.Linear):
            yield name, module.weight, name.rpartition(".")[2]
    if not whole:
        return
    embedding = model.get_input_embeddings().get_parameter("weight")
    head = model.get_output_embeddings().get_parameter("weight")
    yield "head", head, "head"
    if embedding is not head:
        yield "embedding", embedding, "embedding"
