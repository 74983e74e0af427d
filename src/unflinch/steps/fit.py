"""Step 3: the patch. Closed form, KL-constrained rounds, fine-tuning on the model's own answers, strength.

Every stage is measured on `select` prompts and rolled back if it did not help. What comes out is the patch that trades
false refusals left against right ones lost best, within the guard, keep and KL budgets (`steps.select_panel`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from unflinch.activations.gradients import fisher_metrics, refusal_gradients
from unflinch.artifacts import FittedStage, ModuleMetric, Patch
from unflinch.data.prompts import Prompt
from unflinch.edit.closed_form import (
    ScoreBounds,
    closed_form_update,
    gram_matrix,
    solve_multipliers,
    whitened_gradients,
)
from unflinch.edit.fine_tune import FineTuneSteps, Lesson, OwnAnswer, fine_tune
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
from unflinch.validate.judges import RuleJudge
from unflinch.validate.refusal_rate import ask

Ids = tuple[int, ...]
Checkpoint = Callable[[str, Callable[[], FittedStage]], FittedStage]
"""Called with a stage's name and a function that computes it; returns what is stored if the stage has run."""

_STIFFNESS = 100.0
"""Price of missing a bound, on gradients scaled to mean square 1: bounds are missed only where they contradict."""

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
    ordinary: Sequence[Sequence[int]]
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
    no choice needs them, and every bound makes the guard stronger.
    """
    architecture = loaded.architecture
    modules = [f"{architecture.layers}.{layer}.{w}" for layer in scan.subspace.layers for w in architecture.writers]
    ordinary = ordinary_sequences(loaded, baseline.fit, options.answer_tokens)
    metrics = fisher_metrics(
        loaded.model,
        architecture,
        modules,
        ordinary,
        options.answer_tokens,
        input_shrinkage=options.input_shrinkage,
        output_shrinkage=options.output_shrinkage,
        seed=options.seed,
        advance=counter(progress, "fit: what a change costs", len(ordinary)),
    )
    targets, keeps = baseline.fit.refused("targets"), baseline.fit.refused("keep")
    guards = baseline.fit.guard + baseline.select.guard
    found = decisions(loaded.tokenizer, [*targets, *keeps, *guards], scan.openings)
    return FitInputs(
        metrics,
        found[: len(targets)],
        found[len(targets) :],
        torch.tensor([options.keep_margin] * len(keeps) + [options.guard_margin] * len(guards)),
        ordinary,
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
    prompts, score = inputs.targets + inputs.keeps, scan.openings.decision_scores
    with attached(loaded.model, start) if start else nullcontext():
        found = refusal_gradients(
            loaded.model, loaded.architecture, list(inputs.metrics), prompts, score, advance=advance
        )
    count = len(inputs.targets)
    upper = torch.full((len(prompts),), torch.inf)
    upper[:count] = (found.scores[:count] - options.largest_drop).clamp(min=options.goal)
    lower = torch.full((len(prompts),), -torch.inf)
    base = found.scores if inputs.base_scores is None else inputs.base_scores
    lower[count:] = base[count:] + inputs.margins
    whitened = whitened_gradients(found, inputs.metrics)
    gram = gram_matrix(whitened, whitened)
    stiffness = torch.full((len(prompts),), _STIFFNESS)
    multipliers = solve_multipliers(gram, found.scores, ScoreBounds(lower, upper), stiffness)
    after = (found.scores - gram @ multipliers).float()
    update = closed_form_update(whitened, multipliers, inputs.metrics, 2 * options.rank)
    parts = [start.factors, update] if start else [update]
    patch = Patch(added(parts, inputs.metrics, options.rank), loaded.base_hash)
    return FittedStage(patch, found.scores, torch.minimum(after - lower, upper - after))


def own_answers(
    loaded: LoadedModel, prompts: Sequence[Prompt], patch: Patch, tokens: int, advance: Callable[[int], None]
) -> list[OwnAnswer]:
    """Return those of the prompts that the patched model answers, with the first `tokens` tokens of its own answers."""
    with attached(loaded.model, patch):
        answers = ask(loaded.model, loaded.tokenizer, prompts, RuleJudge(), tokens, advance=advance)
    return [
        OwnAnswer(encode(loaded.tokenizer, p), a.tokens)
        for p, a in zip(prompts, answers, strict=True)
        if a.judgement.label == "answers" and len(a.tokens) == tokens
    ]


def fine_tuned(
    loaded: LoadedModel,
    inputs: FitInputs,
    baseline: Baseline,
    scan: Scan,
    start: Patch,
    options: FitOptions,
    progress: Progress,
) -> FittedStage:
    """Return the patch after a few steps on the model's own answers; `start` itself where it answers too little."""
    if not options.fine_tune_steps:
        return FittedStage(start)
    prompts = [a.prompt for a in baseline.fit.refused("targets")][: 2 * options.fine_tune_steps * options.batch_size]
    advance = counter(progress, "fit: the model's own answers", len(prompts))
    answers = own_answers(loaded, prompts, start, 2 * options.answer_tokens, advance)
    if not answers:
        return FittedStage(start)
    assert inputs.base_scores is not None
    floor = inputs.base_scores[len(inputs.targets) :] + inputs.margins
    with torch.inference_mode():
        base = scored_hidden(loaded.model, inputs.ordinary, options.answer_tokens)
    lesson = Lesson(answers, inputs.keeps, floor, inputs.ordinary, base.clone())
    steps = FineTuneSteps(options.fine_tune_steps, options.batch_size, options.learning_rate, seed=options.seed)
    advance = counter(progress, "fit: fine-tuning", steps.steps)
    return FittedStage(
        fine_tune(loaded.model, start, lesson, inputs.metrics, scan.openings.decision_scores, steps, advance)
    )


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
        found = checkpoint(name, partial(closed_form_round, loaded, inputs, scan, stages.best, options, advance))
        stages.compare(name, found.patch)
        if number == 0:
            inputs = inputs.near_bounds(found)
    assert stages.best is not None
    work = partial(fine_tuned, loaded, inputs, baseline, scan, stages.best, options, progress)
    stages.compare("fine_tune", checkpoint("fine_tune", work).patch)
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
        self.best: Patch | None = None
        self.start = 1.0
        """Strength of the best stage that does best by first tokens."""
        self._shortfall = float("inf")

    def compare(self, name: str, patch: Patch) -> None:
        """Turn a stage's patch down to the KL budget, measure it, and keep it if it is the best so far."""
        with attached(self._loaded.model, patch) as live:
            found = self._panel.by_first_token(name, live, self._options)
        worse = found.shortfall > self._shortfall
        note = f"{found.stage.note}; rolled back, no better" if worse else found.stage.note
        self.table.append(replace(found.stage, note=note))
        if not worse:
            self.best = Patch(scaled(patch.factors, found.strength), patch.base_hash)
            self.start, self._shortfall = found.best, found.shortfall
