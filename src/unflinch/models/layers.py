"""Looking up modules of a model: its decoder layers, the blocks that each of them has, and what could write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.errors import ArchitectureError
from unflinch.models.families import Architecture, Block


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """Return the part of the model that turns ids into final hidden states: without its head, or vision tower."""
    decoder: nn.Module = model.get_decoder()
    if decoder is model:  # a family that names its base model wrongly
        decoder = next((child for child in model.children() if isinstance(child, PreTrainedModel)), model)
    return decoder


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
        wrong = "check that the weights and the config belong together"
        raise ArchitectureError(
            f"looked for the decoder layers of '{architecture.model_type}' at '{architecture.layers}', "
            f"found no module list there; {_lists_seen(model) if architecture.source == 'named' else wrong}"
        )
    return layers


def blocks_of(layer: nn.Module, architecture: Architecture) -> tuple[Block, ...]:
    """Return the blocks that this layer has."""
    return tuple(block for block in architecture.blocks if find(layer, block.writer) is not None)


def residual_outputs(layer: nn.Module, architecture: Architecture) -> list[nn.Module]:
    """Return the modules of a layer whose outputs are added to the residual stream, in full and once each."""
    names = dict.fromkeys(block.output or block.writer for block in blocks_of(layer, architecture))
    return [layer.get_submodule(name) for name in names]


def find(layer: nn.Module, path: str) -> nn.Module | Tensor | None:
    """Return the module or parameter of a layer at `path`, None if it has none."""
    parent, _, name = path.rpartition(".")
    try:
        holder = layer.get_submodule(parent)
    except AttributeError:
        return None
    found = getattr(holder, name, None)
    return found if isinstance(found, nn.Module | Tensor) else None


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


def linear_shape(module: object) -> tuple[int, int] | None:
    """Return the input and output features of a linear module, also a quantised one, which torch has no class for."""
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else None


def can_write(module: nn.Module, width: int) -> bool:
    """Return whether a module holds weights that could give it an output as wide as the residual stream."""
    return any(True for _ in weights_with_output(module, width))


def weights_with_output(module: nn.Module, width: int) -> Iterator[tuple[str, nn.Module | Tensor]]:
    """Yield linear modules with `width` outputs, and other weights of two dimensions or more that have `width` in one.

    Convolutions and embeddings are left out: they mix tokens, or read ids.
    """
    for name, part in module.named_modules():
        shape = linear_shape(part)
        if shape is not None:
            if shape[1] == width:
                yield name, part
        elif not isinstance(part, nn.Embedding | nn.Conv1d):
            for own, weight in part.named_parameters(recurse=False):
                if weight.ndim > 1 and width in weight.shape:
                    yield f"{name}.{own}" if name else own, weight


def module_lists(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield every list of modules with its name."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList))


def _lists_seen(model: nn.Module) -> str:
    return f"module lists are {listed([f'{name} ({len(found)})' for name, found in module_lists(model)])}"


def listed(names: Iterable[str]) -> str:
    """Return names in one line, the first dozen of many."""
    found = list(names)
    return (", ".join(found[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")) or "none"
