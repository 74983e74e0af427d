"""Step 3: the patch. Closed form, KL-constrained rounds, fine-tuning down the measured KL, strength.

Every stage is measured on `select` prompts and rolled back if it did not help. What comes out is the patch that trades
false refusals left against right ones lost best, within the guard, keep and KL budgets (`steps.select_panel`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from unflinch.activations.gradients import refusal_gradients
from unflinch.activations.scratch_space import Workspace
from unflinch.artifacts import FittedStage, ModuleMetric, Patch, PromptGradients
from unflinch.edit.closed_form import closed_form_update, gram_matrix, solve_multipliers, whiten_in_place
from unflinch.edit.fine_tune import DecisionGroup, FineTuneSteps, Lesson, fine_tune
from unflinch.edit.low_rank import added, scaled
from unflinch.errors import NotFiniteError
from unflinch.models.forward import scored_hidden
from unflinch.models.load import LoadedModel
from unflinch.models.memory import give_back_memory
from unflinch.models.workers import by_first
from unflinch.models.writers import choose_writers
from unflinch.options import FitOptions
from unflinch.patch.attach import attached
from unflinch.results import FitStage, PatchSummary
from unflinch.steps.baseline import Baseline
from unflinch.steps.fit_inputs import FitInputs, Kind, prepare_fit, score_bounds
from unflinch.steps.progress import Progress, counter
from unflinch.steps.scan import Scan
from unflinch.steps.select_panel import SelectPanel, choose_strength

logger = logging.getLogger(__name__)

Checkpoint = Callable[[str, Callable[[], FittedStage]], FittedStage]
"""Called with a stage's name and a function that computes it; returns what is stored if the stage has run."""

STIFFNESS = 100.0
"""Price of missing a bound, on gradients scaled to mean square 1: bounds are missed only where they contradict."""

SHARES = {Kind.TARGET: 1.0, Kind.KEEP: 1.0, Kind.GUARD: 0.5, Kind.ORDINARY: 0.5}
"""Prompts of a kind in a step of fine-tuning, in batches."""


def closed_form_round(
    loaded: LoadedModel,
    inputs: FitInputs,
    scan: Scan,
    space: Workspace,
    start: Patch | None,
    options: FitOptions,
    advance: Callable[[int], None],
) -> FittedStage:
    """Return the patch after one more linearisation of all refusal scores, at `start` or at the base model.

    Args:
        loaded: the base model.
        inputs: what bounds the update, and what it costs.
        scan: openings of refusals.
        space: for the gradients.
        start: the patch so far.
        options: goals and margins.
        advance: called with the number of finished prompts.
    """
    score_of, modules = scan.openings.decision_scores, list(inputs.metrics)
    with space.gradients() as zeros:
        with attached(loaded.model, start) if start else nullcontext():
            found = refusal_gradients(
                loaded.model,
                loaded.architecture,
                modules,
                inputs.decisions,
                score_of,
                zeros=zeros,
                lower=inputs.lower,
                advance=advance,
            )
        return by_first(lambda: _solved(found, inputs, start, loaded.base_hash, options))


def _solved(
    found: PromptGradients, inputs: FitInputs, start: Patch | None, base_hash: str, options: FitOptions
) -> FittedStage:
    """Return the patch that the linearised scores ask for, with the scores and how far inside their bounds it is."""
    scores = found.scores
    bounds = score_bounds(inputs, scores, options)
    bounded = bounds.finite()
    whitened, bounds = whiten_in_place(found, inputs.metrics, bounded), bounds.rows(bounded)
    gram = gram_matrix(whitened)
    stiffness = torch.full((len(whitened.scores),), STIFFNESS)
    multipliers = solve_multipliers(gram, whitened.scores, bounds, stiffness)
    after = (whitened.scores - gram @ multipliers).float()
    update = closed_form_update(whitened, multipliers, inputs.metrics, 2 * options.rank)
    parts = [start.factors, update] if start else [update]
    patch = Patch(added(parts, inputs.metrics, options.rank), base_hash)
    slack = torch.full_like(scores, torch.inf)
    slack[bounded] = torch.minimum(after - bounds.lower, bounds.upper - after)
    return FittedStage(patch, scores, slack)


def fine_tuned(
    loaded: LoadedModel, inputs: FitInputs, scan: Scan, start: Patch, options: FitOptions, progress: Progress
) -> FittedStage:
    """Return the patch after a few steps down the KL on ordinary prompts, the scores kept in their bounds."""
    assert inputs.base_scores is not None
    with torch.inference_mode():
        base = scored_hidden(loaded.model, inputs.sequences, options.answer_tokens)
    lesson = Lesson(
        inputs.decisions,
        score_bounds(inputs, torch.full_like(inputs.base_scores, -torch.inf), options),
        tuple(DecisionGroup(inputs.rows(kind), share) for kind, share in SHARES.items()),
        inputs.sequences,
        base.clone(),
        inputs.lower,
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
    return by_first(lambda: Patch(added(halves, metrics, rank), first.base_hash))


def fit_patch(
    loaded: LoadedModel,
    baseline: Baseline,
    scan: Scan,
    options: FitOptions,
    progress: Progress,
    checkpoint: Checkpoint,
    space: Workspace,
) -> tuple[Patch, list[FitStage], PatchSummary]:
    """Return the patch, its stages as measured on `select` prompts, and its size.

    Args:
        loaded: the base model.
        baseline: who refuses what.
        scan: layers, openings, directions.
        options: of this step.
        progress: called while computing.
        checkpoint: keeps every stage's patch, so that an interrupted fit goes on.
        space: for the statistics.
    """
    inputs = prepare_fit(loaded, baseline, scan, space, options, progress)
    give_back_memory()
    panel = SelectPanel(loaded, baseline, scan.openings, inputs.lower)
    stages = Stages(loaded, panel, options)
    for number in range(options.rounds):
        name = "closed_form" if number == 0 else f"constrained_{number}"
        advance = counter(progress, f"fit: {name.replace('_', ' ')}", len(inputs.decisions))
        found = checkpoint(
            name, partial(closed_form_round, loaded, inputs, scan, space, stages.whole, options, advance)
        )
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
    writers = choose_writers(loaded.model, loaded.architecture, scan.subspace.layers, options.writers).coverage
    share = final.parameters / loaded.parameters
    summary = PatchSummary(final.parameters, share, options.rank, len(final.factors), strength, writers)
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
        """Strength of the best stage that does best by refusal scores."""
        self._shortfall = float("inf")

    def compare(self, name: str, patch: Patch) -> bool:
        """Turn a stage's patch down to the KL budget and measure it; return whether it is kept as the best so far.

        Raises:
            NotFiniteError: if the first stage overflows at any strength; a later one is left out.
        """
        give_back_memory()
        try:
            with attached(self._loaded.model, patch) as live:
                found = self._panel.by_scores(name, live, self._options)
        except NotFiniteError as error:
            if self.best is None:
                raise
            logger.warning("stage %s of the fit is left out: %s", name, error)
            return False
        worse = found.shortfall > self._shortfall
        note = f"{found.stage.note}; rolled back, no better" if worse else found.stage.note
        self.table.append(replace(found.stage, note=note))
        if not worse:
            self.whole = patch
            self.best = Patch(scaled(patch.factors, found.strength), patch.base_hash)
            self.start, self._shortfall = found.best, found.shortfall
        give_back_memory()
        return not worse
