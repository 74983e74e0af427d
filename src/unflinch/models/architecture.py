"""Where a model keeps its decoder layers, and the modules through which each of them writes into the residual stream.

An architecture is a table row: the exact `config.model_type` gives the module names, of which every layer has some. A
model that is not in the table goes through a structural reading of its modules, or has them named by the user; what is
not recognised is an error that says what was seen.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.errors import ArchitectureError
from unflinch.models.families import ARCHITECTURES, EXPERTS, OVERRIDE, Architecture, Block, Kind
from unflinch.models.layers import (
    blocks_of,
    can_write,
    decoder_layers,
    decoder_of,
    find,
    linear_shape,
    listed,
    module_lists,
    weights_with_output,
)


def architecture_of(model: PreTrainedModel, layers: str | None = None, writers: tuple[str, ...] = ()) -> Architecture:
    """Return the table row of `model`, or that of its text part, or the row read off its structure.

    Args:
        model: whose modules are looked up.
        layers: path of the decoder layers as the user names it.
        writers: linear modules of a layer as the user names them; a layer needs not have all of them.

    Raises:
        ArchitectureError: if modules are not recognised or not there; names what was looked for and what was found.
    """
    if layers or writers:
        row = _named(model, layers, writers)
    else:
        row = _row(model) or read_structure(model)
    _check_blocks(model, row)
    return row


def _row(model: PreTrainedModel) -> Architecture | None:
    """Return the row of the model, or of its text part where its decoder keeps its layers."""
    own = ARCHITECTURES.get(model.config.model_type)
    text = own or ARCHITECTURES.get(model.config.get_text_config().model_type)
    if own or text is None:
        return own
    return replace(text, layers=f"{_name_of(model, decoder_of(model))}.layers")


def _named(model: PreTrainedModel, layers: str | None, writers: tuple[str, ...]) -> Architecture:
    """Return the row of the user's own names; what is not given is looked up as usual.

    Raises:
        ArchitectureError: if no layer has one of the writers as a linear module.
    """
    base = None if layers and writers else _row(model) or read_structure(model, layers)
    path = layers or (base.layers if base else "")
    blocks = tuple(Block("named", writer) for writer in writers) or (base.blocks if base else ())
    row = Architecture(model.config.model_type, blocks, path, "named")
    found = decoder_layers(model, row)
    for writer in writers:
        there = [module for layer in found if (module := find(layer, writer)) is not None]
        if not there or not all(map(linear_shape, there)):
            seen = ", ".join(sorted({type(module).__name__ for module in there})) or "nothing"
            raise ArchitectureError(
                f"writer '{writer}' should be a linear module in layers of '{path}', found {seen}; "
                f"linear modules there are {listed(dict.fromkeys(n for layer in found for n in _linears(layer)))}"
            )
    return row


def _check_blocks(model: PreTrainedModel, row: Architecture) -> None:
    """Raise `ArchitectureError` if a part of a layer that can write into the residual stream is in no block of the row.

    Of a user's own row only the names are checked: to change less than all is a choice.
    """
    layers = decoder_layers(model, row)
    if row.source == "named":
        return
    width = model.config.get_text_config().hidden_size
    for number, layer in enumerate(layers):
        known = {block.writer.partition(".")[0] for block in blocks_of(layer, row)}
        strange = [n for n, child in layer.named_children() if n not in known and can_write(child, width)]
        if strange or not known:
            seen = listed(name for name, _ in weights_with_output(layer, width))
            raise ArchitectureError(
                f"model type '{row.model_type}' should have some of {', '.join(b.writer for b in row.blocks)} in "
                f"{', '.join(strange) or 'every layer'} of {row.layers}.{number}, found {seen}; "
                f"check that the weights and the config belong together, or {OVERRIDE}"
            )


def read_structure(model: PreTrainedModel, path: str | None = None) -> Architecture:
    """Read layers and writers off an unknown model.

    The decoder layers are the only `ModuleList` with `num_hidden_layers` entries. In every child of a layer the linear
    module with `hidden_size` outputs that runs last writes into the residual stream; the child that runs last is taken
    for the feed-forward block. Linear modules inside a list of experts see part of the tokens only: as fused experts
    are, they are known and left alone.

    Args:
        model: of an unknown family.
        path: of its decoder layers if the user named them.

    Raises:
        ArchitectureError: if there is no such list, or a child that can write without such a linear module.
    """
    config = model.config.get_text_config()
    path = path or _only_list(model, config)
    row = Architecture(model.config.model_type, (), path, "named")
    width, blocks, order = config.hidden_size, {}, _running_order(model)
    for number, layer in enumerate(decoder_layers(model, row)):
        children = {name: child for name, child in layer.named_children() if can_write(child, width)}
        found = {name: _read_child(name, child, width, order) for name, child in children.items()}
        missed = [name for name, of_child in found.items() if not of_child]
        if missed or not found:
            seen = ", ".join(n for n, m in layer.named_modules() if n and not list(m.children())) or "nothing"
            raise ArchitectureError(
                f"unknown model type '{row.model_type}': looked in {path}.{number} for linear modules with {width} "
                f"outputs, found {seen}; docs/MODELS.md lists the known families: {OVERRIDE}"
            )
        last = max(children, key=lambda name: _latest(children[name], order))
        for name, of_child in found.items():
            for block in of_child:
                dense: Kind = "feed-forward" if name == last else "mixer"
                blocks[block.writer] = block if block.left else replace(block, kind=dense)
    return replace(row, blocks=tuple(blocks.values()), source="structure")


def _running_order(model: PreTrainedModel) -> dict[nn.Module, int]:
    """Return at which place every linear module ran last, in a few tokens; those that did not run are missing.

    Raises:
        ArchitectureError: if the model cannot be run on ids alone.
    """
    ran: list[nn.Module] = []
    linear = [module for module in model.modules() if linear_shape(module)]
    handles = [module.register_forward_hook(lambda module, _args, _output: ran.append(module)) for module in linear]
    try:
        with torch.no_grad():
            decoder_of(model)(input_ids=torch.tensor([[5, 3, 6, 1]], device=model.device))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ArchitectureError(f"model type '{model.config.model_type}' cannot be run in parts ({error})") from error
    finally:
        for handle in handles:
            handle.remove()
    return {module: place for place, module in enumerate(ran)}


def _latest(part: nn.Module, order: dict[nn.Module, int]) -> int:
    return max((order.get(module, -1) for module in part.modules()), default=-1)


def _read_child(name: str, child: nn.Module, width: int, order: dict[nn.Module, int]) -> list[Block]:
    """Return the blocks of one child of a layer of an unknown family; none if there is nothing that is understood."""
    found = {f"{name}.{n}".rstrip("."): part for n, part in weights_with_output(child, width)}
    linear = {n: part for n, part in found.items() if isinstance(part, nn.Module)}
    whole = [n for n in linear if not any(part.isdecimal() for part in n.split("."))]
    whole.sort(key=lambda n: order.get(linear[n], -1))
    experts = [n for n, part in found.items() if isinstance(part, Tensor) and part.ndim > 2]
    experts += [n for n in linear if n not in whole]
    output = name if experts else ""
    blocks = [Block("mixer", whole[-1], output)] if whole else []
    return [*blocks, *([Block("experts", experts[-1], output, EXPERTS)] if experts else [])]


def _only_list(model: PreTrainedModel, config: object) -> str:
    depth, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    decoder = _name_of(model, decoder_of(model))
    lists = [n for n, m in module_lists(model) if len(m) == depth and n.startswith(decoder)]
    if depth is None or width is None or len(lists) != 1:
        raise ArchitectureError(
            f"unknown model type '{model.config.model_type}': looked for one module list with "
            f"num_hidden_layers={depth} decoder layers of width {width}, found {', '.join(lists) or 'none'}; "
            f"docs/MODELS.md lists the known families: {OVERRIDE}"
        )
    return lists[0]


def _linears(layer: nn.Module) -> list[str]:
    return [name for name, module in layer.named_modules() if linear_shape(module)]


def _name_of(model: nn.Module, part: nn.Module) -> str:
    return next(str(name) for name, module in model.named_modules() if module is part)
