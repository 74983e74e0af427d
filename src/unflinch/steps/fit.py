"""Step 3: the patch. Closed form, KL-constrained rounds, fine-tuning down the measured KL, strength.

Every stage is measured on `select` prompts and rolled back if it did not help. What comes out is the patch that trades
false refusals left against right ones lost best, within the guard, keep and KL budgets (`steps.select_panel`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from unflinch.activations.gradients import fisher_metrics, refusal_gradients
from unflinch.artifacts import FittedStage, ModuleMetric, Patch
from unflinch.edit.closed_form import (
    ScoreBounds,
    closed_form_update,
    gram_matrix,
    solve_multipliers,
    whitened_gradients,
)
from unflinch.edit.fine_tune import FineTuneSteps, Lesson, fine_tune
from unflinch.edit.low_rank import added, scaled
from unflinch.metrics.refusal_score import Decision
from unflinch.models.chat import encode
from unflinch.models.forward import scored_hidden
from unflinch.models.load import LoadedModel
from unflinch.options import FitOptions
from unflinch.patch.attach import attached
from unflinch.results import FitStage, PatchSummary
from unflinch.steps.baseline import Baseline, BaselineSet
from unflinch.steps.decisions import decisions
from unflinch.steps.progress import Progress, counter
from unflinch.steps.scan import Scan
from unflinch.steps.select_panel import SelectPanel, choose_strength

Ids = tuple[int, ...]
Checkpoint = Callable[[str, Callable[[], FittedStage]], FittedStage]
"""Called with a stage's name and a function that computes it; returns what is stored if the stage has run."""

_STIFFNESS = 100.0
"""Price of missing a bound, on gradients scaled to mean square 1: bounds are missed only where they contradict."""

_COSTED = 200
"""Ordinary prompts from which the cost of a change is taken; the fine-tuning uses all."""

_NEAR_BOUND = 0.75
"""Scores predicted farther inside their bounds than this, in logits, hardly ever bind in a later round."""


@dataclass(frozen=True)
class FitInputs:
    """What all stages work with."""

    metrics: dict[str, ModuleMetric]
    targets: list[Decision]
    keeps: list[Decision]
    margins: Tensor
    """Per keep, how far its refusal score must stay above the base model's."""
    guards: Tensor
    """Per keep, whether it is a guard prompt."""
    ordinary: Sequence[Sequence[int]]
    unasked: Tensor
    """Per target and then keep, whether only its score can tell if the base model refuses it."""
    base_scores: Tensor | None = None
    """Refusal scores of the base model, of targets and then of keeps; None until the first round has found them."""

    def near_bounds(self, first: FittedStage) -> FitInputs:
        """Return what later rounds work with: the prompts that the first round left near their bounds."""
        count = len(self.targets)
        rows = (first.slack <= _NEAR_BOUND).nonzero()[:, 0].tolist()
        kept = [row - count for row in rows if row >= count]
        return replace(
            self,
            targets=[self.targets[row] for row in rows if row < count],
            keeps=[self.keeps[row] for row in kept],
            margins=self.margins[kept],
            guards=self.guards[kept],
            unasked=self.unasked[rows],
            base_scores=first.scores[rows],
        )


def ordinary_sequences(loaded: LoadedModel, sets: BaselineSet, tokens: int) -> list[Ids]:
    """Return answered ordinary prompts up to the token before the `tokens`-th of the base model's own answer."""
    return [
        (*encode(loaded.tokenizer, a.prompt), *a.tokens[: tokens - 1])
        for a in sets.answered("ordinary")
        if len(a.tokens) >= tokens
    ]


def prepare_fit(
    loaded: LoadedModel, baseline: Baseline, scan: Scan, options: FitOptions, progress: Progress
) -> FitInputs:
    """Return the edited modules with what changing them costs, and the prompts that bound the update.

    Keeps that the base model answers are left out: they bound nothing. All guard prompts stay, those of `select` too:
    no choice needs them, and every bound makes the guard stronger. Prompts that were not asked come along: the first
    round drops those that the base model does not refuse, by their score.
    """
    architecture = loaded.architecture
    writers = architecture.writers[-1:] if options.writers == "feed_forward" else architecture.writers
    modules = [f"{architecture.layers}.{layer}.{writer}" for layer in scan.subspace.layers for writer in writers]
    ordinary = ordinary_sequences(loaded, baseline.fit, options.answer_tokens)
    costed = ordinary[:_COSTED]
    metrics = fisher_metrics(
        loaded.model,
        architecture,
        modules,
        costed,
        options.answer_tokens,
        input_shrinkage=options.input_shrinkage,
        output_shrinkage=options.output_shrinkage,
        seed=options.seed,
        advance=counter(progress, "fit: what a change costs", len(costed)),
    )
    fit = baseline.fit
    targets, keeps, guards = fit.refused("targets"), fit.refused("keep"), fit.guard + baseline.select.guard
    found = decisions(loaded.tokenizer, [*targets, *keeps, *guards], scan.openings)
    more_targets, more_keeps = (
        [Decision(tuple(encode(loaded.tokenizer, prompt)), ()) for prompt in prompts]
        for prompts in (fit.unasked_targets, fit.unasked_keep)
    )
    counts = (len(targets), len(more_targets), len(keeps) + len(guards), len(more_keeps))
    is_guard = torch.tensor([False, True, False]).repeat_interleave(
        torch.tensor([len(keeps), len(guards), len(more_keeps)])
    )
    return FitInputs(
        metrics,
        found[: len(targets)] + more_targets,
        found[len(targets) :] + more_keeps,
        torch.where(is_guard, options.guard_margin, options.keep_margin),
        is_guard,
        ordinary,
        torch.tensor([False, True, False, True]).repeat_interleave(torch.tensor(counts)),
    )


def closed_form_round(
    loaded: LoadedModel,
    inputs: FitInputs,
    scan: Scan,
    start: Patch | None,
    options: FitOptions,
    advance: Callable[[int], None],
) -> FittedStage:
    """Return the patch after one more linearisation of all refusal scores, at `start` or at the base model.

    Args:
        loaded: the base model.
        inputs: what bounds the update, and what it costs.
        scan: openings of refusals.
        start: the patch so far.
        options: goals and margins.
        advance: called with the number of finished prompts.
    """
    prompts, score_of = inputs.targets + inputs.keeps, scan.openings.decision_scores
    with attached(loaded.model, start) if start else nullcontext():
        found = refusal_gradients(
            loaded.model, loaded.architecture, list(inputs.metrics), prompts, score_of, advance=advance
        )
    scores = found.scores
    bounds = score_bounds(inputs, scores, options)
    bounded = bounds.finite()
    found, bounds = found.rows(bounded), bounds.rows(bounded)
    whitened = whitened_gradients(found, inputs.metrics)
    gram = gram_matrix(whitened, whitened)
    multipliers = solve_multipliers(gram, found.scores, bounds, torch.full((len(found.scores),), _STIFFNESS))
    after = (found.scores - gram @ multipliers).float()
    update = closed_form_update(whitened, multipliers, inputs.metrics, 2 * options.rank)
    parts = [start.factors, update] if start else [update]
    patch = Patch(added(parts, inputs.metrics, options.rank), loaded.base_hash)
    slack = torch.full((len(prompts),), torch.inf)
    slack[bounded] = torch.minimum(after - bounds.lower, bounds.upper - after)
    return FittedStage(patch, scores, slack)


def score_bounds(inputs: FitInputs, scores: Tensor, options: FitOptions) -> ScoreBounds:
    """Return where refusal scores should end: targets below the goal, keeps above the base model's by their margin.

    A prompt that was not asked and whose score says that the base model does not refuse it stays free.

    Args:
        inputs: what bounds the update.
        scores: where they are now, of targets and then of keeps; -inf where no drop is too large.
        options: goal and largest drop.
    """
    count = len(inputs.targets)
    base = scores if inputs.base_scores is None else inputs.base_scores
    upper, lower = torch.full_like(scores, torch.inf), torch.full_like(scores, -torch.inf)
    upper[:count] = (scores[:count] - options.largest_drop).clamp(min=options.goal)
    lower[count:] = base[count:] + inputs.margins
    free = inputs.unasked & (base <= 0)
    upper[free], lower[free] = torch.inf, -torch.inf
    return ScoreBounds(lower, upper)


def fine_tuned(
    loaded: LoadedModel, inputs: FitInputs, scan: Scan, start: Patch, options: FitOptions, progress: Progress
) -> FittedStage:
    """Return the patch after a few steps down the KL on ordinary prompts, the scores kept in their bounds."""
    assert inputs.base_scores is not None
    with torch.inference_mode():
        base = scored_hidden(loaded.model, inputs.ordinary, options.answer_tokens)
    count = len(inputs.targets)
    lesson = Lesson(
        inputs.targets + inputs.keeps,
        score_bounds(inputs, torch.full_like(inputs.base_scores, -torch.inf), options),
        range(count),
        (count + (~inputs.guards).nonzero()[:, 0]).tolist(),
        (count + inputs.guards.nonzero()[:, 0]).tolist(),
        inputs.ordinary,
        base.clone(),
    )
    steps = FineTuneSteps(
        options.fine_tune_steps, options.batch_size, options.learning_rate, options.kl_weight, options.seed
    )
    advance = counter(progress, "fit: fine-tuning", steps.steps)
    score = scan.openings.decision_scores
    return FittedStage(fine_tune(loaded.model, start, lesson, inputs.metrics, score, steps, advance))


def averaged(first: Patch, second: Patch, metrics: Mapping[str, ModuleMetric], rank: int) -> Patch:
    """Return the patch half-way between two: what both have learnt carries over best, see LOG."""
    halves = [scaled(patch.factors, 0.5) for patch in (first, second)]
    return Patch(added(halves, metrics, rank), first.base_hash)


def fit_patch(
    loaded: LoadedModel,
    baseline: Baseline,
    scan: Scan,
    options: FitOptions,
    progress: Progress,
    checkpoint: Checkpoint,
) -> tuple[Patch, list[FitStage], PatchSummary]:
    """Return the patch, its stages as measured on `select` prompts, and its size.

    Args:
        loaded: the base model.
        baseline: who refuses what.
        scan: layers, openings, directions.
        options: of this step.
        progress: called while computing.
        checkpoint: keeps every stage's patch, so that an interrupted fit goes on.
    """
    inputs = prepare_fit(loaded, baseline, scan, options, progress)
    panel = SelectPanel(loaded, baseline, scan.openings)
    stages = Stages(loaded, panel, options)
    for number in range(options.rounds):
        name = "closed_form" if number == 0 else f"constrained_{number}"
        advance = counter(progress, f"fit: {name.replace('_', ' ')}", len(inputs.targets) + len(inputs.keeps))
        found = checkpoint(name, partial(closed_form_round, loaded, inputs, scan, stages.whole, options, advance))
        if not stages.compare(name, found.patch):
            break  # another round would begin, and end, where this one did
        if number == 0:
            inputs = inputs.near_bounds(found)
    assert stages.best is not None and stages.whole is not None
    if options.fine_tune_steps:
        start = stages.whole
        tuned = checkpoint("fine_tune", partial(fine_tuned, loaded, inputs, scan, start, options, progress)).patch
        stages.compare("fine_tune", tuned)
        stages.compare("averaged", averaged(start, tuned, inputs.metrics, options.rank))
    best, advance = stages.best, counter(progress, "fit: strength, by judged answers", panel.most_answers)
    with attached(loaded.model, best) as live:
        strength, stage = choose_strength(panel, live, stages.start, options, advance)
    table = [*stages.table, stage]
    final = Patch(scaled(best.factors, strength), loaded.base_hash)
    weights = sum(p.numel() for p in loaded.model.parameters())
    summary = PatchSummary(final.parameters, final.parameters / weights, options.rank, len(final.factors), strength)
    return final, table, summary


class Stages:
    """The stages of the fit so far, and the best of them."""

    def __init__(self, loaded: LoadedModel, panel: SelectPanel, options: FitOptions) -> None:
        """Start with the base model, which `panel` compares with."""
        self._loaded, self._panel, self._options = loaded, panel, options
        self.table = [panel.untouched()]
        self.whole: Patch | None = None
        """The best stage's patch as it was fitted: the next stage goes on from there."""
        self.best: Patch | None = None
        """The same, turned down to the KL budget."""
        self.start = 1.0
        """Strength of the best stage that does best by first tokens."""
        self._shortfall = float("inf")

    def compare(self, name: str, patch: Patch) -> bool:
        """Turn a stage's patch down to the KL budget and measure it; return whether it is kept as the best so far."""
        with attached(self._loaded.model, patch) as live:
            found = self._panel.by_first_token(name, live, self._options)
        worse = found.shortfall > self._shortfall
        note = f"{found.stage.note}; rolled back, no better" if worse else found.stage.note
        self.table.append(replace(found.stage, note=note))
        if not worse:
            self.whole = patch
            self.best = Patch(scaled(patch.factors, found.strength), patch.base_hash)
            self.start, self._shortfall = found.best, found.shortfall
        return not worse
