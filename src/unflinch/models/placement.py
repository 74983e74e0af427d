"""Where the weights of decoder layers are kept when one device does not hold them all.

Everything but the decoder layers stays where the model computes first, and so do the upper layers: those are where
refusals are decided and patches attached. What does not fit is fetched whenever it runs, from the lowest layer up: from
the CPU's memory, and beyond that from the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from unflinch.errors import ConfigError, NotEnoughMemoryError
from unflinch.launch import workers
from unflinch.models.families import Architecture
from unflinch.models.layers import decoder_layers, linear_shape
from unflinch.models.memory import free_memory, in_gib, memory_in_use

Spread = Literal["devices", "workers"]
"""Over what weights are spread: GPUs, memory and disk of this process, or the workers of a run."""
Device = int | str
"""As accelerate names them: the number of a GPU, `cpu`, `mps` or `disk`."""

MEMORY_SHARE = 0.5
"""Of the CPU's free memory, what fetched weights may take: statistics and answers need the rest."""
_BESIDE_SHARE = 1 / 3


@dataclass(frozen=True)
class Spreading:
    """How the weights of a model are spread that one device does not hold."""

    over: Spread
    beside: int | None = None
    """Bytes that everything else needs on each device; a third of what is free there if not known."""
    most: int | None = None
    """Bytes that may be used on each, this program included; what is free if not given."""


@dataclass(frozen=True)
class Room:
    """Bytes for weights on every device, in the order in which the model's layers pass them."""

    computing: tuple[tuple[Device, int], ...]
    """The devices that compute, the first of which also holds what belongs to no layer."""
    memory: int
    """In the CPU's memory, if that does not compute itself."""
    disk: bool
    """Whether the rest may be fetched from the disk."""


def room_for_weights(device: torch.device, spreading: Spreading, fetching: bool) -> Room:
    """Return what there is for weights.

    Args:
        device: where the model computes.
        spreading: what may be used, and what has to stay free.
        fetching: whether weights may be where nothing computes, which quantised ones may not.
    """
    computing = tuple((_name(place), _left(place, spreading)) for place in computing_devices(device))
    memory = int(MEMORY_SHARE * free_memory(torch.device("cpu"))) if device.type == "cuda" and fetching else 0
    return Room(computing, memory, fetching)


def computing_devices(device: torch.device) -> list[torch.device]:
    """Return the devices over which layers are spread: all GPUs where none is named and no other worker has some."""
    if str(device) == "cuda" and workers() == 1:
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return [device]


def _left(device: torch.device, spreading: Spreading) -> int:
    free = free_memory(device)
    if spreading.most is not None:
        free = min(free, spreading.most - memory_in_use(device))
    beside = int(_BESIDE_SHARE * free) if spreading.beside is None else spreading.beside
    return max(0, free - beside)


def _name(device: torch.device) -> Device:
    return (device.index or 0) if device.type == "cuda" else device.type


def place_layers(layers: Sequence[int], others: int, room: Room) -> list[Device]:
    """Return where every layer is kept.

    Args:
        layers: bytes of every decoder layer, from the lowest.
        others: bytes of all that belongs to no layer.
        room: what there is.

    Raises:
        NotEnoughMemoryError: if there is too little even so.
    """
    left = [size for _, size in room.computing]
    left[0] -= others
    fits = _filled(layers, left) is not None
    if not fits:
        left[0] -= max(layers)  # one layer is there while it runs
    if left[0] < 0 or (not fits and not room.disk):
        needs = others + (max(layers) if room.disk else sum(layers))
        raise NotEnoughMemoryError(
            f"the weights need at least {in_gib(needs)} and there are "
            f"{in_gib(sum(size for _, size in room.computing))} for them; take a smaller model, or one in fewer bits"
        )
    fetched = next(n for n in range(len(layers) + 1) if _filled(layers[n:], left) is not None)
    counts = _filled(layers[fetched:], left)
    assert counts is not None
    in_memory, memory = 0, room.memory
    while in_memory < fetched and layers[fetched - 1 - in_memory] <= memory:
        memory -= layers[fetched - 1 - in_memory]
        in_memory += 1
    kept = [name for (name, _), count in zip(room.computing, counts, strict=True) for _ in range(count)]
    return ["disk"] * (fetched - in_memory) + ["cpu"] * in_memory + kept


def _filled(layers: Sequence[int], left: Sequence[int]) -> list[int] | None:
    """Return how many consecutive layers go to every device; None if they do not fit."""
    counts, rest = [0] * len(left), list(left)
    place = 0
    for size in layers:
        while place < len(rest) and rest[place] < size:
            place += 1
        if place == len(rest):
            return None
        rest[place] -= size
        counts[place] += 1
    return counts


def spread_map(
    model: PreTrainedModel,
    architecture: Architecture,
    device: torch.device,
    sizes: tuple[int, float],
    spreading: Spreading,
) -> dict[str, Device]:
    """Return where every part of a model goes, as accelerate takes it.

    Layers that workers will share are all read from the model's files until then (`models.shared_weights`).

    Args:
        model: without weights, on the meta device.
        architecture: where its decoder layers are.
        device: where it computes.
        sizes: bytes of a weight, and of one in the layers' linear modules: fewer if they are quantised.
        spreading: over what.

    Raises:
        ConfigError: if the weights are quantised and would have to be shared, or there is one worker.
        NotEnoughMemoryError: if there is too little room.
    """
    value_bytes, linear_bytes = sizes
    plain_weights = linear_bytes == value_bytes
    layers = list(decoder_layers(model, architecture))
    if spreading.over == "workers":
        if workers() == 1:
            raise ConfigError(
                "weights can be spread over workers only where torchrun or accelerate has started several"
            )
        if not plain_weights:
            raise ConfigError("quantised weights cannot be spread over workers; leave out --load-in, or --spread")
        return _whole_map(model, architecture, ["disk"] * len(layers), _name(device))
    plain = [value_bytes * sum(p.numel() for p in layer.parameters()) for layer in layers]
    linear = [sum(map(prod, filter(None, map(linear_shape, layer.modules())))) for layer in layers]
    held = [ceil(size - (value_bytes - linear_bytes) * n) for size, n in zip(plain, linear, strict=True)]
    others = value_bytes * sum(p.numel() for p in model.parameters()) - sum(plain)
    room = room_for_weights(device, spreading, plain_weights)
    return _whole_map(model, architecture, place_layers(held, others, room), room.computing[0][0])


def _whole_map(
    model: nn.Module, architecture: Architecture, placed: Sequence[Device], main: Device
) -> dict[str, Device]:
    found: dict[str, Device] = dict.fromkeys(_beside(model, architecture.layers), main)
    return found | {f"{architecture.layers}.{number}": device for number, device in enumerate(placed)}


def _beside(model: nn.Module, path: str) -> Iterator[str]:
    """Yield the names of all modules and tensors that do not contain the module at `path`, as few as possible."""
    prefix, module = "", model
    for step in path.split("."):
        own = [*module._parameters, *module._buffers, *(name for name, _ in module.named_children())]
        yield from (f"{prefix}{name}" for name in own if name != step)
        prefix, module = f"{prefix}{step}.", module.get_submodule(step)
