"""What a run will need of memory, step by step, from the model's config and the prompts: no weight is read.

What is counted is what grows with model, prompts or vocabulary (`memory_parts`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedConfig

from unflinch.models.architecture import architecture_of
from unflinch.models.batches import shared_prefix_length
from unflinch.models.layers import decoder_layers, linear_shape, module_shape
from unflinch.models.load import without_weights
from unflinch.models.memory import in_gib
from unflinch.models.memory_parts import Holding, MemoryParts, ModelShape, PromptLengths, Workload
from unflinch.models.placement import Spread
from unflinch.models.quantised import stored_linear_bytes
from unflinch.models.writers import choose_writers
from unflinch.options import ModelOptions


@dataclass(frozen=True)
class Allowances:
    """Bytes that the statistics of a fit may take; what does not fit waits on the disk, or takes another pass."""

    metrics: int
    """Cholesky factors, in the CPU's memory."""
    gradients: int
    """Of all prompts, there as well."""
    sums: int
    """Second moments that are summed at once, where the model is."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that the steps need where the model is, and what there is."""

    device: str
    has: int
    """What is free, with what this program uses already."""
    steps: dict[str, int]
    """Peak of every step."""
    on_disk: int
    """Statistics that do not fit beside the model, and wait on the disk."""
    allowed: Allowances
    beside_weights: int
    """Bytes that are needed beside the weights at the least."""
    fetched: str = ""
    """Which share of the layers is fetched whenever it runs, if not all are held."""

    @property
    def needs(self) -> int:
        """The largest peak. Pages of the weights' file are not counted: the system takes them back."""
        return max(self.steps.values())

    @property
    def fits(self) -> bool:
        """Whether no step needs more than there is."""
        return self.needs <= self.has

    def headline(self) -> dict[str, Any]:
        """Return what is shown before work starts."""
        shown = {"needs": in_gib(self.needs), "has": f"{in_gib(self.has)} ({self.device})"}
        shown |= {"fetched": self.fetched} if self.fetched else {}
        return shown | ({"on_disk": in_gib(self.on_disk)} if self.on_disk else {})


def read_shape(config: PreTrainedConfig, options: ModelOptions, which: Literal["feed_forward", "all"]) -> ModelShape:
    """Return the sizes of a model from its config.

    Args:
        config: of the model.
        options: how it is loaded, and what the user named.
        which: writers that a fit changes.

    Raises:
        ArchitectureError: if its modules are not recognised.
    """
    model = without_weights(config, options.trust_remote_code)
    architecture = architecture_of(model, options.layers, options.writers)
    layers = decoder_layers(model, architecture)
    text = config.get_text_config()
    chosen = choose_writers(model, architecture, range(len(layers)), which).modules
    by_layer: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for name in chosen:
        by_layer[architecture.layer_of(name)].append(module_shape(model, name))
    heads = text.num_attention_heads
    attention = heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    linear = [found for name, module in layers.named_modules() if (found := linear_shape(module)) and name]
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layer_linears=sum(inputs * outputs for inputs, outputs in linear),
        depth=len(layers),
        width=text.hidden_size,
        vocabulary=text.vocab_size,
        feed_forward=max(inputs for inputs, outputs in linear if outputs == text.hidden_size),
        attention=attention,
        keys=attention * (getattr(text, "num_key_value_heads", None) or heads) // heads,
        edited=tuple(sorted(max(by_layer.values(), key=lambda shapes: sum(i**2 + o**2 for i, o in shapes)))),
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        stored_linear_bytes=stored_linear_bytes(config),
    )


def prompt_lengths(sequences: Sequence[Sequence[int]]) -> PromptLengths:
    """Return the lengths of prompts as ids."""
    lengths = sorted(map(len, sequences))
    return PromptLengths(lengths[len(lengths) // 2], lengths[-1], shared_prefix_length(sequences, reserve=1))


def plan_memory(
    shape: ModelShape,
    work: Workload,
    held: Holding,
    device: str,
    has: int,
    edited_share: float,
    beside: int | None = None,
    spread: Spread | None = None,
    elsewhere: Sequence[int] = (),
) -> MemoryPlan:
    """Return the peaks of a run.

    Args:
        shape: of the model.
        work: prompts and tokens.
        held: type of the weights, and what is in use already.
        device: where the model is.
        has: bytes there, free or used by this program.
        edited_share: of the layers, those that a fit changes.
        beside: free bytes of the CPU's memory, where statistics are kept, if the model is elsewhere.
        spread: over what its weights are spread.
        elsewhere: free bytes of further devices that hold layers.
    """
    parts = MemoryParts(shape, work, held, edited_share)
    solves_here = beside is None
    least = max(parts.peaks(0, (0, 0), parts.largest_sums(), solves_here).values())
    weights, fetched = parts.weights(), ""
    if spread == "workers":
        weights, fetched = parts.shared_weights()
    elif spread == "devices":
        weights, fetched = parts.spread_weights(has - held.program - least, [free - least for free in elsewhere])
    model = held.program + weights
    space = max(0, has - model - parts.fitting(solves_here))
    room = space if beside is None else beside
    metrics = min(parts.metrics(), room // 2)
    gradients = min(parts.gradients(), room - metrics)
    here = (metrics, gradients) if solves_here else (0, 0)
    allowed = Allowances(metrics, gradients, max(parts.largest_sums(), space - here[0]))
    steps = parts.peaks(model, here, min(parts.metrics(), allowed.sums), solves_here)
    on_disk = parts.metrics() - metrics + parts.gradients() - gradients
    return MemoryPlan(device, has, steps, on_disk, allowed, least, fetched)
