"""Step 3: the patch. Closed form, KL-constrained rounds, fine-tuning on the model's own answers, strength.

Every stage is measured on `select` prompts and rolled back if it did not help. What comes out is the patch with the
fewest false refusals left among those that keep the right ones and the KL budget (`steps.select_panel`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from unflinch.activations.gradients import fisher_metrics, refusal_gradients
from unflinch.artifacts import ModuleMetric, Patch
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
from unflinch.models.chat import encode, encode_all
from unflinch.models.forward import logits_from_hidden, scored_hidden
from unflinch.models.load import LoadedModel
from unflinch.options import FitOptions
from unflinch.patch.attach import attached
from unflinch.results import FitStage, PatchSummary
from unflinch.steps.baseline import Asked, Baseline
from unflinch.steps.progress import Progress, counter
from unflinch.steps.scan import Scan
from unflinch.steps.select_panel import SelectPanel, choose_strength, ordinary_sequences, shortfall
from unflinch.validate.judges import RuleJudge
from unflinch.validate.refusal_rate import ask

Ids = tuple[int, ...]
Checkpoint = Callable[[str, Callable[[], Patch]], Patch]
"""Called with a stage's name and a function that makes its patch; returns the stored patch if the stage has run."""

_EARLY_ROUNDS = 2
"""Rounds before the last one look at every second prompt: they only bring the patch near where the last one starts."""
_STIFFNESS = 100.0
"""Price of missing a bound, on gradients scaled to mean square 1: bounds are missed only where they contradict."""


@dataclass(frozen=True)
class FitInputs:
    """What all stages work with."""

    metrics: dict[str, ModuleMetric]
    targets: list[Ids]
    keeps: list[Ids]
    margins: Tensor
    """Per keep, how far its refusal score must stay above the base model's."""
    keep_scores: Tensor
    """The base model's."""
    ordinary: Sequence[Sequence[int]]
    ordinary_base: Tensor

    def thinned(self, step: int) -> FitInputs:
        """Return the same with every `step`-th target and keep."""
        return replace(
            self,
            targets=self.targets[::step],
            keeps=self.keeps[::step],
            margins=self.margins[::step],
            keep_scores=self.keep_scores[::step],
        )


def prepare_fit(
    loaded: LoadedModel, baseline: Baseline, scan: Scan, options: FitOptions, progress: Progress
) -> FitInputs:
    """Return the edited modules with what changing them costs, and the prompts that bound the update.

    Guard prompts of `select` bound it too: no choice needs them, and every bound makes the guard stronger.
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
    keeps: list[tuple[Asked, float]] = [(a, options.keep_margin if a.refused else 0.0) for a in baseline.fit.keep]
    keeps += [(a, options.guard_margin) for a in baseline.fit.guard + baseline.select.guard]
    keep_ids = encode_all(loaded.tokenizer, [a.prompt for a, _ in keeps])
    with torch.inference_mode():
        hidden = scored_hidden(loaded.model, keep_ids, 1)[:, 0]
        scores = torch.cat([scan.openings.score(logits_from_hidden(loaded.model, h)).cpu() for h in hidden.split(64)])
        base = scored_hidden(loaded.model, ordinary, options.answer_tokens)
    return FitInputs(
        metrics,
        encode_all(loaded.tokenizer, [a.prompt for a in baseline.fit.refused("targets")]),
        keep_ids,
        torch.tensor([margin for _, margin in keeps]),
        scores.clone(),
        ordinary,
        base.clone(),
    )


def closed_form_round(
    loaded: LoadedModel,
    inputs: FitInputs,
    scan: Scan,
    start: Patch | None,
    options: FitOptions,
    advance: Callable[[int], None],
) -> Patch:
    """Return the patch after one more linearisation of all refusal scores, at `start` or at the base model."""
    sequences = inputs.targets + inputs.keeps
    with attached(loaded.model, start) if start else nullcontext():
        found = refusal_gradients(
            loaded.model, loaded.architecture, list(inputs.metrics), sequences, scan.openings.score, advance=advance
        )
    count = len(inputs.targets)
    upper = torch.full((len(sequences),), torch.inf)
    upper[:count] = (found.scores[:count] - options.largest_drop).clamp(min=options.goal)
    lower = torch.full((len(sequences),), -torch.inf)
    lower[count:] = inputs.keep_scores + inputs.margins
    whitened = whitened_gradients(found, inputs.metrics)
    multipliers = solve_multipliers(
        gram_matrix(whitened, whitened),
        found.scores,
        ScoreBounds(lower, upper),
        torch.full((len(sequences),), _STIFFNESS),
    )
    update = closed_form_update(whitened, multipliers, inputs.metrics, 2 * options.rank)
    parts = [start.factors, update] if start else [update]
    return Patch(added(parts, inputs.metrics, options.rank), loaded.base_hash)


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
) -> Patch:
    """Return the patch after a few steps on the model's own answers; `start` itself where it answers too little."""
    if not options.fine_tune_steps:
        return start
    prompts = [a.prompt for a in baseline.fit.refused("targets")][: 2 * options.fine_tune_steps * options.batch_size]
    advance = counter(progress, "fit: the model's own answers", len(prompts))
    answers = own_answers(loaded, prompts, start, 2 * options.answer_tokens, advance)
    if not answers:
        return start
    floor = inputs.keep_scores + inputs.margins
    lesson = Lesson(answers, inputs.keeps, floor, inputs.ordinary, inputs.ordinary_base)
    steps = FineTuneSteps(options.fine_tune_steps, options.batch_size, options.learning_rate, seed=options.seed)
    advance = counter(progress, "fit: fine-tuning", steps.steps)
    return fine_tune(loaded.model, start, lesson, inputs.metrics, scan.openings.score, steps, advance)


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
    panel = SelectPanel(loaded, baseline, scan.openings, options.answer_tokens)
    stages = [panel.untouched()]
    best: Patch | None = None
    for number in range(options.rounds):
        name = "closed_form" if number == 0 else f"constrained_{number}"
        seen = inputs if number == options.rounds - 1 else inputs.thinned(_EARLY_ROUNDS)
        advance = counter(progress, f"fit: {name.replace('_', ' ')}", len(seen.targets) + len(seen.keeps))
        patch = checkpoint(name, partial(closed_form_round, loaded, seen, scan, best, options, advance))
        best = _better(loaded, panel, stages, name, patch, best, options)
    assert best is not None
    found = best
    tuned = checkpoint("fine_tune", lambda: fine_tuned(loaded, inputs, baseline, scan, found, options, progress))
    best = _better(loaded, panel, stages, "fine_tune", tuned, best, options)
    advance = counter(progress, "fit: strength, by judged answers", panel.most_answers)
    with attached(loaded.model, best) as live:
        strength, stage = choose_strength(panel, live, options, advance)
    stages.append(stage)
    final = Patch(scaled(best.factors, strength), loaded.base_hash)
    weights = sum(p.numel() for p in loaded.model.parameters())
    summary = PatchSummary(final.parameters, final.parameters / weights, options.rank, len(final.factors), strength)
    return final, stages, summary


def _better(
    loaded: LoadedModel,
    panel: SelectPanel,
    stages: list[FitStage],
    name: str,
    patch: Patch,
    best: Patch | None,
    options: FitOptions,
) -> Patch:
    """Measure a stage and return the better of it and the best one before."""
    with attached(loaded.model, patch):
        stage = panel.by_first_token(name)
    before = min((s for s in stages if s.name != "base"), key=lambda s: shortfall(s, options), default=None)
    worse = before is not None and shortfall(stage, options) > shortfall(before, options)
    stages.append(replace(stage, note="rolled back: no better on select prompts") if worse else stage)
    return best if worse and best is not None else patch
