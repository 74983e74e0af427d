"""Fast ablative fine-tuning: a few steps that lower the KL and keep every score in its bounds.

The closed form knows the KL to second order and the scores to first. Here both are exact: the factors of every module
are moved as dW = L_S⁻ᵀ B' A' L_C⁻¹, down the measured KL on ordinary prompts and back inside the bounds of refusal
scores. In these coordinates the squared Frobenius norm is about twice the KL, so that Adam on (A', B') is nearly a
natural-gradient step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.artifacts import ModuleMetric, Patch
from unflinch.edit.closed_form import ScoreBounds
from unflinch.edit.low_rank import from_whitened, to_whitened
from unflinch.metrics.kl import kl_divergence
from unflinch.metrics.refusal_score import Decision
from unflinch.models.batches import GRADIENT_TOKENS, Ids, length_sorted_batches
from unflinch.models.forward import logits_from_hidden, scored_hidden
from unflinch.models.lower_layers import LowerLayers
from unflinch.models.workers import own_share, summed
from unflinch.patch.attach import AttachedPatch, attached

Score = Callable[[Tensor, Sequence[Ids]], Tensor]


@dataclass(frozen=True)
class DecisionGroup:
    """Decisions of one kind, which every step takes an equal number of."""

    rows: Sequence[int]
    """Places among all decisions."""
    share: float
    """How many a step takes, in batches; at least one."""


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and what must hold meanwhile."""

    decisions: Sequence[Decision]
    bounds: ScoreBounds
    """Where their refusal scores belong."""
    groups: Sequence[DecisionGroup]
    ordinary: Sequence[Ids]
    ordinary_base: Float[Tensor, "ordinary scored width"]
    """The base model's final states at the scored positions of the ordinary prompts."""
    lower: LowerLayers | None = None
    """Layers below the patch, left out for the decisions that these have kept."""


@dataclass(frozen=True)
class FineTuneSteps:
    """How many steps of what size."""

    steps: int
    batch_size: int
    """Decisions a step of a group with share 1; half as many ordinary sequences, which are longer."""
    learning_rate: float
    kl_weight: float
    """Of the KL on ordinary prompts, in nats, against the mean distance of scores outside their bounds, in logits."""
    seed: int = 0


def fine_tune(
    model: PreTrainedModel,
    start: Patch,
    lesson: Lesson,
    metrics: Mapping[str, ModuleMetric],
    score: Score,
    options: FineTuneSteps,
    advance: Callable[[int], None] | None = None,
) -> Patch:
    """Return the patch after a few steps towards less KL inside the bounds.

    Formula: minimise w KL(base || patched) on ordinary prompts + mean(max(0, lower - s, s - upper)) of the refusal
    scores s, by Adam on whitened factors with a decaying step.

    Args:
        model: the base model; it leaves as it came.
        start: the patch to begin with.
        lesson: prompts with the bounds of their scores, ordinary prompts.
        metrics: of the patched modules.
        score: refusal scores of logits `(prompts, scored, vocab)` and paths, as `RefusalOpenings.decision_scores`.
        options: steps, batch, learning rate, weight.
        advance: called after each step.
    """
    names = list(metrics)
    with attached(model, start) as live, torch.enable_grad():
        factors = live.parameters()
        white = {name: to_whitened(start.factors[name], metrics[name]) for name in names}
        parameters = {n: (nn.Parameter(b.clone()), nn.Parameter(a.clone())) for n, (b, a) in white.items()}
        flat = [p for pair in parameters.values() for p in pair]
        size = float(torch.stack([p.detach().square().mean().sqrt() for p in flat]).mean())
        optimiser = torch.optim.Adam(flat, lr=options.learning_rate * size, betas=(0.9, 0.95))
        batches = _Batches(lesson, options)
        for name in names:
            for parameter in factors[name]:
                parameter.requires_grad_(True)
        for step in range(options.steps):
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * size * (1 - step / options.steps)
            bounded, ordinary = next(batches)
            for rows in own_share(_read_together([lesson.decisions[row].ids for row in bounded], bounded)):
                (_outside(model, lesson, rows, score).sum() / len(bounded)).backward()
            for rows in own_share(_read_together([lesson.ordinary[row] for row in ordinary], ordinary)):
                (options.kl_weight * _kl(model, lesson, rows).sum() / len(ordinary)).backward()
            _pull_back(factors, parameters, metrics)
            optimiser.step()
            optimiser.zero_grad()
            _push(live, parameters, metrics)
            if advance:
                advance(1)
        return live.snapshot(start.base_hash)


def _read_together(sequences: Sequence[Ids], rows: Sequence[int]) -> Iterator[list[int]]:
    """Yield the rows batch by batch: only one batch's graph is held at once."""
    for places in length_sorted_batches(sequences, GRADIENT_TOKENS):
        yield [rows[place] for place in places]


def _outside(model: PreTrainedModel, lesson: Lesson, rows: Sequence[int], score: Score) -> Tensor:
    """Return how far outside its bounds the score of every prompt is, in logits."""
    decisions = [lesson.decisions[row] for row in rows]
    lengths = [decision.scored for decision in decisions]
    ids = [decision.ids for decision in decisions]
    hidden = scored_hidden(model, ids, max(lengths), lengths=lengths, alone=True, lower=lesson.lower)
    scores = score(logits_from_hidden(model, hidden), [decision.path for decision in decisions])
    lower, upper = (bound[list(rows)].to(scores) for bound in (lesson.bounds.lower, lesson.bounds.upper))
    return torch.maximum(lower - scores, scores - upper).clamp(min=0)


def _kl(model: PreTrainedModel, lesson: Lesson, rows: Sequence[int]) -> Tensor:
    """Return the mean KL(base || patched) over the scored positions of every ordinary prompt, in nats."""
    base = lesson.ordinary_base[list(rows)]
    hidden = scored_hidden(model, [lesson.ordinary[row] for row in rows], base.shape[1], alone=True)
    return kl_divergence(logits_from_hidden(model, base), logits_from_hidden(model, hidden)).mean(-1)


class _Batches(Iterator[tuple[list[int], list[int]]]):
    """Endless batches of row numbers: of all groups of decisions together, and of ordinary prompts."""

    def __init__(self, lesson: Lesson, options: FineTuneSteps) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        groups = [*lesson.groups, DecisionGroup(range(len(lesson.ordinary)), 0.5)]
        sizes = [min(len(group.rows), max(1, int(group.share * options.batch_size))) for group in groups]
        self._streams = [(_endless(g.rows, generator), n) for g, n in zip(groups, sizes, strict=True)]

    def __next__(self) -> tuple[list[int], list[int]]:
        *decisions, ordinary = ([next(stream) for _ in range(count)] for stream, count in self._streams)
        return [row for group in decisions for row in group], ordinary


def _endless(rows: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    while rows:
        yield from (rows[place] for place in torch.randperm(len(rows), generator=generator).tolist())


@torch.no_grad()
def _pull_back(
    factors: Mapping[str, tuple[nn.Parameter, nn.Parameter]],
    parameters: Mapping[str, tuple[nn.Parameter, nn.Parameter]],
    metrics: Mapping[str, ModuleMetric],
) -> None:
    """Carry gradients of all workers from (A, B) to whitened coordinates: A = A' L_C⁻¹ and B = L_S⁻ᵀ B'."""
    a_grads, b_grads = (_gradients({name: factors[name][side] for name in parameters}) for side in (0, 1))
    for name, (b_white, a_white) in parameters.items():
        metric = metrics[name]
        a_white.grad = torch.linalg.solve_triangular(metric.input_factor, a_grads[name].T, upper=False).T
        b_white.grad = torch.linalg.solve_triangular(metric.output_factor, b_grads[name], upper=False)
        for parameter in factors[name]:
            parameter.grad = None


def _gradients(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return every parameter's gradient, added up over all workers; one that had nothing to read has none."""
    return summed({name: p.grad.float().cpu() for name, p in parameters.items() if p.grad is not None})


@torch.no_grad()
def _push(
    live: AttachedPatch,
    parameters: Mapping[str, tuple[nn.Parameter, nn.Parameter]],
    metrics: Mapping[str, ModuleMetric],
) -> None:
    for name, (a, b) in live.parameters().items():
        b_white, a_white = parameters[name]
        plain = from_whitened(b_white.detach(), a_white.detach(), metrics[name])
        a.copy_(plain.a)
        b.copy_(plain.b)
