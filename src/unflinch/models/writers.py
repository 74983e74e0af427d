"""Which residual writers a patch changes, and what is said of those that it leaves as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from unflinch.errors import ArchitectureError
from unflinch.models.families import OVERRIDE, Architecture, Block
from unflinch.models.layers import blocks_of, decoder_layers, listed
from unflinch.results import WriterCoverage

_PER_TOKEN = {"feed-forward", "shared expert", "named"}
"""Kinds of block that `feed_forward` means: those that every token passes alone, and what the user named."""


@dataclass(frozen=True)
class ChosenWriters:
    """Linear modules that a patch changes, and all writers of the model with what became of them."""

    modules: tuple[str, ...]
    coverage: tuple[WriterCoverage, ...]


def choose_writers(
    model: PreTrainedModel,
    architecture: Architecture,
    layers: Sequence[int],
    which: Literal["feed_forward", "all"],
) -> ChosenWriters:
    """Return the writers to be changed in the chosen layers.

    `feed_forward` means the linear writer of a layer's feed-forward block, of a sparse one that of its shared expert,
    and where a layer has neither the linear writers that it has: of attention, or of what stands in its place.

    Args:
        model: the base model.
        architecture: its blocks.
        layers: chosen decoder layers.
        which: `feed_forward`, or `all` linear writers.

    Raises:
        ArchitectureError: if the chosen layers have no linear writer at all.
    """
    blocks = [blocks_of(layer, architecture) for layer in decoder_layers(model, architecture)]
    changed = {number: _changed(blocks[number], which) for number in layers}
    modules = [f"{architecture.layers}.{n}.{b.writer}" for n, chosen in changed.items() for b in chosen]
    if not modules:
        seen = dict.fromkeys(f"{b.writer} ({b.kind})" for number in layers for b in blocks[number])
        raise ArchitectureError(
            f"model type '{architecture.model_type}' has no linear module that writes into the residual stream in "
            f"layers {', '.join(map(str, layers))} of {architecture.layers}, found {listed(seen)}; {OVERRIDE}"
        )
    coverage = []
    for block in architecture.blocks:
        having = sum(block in of_layer for of_layer in blocks)
        count = sum(block in chosen for chosen in changed.values())
        passed_over = any(block in blocks[number] and block not in changed[number] for number in layers)
        if having:
            reason = block.left or ("feed-forward blocks come first" if passed_over else "")
            coverage.append(WriterCoverage(block.writer, block.kind, count, having, reason))
    return ChosenWriters(tuple(modules), tuple(coverage))


def _changed(blocks: Sequence[Block], which: Literal["feed_forward", "all"]) -> list[Block]:
    may = [block for block in blocks if not block.left]
    return [block for block in may if block.kind in _PER_TOKEN and which == "feed_forward"] or may
