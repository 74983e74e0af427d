"""Fast ablative fine-tuning: a few steps on the model's own answers, in coordinates where length is KL.

The factors of every module are moved as dW = L_S⁻ᵀ B' A' L_C⁻¹. There the squared Frobenius norm is about twice the KL,
so that Adam on (A', B') is nearly a natural-gradient step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.artifacts import ModuleMetric, Patch
from unflinch.edit.low_rank import from_whitened, to_whitened
from unflinch.metrics.kl import kl_divergence
from unflinch.metrics.refusal_score import Decision
from unflinch.models.forward import Ids, logits_from_hidden, scored_hidden
from unflinch.patch.attach import AttachedPatch, attached

Score = Callable[[Tensor, Sequence[Ids]], Tensor]


@dataclass(frozen=True)
class OwnAnswer:
    """A harmless prompt with the answer that the patched model itself gave to it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and what must hold meanwhile."""

    answers: Sequence[OwnAnswer]
    """All with the same number of answer tokens."""
    keeps: Sequence[Decision]
    keep_floor: Float[Tensor, " keeps"]
    """Refusal scores that keeps must not fall below."""
    ordinary: Sequence[Ids]
    ordinary_base: Float[Tensor, "ordinary scored width"]
    """The base model's final states at the scored positions of the ordinary prompts."""


@dataclass(frozen=True)
class FineTuneSteps:
    """How many steps of what size."""

    steps: int
    batch_size: int
    learning_rate: float
    ordinary_weight: float = 20.0
    """Of the KL on ordinary prompts against the loss on own answers."""
    keep_weight: float = 2.0
    """Of the shortfall of keeps below their floor."""
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
    """Return the patch after a few steps towards the model's own answers.

    Formula: minimise mean(-log p(own answer)) + w_o KL(base || patched) on ordinary prompts
    + w_k mean(max(0, floor - refusal score)) on keeps, by Adam on whitened factors with a decaying step.

    Args:
        model: the base model; it leaves as it came.
        start: the patch to begin with.
        lesson: own answers, keeps with their floors, ordinary prompts.
        metrics: of the patched modules.
        score: refusal scores of logits `(prompts, scored, vocab)` and paths, as `RefusalOpenings.decision_scores`.
        options: steps, batch, learning rate, weights.
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
            loss = _loss(model, lesson, next(batches), score, options)
            loss.backward()
            _pull_back(factors, parameters, metrics)
            optimiser.step()
            optimiser.zero_grad()
            _push(live, parameters, metrics)
            if advance:
                advance(1)
        return live.snapshot(start.base_hash)


def _loss(
    model: PreTrainedModel,
    lesson: Lesson,
    rows: tuple[list[int], list[int], list[int]],
    score: Score,
    options: FineTuneSteps,
) -> Tensor:
    answers = [lesson.answers[i] for i in rows[0]]
    length = len(answers[0].answer)
    hidden = scored_hidden(model, [(*a.prompt, *a.answer[:-1]) for a in answers], length)
    labels = torch.tensor([a.answer for a in answers], device=hidden.device)
    logits = logits_from_hidden(model, hidden)
    own = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    short = (lesson.keep_floor[rows[1]].to(hidden.device) - _scores(model, lesson, rows[1], score)).clamp(min=0).mean()
    base = lesson.ordinary_base[rows[2]]
    ordinary = scored_hidden(model, [lesson.ordinary[i] for i in rows[2]], base.shape[1])
    kl = kl_divergence(logits_from_hidden(model, base), logits_from_hidden(model, ordinary)).mean()
    return own + options.keep_weight * short + options.ordinary_weight * kl


def _scores(model: PreTrainedModel, lesson: Lesson, rows: Sequence[int], score: Score) -> Tensor:
    keeps = [lesson.keeps[row] for row in rows]
    lengths = [max(1, len(keep.path)) for keep in keeps]
    hidden = scored_hidden(model, [keep.ids for keep in keeps], max(lengths), lengths=lengths)
    return score(logits_from_hidden(model, hidden), [keep.path for keep in keeps])


class _Batches(Iterator[tuple[list[int], list[int], list[int]]]):
    """Endless batches of row numbers: own answers, keeps (twice as many), ordinary prompts."""

    def __init__(self, lesson: Lesson, options: FineTuneSteps) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        sizes = (len(lesson.answers), len(lesson.keeps), len(lesson.ordinary))
        counts = (options.batch_size, 2 * options.batch_size, max(1, options.batch_size // 2))
        self._streams = [(_endless(n, generator), min(n, k)) for n, k in zip(sizes, counts, strict=True)]

    def __next__(self) -> tuple[list[int], list[int], list[int]]:
        answers, keeps, ordinary = ([next(stream) for _ in range(count)] for stream, count in self._streams)
        return answers, keeps, ordinary


def _endless(n: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(n, generator=generator).tolist()


@torch.no_grad()
def _pull_back(
    factors: Mapping[str, tuple[nn.Parameter, nn.Parameter]],
    parameters: Mapping[str, tuple[nn.Parameter, nn.Parameter]],
    metrics: Mapping[str, ModuleMetric],
) -> None:
    """Carry gradients from (A, B) to whitened coordinates: A = A' L_C⁻¹ and B = L_S⁻ᵀ B'."""
    for name, (b_white, a_white) in parameters.items():
        a, b = factors[name]
        metric = metrics[name]
        assert a.grad is not None and b.grad is not None
        a_white.grad = torch.linalg.solve_triangular(metric.input_factor, a.grad.float().cpu().T, upper=False).T
        b_white.grad = torch.linalg.solve_triangular(metric.output_factor, b.grad.float().cpu(), upper=False)
        a.grad = b.grad = None


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
