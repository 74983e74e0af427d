"""What a run's peaks of memory are made of: sizes of the model, of what is read and of what is kept.

Factors before a size are numbers of tensors of that size that are alive at once; they were counted in the code they
stand for and compared with measured peaks (`benchmarks/memory.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from unflinch.launch import workers
from unflinch.models.batches import GRADIENT_TOKENS, READ_TOKENS
from unflinch.models.generate import WRITTEN_TOGETHER
from unflinch.models.lower_layers import MOST_BYTES

_FLOAT = 4
_GRADIENT_RANK = 2
_GAPS = 1 / 8
"""Share of a graph that lies unused between its tensors, which are of many sizes: measured a quarter (135M) to none."""


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
    tied: bool
    """Whether embedding and head are one."""
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
    begun: tuple[int, int]
    """Answers whose first token the scan tries: how many, and the length of the longest prompt with its answer."""
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
class MemoryParts:
    """Bytes of what the peaks are made of."""

    shape: ModelShape
    work: Workload
    held: Holding
    edited_share: float

    def peaks(self, model: int, kept: tuple[int, int], sums: int, solves_here: bool) -> dict[str, int]:
        """Return the peak of every step.

        Args:
            model: weights and program.
            kept: metrics and gradients that are beside them.
            sums: second moments that are summed at once.
            solves_here: whether the programme of the fit is solved in the same memory.
        """
        (metrics, gradients), lower, scored = kept, self.lower_layers(), self.work.fit_tokens
        strength = max(self.answering(), 5 * self.work.measured * self.logits)
        return {
            "loading": model,
            "baseline": model + self.answering(),
            "scan": model + self.scanning(),
            "fit: what a change costs": model + max(metrics, sums) + self.differentiating(scored, 5),
            "fit: closed form": model + metrics + gradients + lower + self.closed_form(solves_here),
            "fit: fine-tuning": model + metrics + lower + self.fine_tuning(),
            "fit: strength": model + metrics + lower + strength,
            "validate": model + self.answering() + 6 * 8 * self.work.kl_tokens * self.logits,
        }

    def fitting(self, solves_here: bool) -> int:
        """Return the most that the fit needs beside the weights and the statistics that it keeps."""
        costing = self.differentiating(self.work.fit_tokens, 5)
        return max(costing, self.lower_layers() + max(self.closed_form(solves_here), self.fine_tuning()))

    def closed_form(self, solves_here: bool) -> int:
        """Gradients of a batch, then the programme."""
        gradients = self.differentiating(self.work.fit_tokens, 6) + self.compressing()
        return max(gradients, self.solving()) if solves_here else gradients

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

    def layer(self) -> int:
        """Weights of a typical decoder layer: all but the embedding, and a head of its own, are in layers."""
        outside = self.shape.vocabulary * self.shape.width * self.held.value_bytes
        return max(0, self.weights() - outside * (1 if self.shape.tied else 2)) // self.shape.depth

    def shared_weights(self) -> tuple[int, str]:
        """Weights on each of the workers that share every layer, and one whole layer while it runs."""
        depth, layer = self.shape.depth, self.layer()
        return self.weights() - depth * layer + ceil(depth * layer / workers()) + layer, f"all {depth} layers"

    def spread_weights(self, room: int, elsewhere: Sequence[int]) -> tuple[int, str]:
        """Weights on the first device, and how many layers are fetched there whenever they run.

        Args:
            room: bytes for weights there.
            elsewhere: bytes for weights on further devices.
        """
        depth, layer = self.shape.depth, self.layer()
        others = self.weights() - depth * layer
        here = max(0, depth - sum(max(0, left) // layer for left in elsewhere))
        if others + here * layer <= room or self.held.linear_bytes < self.held.value_bytes:
            return others + here * layer, ""
        kept = max(0, (room - others) // layer - 1)
        return others + (kept + 1) * layer, f"{here - kept} of {depth} layers"

    def edited_layers(self) -> int:
        """How many layers a fit changes."""
        return max(1, round(self.edited_share * self.shape.depth))

    def largest_sums(self) -> int:
        """Both second moments of the largest edited module."""
        return max(_FLOAT * (i**2 + o**2) for i, o in self.shape.edited)

    def metrics(self) -> int:
        """Both Cholesky factors of all edited modules."""
        return self.edited_layers() * sum(_FLOAT * (i**2 + o**2) for i, o in self.shape.edited)

    def gradients(self) -> int:
        """The factors of all kept gradients."""
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
        """The set of prompts that takes most to be answered."""
        return max(self.writing(rows, longest + self.work.answer_tokens) for rows, longest in self.work.answered)

    def writing(self, rows: int, tokens: int) -> int:
        """Keys and values of all rows that are answered together, twice while batches are joined, and their logits."""
        together = min(rows, WRITTEN_TOGETHER + READ_TOKENS // self.work.lengths.typical)
        cache = together * tokens * 2 * self.shape.depth * self.shape.keys * self.held.value_bytes
        return 2 * cache + max(self.forward(READ_TOKENS), 2 * together * self.logits)

    def scanning(self) -> int:
        """The residual stream behind every layer of a batch, the logits of some rows, or answers that were begun."""
        stream = READ_TOKENS * self.shape.depth * self.shape.width * self.held.value_bytes
        reading = self.forward(READ_TOKENS) + max(stream, 4 * 64 * self.logits)
        return max(reading, self.writing(*self.work.begun))

    def graph(self, tokens: int) -> int:
        """What automatic differentiation keeps, from the first edited layer on: they begin a third up at the least."""
        layers = self.shape.depth - self.shape.depth // 3
        of_values = 3 * self.shape.feed_forward + 4 * self.shape.attention
        of_floats = 2.5 * self.shape.width  # inputs of norms
        return int(tokens * layers * (self.held.value_bytes * of_values + _FLOAT * of_floats))

    def allocated_graph(self, tokens: int) -> int:
        """The same with the gaps that an allocator leaves."""
        return int((1 + _GAPS) * self.graph(tokens))

    def differentiating(self, scored: int, copies: int) -> int:
        """A batch of gradients, with logits at some last positions."""
        lengths, most = self.work.lengths, GRADIENT_TOKENS
        rows = max(1, most // (lengths.typical + scored))
        captured = self.edited_layers() * sum(i + o for i, o in self.shape.edited) * self.held.value_bytes
        tokens = self.own_tokens(most)
        return self.allocated_graph(tokens) + tokens * captured + copies * rows * scored * self.logits

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
        if not self.work.fine_tuned:
            return 0
        rows = min(self.work.fine_tuned, GRADIENT_TOKENS // self.work.lengths.typical)
        tokens = min(self.own_tokens(GRADIENT_TOKENS), self.work.fine_tuned * self.own)
        inputs = self.edited_layers() * sum(i for i, _ in self.shape.edited) * _FLOAT
        return self.allocated_graph(tokens) + tokens * inputs + 6 * self.work.fit_tokens * rows * self.logits
