"""Where a model keeps its decoder layers and the linear modules that a patch may change.

An architecture is a table row: the exact `config.model_type` gives the module names. A model that is not in the
table goes through a structural reading of its modules; if that fails too, the error says what was looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from unflinch.errors import ArchitectureError


@dataclass(frozen=True)
class Architecture:
    """Module names of one model family."""

    model_type: str
    layers: str
    """Path of the decoder layers' `ModuleList`."""
    writers: tuple[str, ...]
    """Linear modules of a layer that write into the residual stream, that of the feed-forward block last."""
    readers: tuple[str, ...]
    """Linear modules of a layer that read the residual stream."""
    residual_norms: tuple[str, ...] = ()
    """Norms of a layer between a writer and the residual stream, in families that have them."""
    source: str = "table"
    """`table`, or `structure` where the names were read off the model."""


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED_MLP = ("mlp.gate_proj", "mlp.up_proj")
_WRITERS = ("self_attn.o_proj", "mlp.down_proj")


_AFTER_WRITERS = ("post_attention_layernorm", "post_feedforward_layernorm")


def _llama_like(model_type: str, residual_norms: tuple[str, ...] = ()) -> Architecture:
    return Architecture(model_type, "model.layers", _WRITERS, _ATTENTION + _GATED_MLP, residual_norms)


ARCHITECTURES: dict[str, Architecture] = {
    row.model_type: row
    for row in (
        _llama_like("llama"),
        _llama_like("qwen2"),
        _llama_like("qwen3"),
        _llama_like("mistral"),
        _llama_like("gemma2", _AFTER_WRITERS),
        _llama_like("gemma3_text", _AFTER_WRITERS),
        _llama_like("smollm3"),
        _llama_like("olmo2", _AFTER_WRITERS),
        _llama_like("granite"),
        Architecture("phi3", "model.layers", _WRITERS, ("self_attn.qkv_proj", "mlp.gate_up_proj")),
    )
}


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Return the table row of `model`, or the row read off its structure.

    Raises:
        ArchitectureError: if neither works; names what was looked for and what was found.
    """
    row = ARCHITECTURES.get(model.config.model_type) or _read_structure(model)
    present = dict(decoder_layers(model, row)[0].named_modules())
    missing = [name for name in (*row.writers, *row.readers, *row.residual_norms) if name not in present]
    if missing:
        raise ArchitectureError(
            f"model type '{row.model_type}' should have {', '.join(missing)} in {row.layers}.0, "
            "but this model has not; check that the weights and the config belong together"
        )
    return row


def decoder_layers(model: PreTrainedModel, architecture: Architecture) -> nn.ModuleList:
    """Return the list of decoder layers.

    Raises:
        ArchitectureError: if the path does not lead to a `ModuleList`.
    """
    try:
        layers = model.get_submodule(architecture.layers)
    except AttributeError:
        layers = None
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise ArchitectureError(
            f"looked for the decoder layers of '{architecture.model_type}' at '{architecture.layers}', "
            "found no module list there; check that the weights and the config belong together"
        )
    return layers


def module_shape(model: PreTrainedModel, name: str) -> tuple[int, int]:
    """Return how many input and output features a linear module has.

    Raises:
        ArchitectureError: if it is none.
    """
    shape = linear_shape(model.get_submodule(name))
    if shape is None:
        raise ArchitectureError(
            f"'{name}' of a model of type '{model.config.model_type}' is no linear module, so that no patch can be "
            "attached to it; give a model of another family or format"
        )
    return shape


def linear_shape(module: nn.Module | None) -> tuple[int, int] | None:
    """Return the input and output features of a linear module, also a quantised one, which torch has no class for."""
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else None


def _read_structure(model: PreTrainedModel) -> Architecture:
    """Read layers, writers and readers off an unknown model.

    The decoder layers are the only `ModuleList` with `num_hidden_layers` entries; in every child block of a layer the
    last linear module with `hidden_size` outputs writes into the residual stream, the others with `hidden_size` inputs
    read from it.
    """
    config = model.config.get_text_config()
    depth, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth}
    found = ", ".join(lists) or "none"
    if depth is None or width is None or len(lists) != 1:
        raise ArchitectureError(
            f"unknown model type '{model.config.model_type}': looked for one module list with "
            f"num_hidden_layers={depth} decoder layers of width {width}, found {found}; "
            f"known model types are {', '.join(sorted(ARCHITECTURES))}"
        )
    name, layers = next(iter(lists.items()))
    writers: list[str] = []
    readers: list[str] = []
    for child_name, child in layers[0].named_children():
        linears = {
            f"{child_name}.{n}" if n else child_name: m for n, m in child.named_modules() if isinstance(m, nn.Linear)
        }
        outputs = [n for n, m in linears.items() if m.out_features == width]
        if outputs:
            writers.append(outputs[-1])
        readers += [n for n, m in linears.items() if m.in_features == width and n not in writers]
    if not writers or not readers:
        seen = ", ".join(n for n, m in layers[0].named_modules() if n and not list(m.children())) or "nothing"
        raise ArchitectureError(
            f"unknown model type '{model.config.model_type}': looked in {name}.0 for linear modules with "
            f"{width} inputs or outputs, found {seen}; known model types are {', '.join(sorted(ARCHITECTURES))}"
        )
    return Architecture(model.config.model_type, name, tuple(writers), tuple(readers), source="structure")
