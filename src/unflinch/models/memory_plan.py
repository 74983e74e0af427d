"""What a run will need of memory, step by step, from the model's config and the prompts: no weight is read.

What is counted is what grows with model, prompts or vocabulary. Factors before a size are numbers of tensors of that
size that are alive at once; they were counted in the code they stand for and compared with measured peaks
(`benchmarks/memory.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedConfig

from unflinch.models.architecture import architecture_of
from unflinch.models.batches import GRADIENT_TOKENS, READ_TOKENS, shared_prefix_length
from unflinch.models.generate import WRITTEN_TOGETHER
from unflinch.models.layers import decoder_layers, linear_shape, module_shape
from unflinch.models.load import model_class
from unflinch.models.lower_layers import MOST_BYTES
from unflinch.models.quantised import stored_linear_bytes
from unflinch.models.writers import choose_writers
from unflinch.options import ModelOptions

GIB = 2**30
_FLOAT = 4
_GRADIENT_RANK = 2


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that memory depends on."""

    parameters: int
    """Values of all weights, shared ones once."""
    layer_linears: int
    """Of these in linear modules of decoder layers: what quantisation makes smaller."""
    depth: int
    width: int
    vocabulary: int
    feed_forward: int
    """Inputs of the feed-forward block's writer."""
    attention: int
    """Inputs of attention's writer: all heads together."""
    keys: int
    """Width of the keys of all heads: values are as wide."""
    edited: tuple[tuple[int, int], ...]
    """Inputs and outputs of the writers that a fit may change, of the layer where they are largest; largest last."""
    stored_linear_bytes: float | None = None
    """Of a weight in a linear module, where the file is quantised."""


@dataclass(frozen=True)
class PromptLengths:
    """Lengths of a run's prompts in tokens."""

    typical: int
    longest: int
    shared: int
    """First tokens that they have in common, which are read once."""


@dataclass(frozen=True)
class Workload:
    """How many prompts the steps work on at once, and how."""

    lengths: PromptLengths
    answered: tuple[tuple[int, int], ...]
    """Prompts that are answered in one call, set by set: how many, and the length of the longest."""
    answer_tokens: int
    """Most tokens of these answers."""
    fitted: int
    """Prompts whose gradients are kept."""
    measured: int
    """Ordinary `select` prompts whose logits are compared at once."""
    fit_tokens: int
    """Tokens of each answer on which the patch is fitted."""
    fine_tuned: int
    """Prompts in a step of fine-tuning whose scores are bounded; 0 if there is none."""
    kl_tokens: int
    """Tokens of each test answer along which KL is taken."""


@dataclass(frozen=True)
class Holding:
    """How the model is held."""

    value_bytes: int
    """Of a weight, and of an activation."""
    linear_bytes: float
    """Of a weight in the decoder layers' linear modules, with its share of the scales."""
    program: int
    """Bytes that are in use before the model is there."""


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
        return shown | ({"on_disk": in_gib(self.on_disk)} if self.on_disk else {})


def in_gib(size: float) -> str:
    """Return bytes as a number that people read."""
    return f"{size / GIB:.1f} GiB"


def read_shape(config: PreTrainedConfig, options: ModelOptions, which: Literal["feed_forward", "all"]) -> ModelShape:
    """Return the sizes of a model from its config.

    Args:
        config: of the model.
        options: how it is loaded, and what the user named.
        which: writers that a fit changes.

    Raises:
        ArchitectureError: if its modules are not recognised.
    """
    with torch.device("meta"):
        model = model_class(config).from_config(config, trust_remote_code=options.trust_remote_code)
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
    """
    parts = _Parts(shape, work, held, edited_share)
    model, lower = held.program + parts.weights(), parts.lower_layers()
    costing = parts.differentiating(work.fit_tokens, 5)
    fitting = parts.differentiating(work.fit_tokens, 6) + parts.compressing()
    tuning = parts.fine_tuning() if work.fine_tuned else 0
    if beside is None:
        fitting = max(fitting, parts.solving())
    space = max(0, has - model - max(costing, lower + fitting, lower + tuning))
    room = space if beside is None else beside
    metrics = min(parts.metrics(), room // 2)
    gradients = min(parts.gradients(), room - metrics)
    here, then = (metrics, gradients) if beside is None else (0, 0)
    allowed = Allowances(metrics, gradients, max(parts.largest_sums(), space - here))
    sums = min(parts.metrics(), allowed.sums)
    steps = {
        "loading": model,
        "baseline": model + parts.answering(),
        "scan": model + parts.scanning(),
        "fit: what a change costs": model + max(here, sums) + costing,
        "fit: closed form": model + lower + here + then + fitting,
        "fit: fine-tuning": model + lower + here + tuning,
        "fit: strength": model + lower + here + max(parts.answering(), 5 * work.measured * parts.logits),
        "validate": model + parts.answering() + 6 * 8 * work.kl_tokens * parts.logits,
    }
    on_disk = parts.metrics() - metrics + parts.gradients() - gradients
    return MemoryPlan(device, has, steps, on_disk, allowed)


@dataclass(frozen=True)
class _Parts:
    """Bytes of what the peaks are made of."""

    shape: ModelShape
    work: Workload
    held: Holding
    edited_share: float

    @property
    def logits(self) -> int:
        """Of one position."""
        return _FLOAT * self.shape.vocabulary

    @property
    def own(self) -> int:
        """Tokens of a typical prompt behind what all share."""
        return self.work.lengths.typical - self.work.lengths.shared

    def weights(self) -> int:
        """All weights, and of quantised ones the largest matrix as it is restored for a multiplication."""
        others = (self.shape.parameters - self.shape.layer_linears) * self.held.value_bytes
        restored = self.shape.feed_forward * self.shape.width if self.held.linear_bytes < self.held.value_bytes else 0
        return others + int(self.shape.layer_linears * self.held.linear_bytes) + restored * self.held.value_bytes

    def edited_layers(self) -> int:
        return max(1, round(self.edited_share * self.shape.depth))

    def largest_sums(self) -> int:
        return max(_FLOAT * (i**2 + o**2) for i, o in self.shape.edited)

    def metrics(self) -> int:
        return self.edited_layers() * sum(_FLOAT * (i**2 + o**2) for i, o in self.shape.edited)

    def gradients(self) -> int:
        a_prompt = self.edited_layers() * sum(_FLOAT * _GRADIENT_RANK * (i + o) for i, o in self.shape.edited)
        return self.work.fitted * a_prompt

    def lower_layers(self) -> int:
        """The residual stream of all fit prompts where it enters the first edited layer."""
        kept = self.work.fitted * self.own * self.shape.width * self.held.value_bytes
        return min(kept, MOST_BYTES)

    def forward(self, tokens: int) -> int:
        """Of one layer's forward pass."""
        return tokens * self.held.value_bytes * (3 * self.shape.feed_forward + 4 * self.shape.width)

    def answering(self) -> int:
        """Keys and values of all rows that are answered together, twice while batches are joined, and their logits."""
        a_token = 2 * self.shape.depth * self.shape.keys * self.held.value_bytes
        together = WRITTEN_TOGETHER + READ_TOKENS // self.work.lengths.typical
        sets = [(min(rows, together), longest + self.work.answer_tokens) for rows, longest in self.work.answered]
        cache = a_token * max(rows * tokens for rows, tokens in sets)
        return 2 * cache + max(self.forward(READ_TOKENS), 2 * max(rows for rows, _ in sets) * self.logits)

    def scanning(self) -> int:
        """The residual stream behind every layer of a batch, or the logits of some rows."""
        stream = READ_TOKENS * self.shape.depth * self.shape.width * self.held.value_bytes
        return self.forward(READ_TOKENS) + max(stream, 4 * 64 * self.logits)

    def graph(self, tokens: int) -> int:
        """What automatic differentiation keeps, from the first edited layer on: they begin a third up at the least."""
        layers = self.shape.depth - self.shape.depth // 3
        of_values = 3 * self.shape.feed_forward + 4 * self.shape.attention
        of_floats = 2.5 * self.shape.width  # inputs of norms
        return int(tokens * layers * (self.held.value_bytes * of_values + _FLOAT * of_floats))

    def differentiating(self, scored: int, copies: int) -> int:
        """A batch of gradients, with logits at some last positions."""
        lengths, most = self.work.lengths, GRADIENT_TOKENS
        rows = max(1, most // (lengths.typical + scored))
        captured = self.edited_layers() * sum(i + o for i, o in self.shape.edited) * self.held.value_bytes
        tokens = self.own_tokens(most)
        return self.graph(tokens) + tokens * captured + copies * rows * scored * self.logits

    def own_tokens(self, most: int) -> int:
        """Most tokens behind the shared ones in a batch: the longest prompts share the smallest part of theirs."""
        lengths = self.work.lengths
        return max(1, most // lengths.longest) * (lengths.longest - lengths.shared)

    def compressing(self) -> int:
        """Inputs and output gradients of one module in float32, masked."""
        tokens = self.own_tokens(GRADIENT_TOKENS)
        return 2 * tokens * _FLOAT * max(i + o for i, o in self.shape.edited)

    def solving(self) -> int:
        """The matrix of all prompts' inner products in float64, and its copies with signs and scale."""
        return 5 * 8 * self.work.fitted**2

    def fine_tuning(self) -> int:
        """A batch's graph with the adapters' inputs and the logits of bounded or of ordinary prompts."""
        rows = min(self.work.fine_tuned, GRADIENT_TOKENS // self.work.lengths.typical)
        tokens = min(self.own_tokens(GRADIENT_TOKENS), self.work.fine_tuned * self.own)
        inputs = self.edited_layers() * sum(i for i, _ in self.shape.edited) * _FLOAT
        return self.graph(tokens) + tokens * inputs + 6 * self.work.fit_tokens * rows * self.logits
