"""What the fit works with: edited modules and what changing them costs, prompts and where their scores belong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unflinch.activations.gradients import fisher_metrics
from unflinch.activations.scratch_space import FLOAT_BYTES, Workspace, Zeros, groups_within
from unflinch.artifacts import FittedStage, ModuleMetric
from unflinch.edit.closed_form import ScoreBounds
from unflinch.errors import PromptSetError
from unflinch.metrics.refusal_score import Decision
from unflinch.models.forward import read_lower_layers
from unflinch.models.layers import module_shape
from unflinch.models.load import LoadedModel
from unflinch.models.lower_layers import LowerLayers
from unflinch.models.writers import choose_writers
from unflinch.options import FitOptions
from unflinch.steps.baseline import Baseline, BaselineSet
from unflinch.steps.decisions import decisions
from unflinch.steps.progress import Progress, counter
from unflinch.steps.scan import Scan

Ids = tuple[int, ...]
Item = TypeVar("Item")

COSTED = 200
"""Ordinary prompts from which the cost of a change is taken; the fine-tuning uses all."""

_NEAR_BOUND = 0.75
"""Scores predicted farther inside their bounds than this, in logits, hardly ever bind in a later round."""

_WAVERING = -6.0
"""Refusal scores of answered prompts below this, in logits, are too far from a refusal to need a bound."""


class Kind(IntEnum):
    """What is wanted of a prompt's refusal score."""

    TARGET = 0
    """Below the goal."""
    KEEP = 1
    """Above the base model's."""
    GUARD = 2
    """Well above the base model's, also where the base model answers."""
    ORDINARY = 3
    """Below the base model's where that is near refusing or refuses: never down to the goal, see `score_bounds`."""


@dataclass(frozen=True)
class FitInputs:
    """What all stages work with."""

    metrics: dict[str, ModuleMetric]
    decisions: list[Decision]
    kinds: Int[Tensor, " decisions"]
    """Of `Kind`."""
    unasked: Bool[Tensor, " decisions"]
    """Whether only its score can tell if the base model refuses it."""
    sequences: Sequence[Ids]
    """Ordinary prompts with the base model's answers, along which KL is taken."""
    base_scores: Float[Tensor, " decisions"] | None = None
    """Refusal scores of the base model; None until the first round has found them."""
    lower: LowerLayers | None = None
    """The layers below all edited modules."""

    def rows(self, *kinds: Kind) -> list[int]:
        """Return the places of all prompts of some kinds."""
        return torch.isin(self.kinds, torch.tensor(kinds)).nonzero()[:, 0].tolist()

    def near_bounds(self, first: FittedStage) -> FitInputs:
        """Return what later rounds work with: prompts that the first round left near their bounds, and the whole guard.

        Guard scores rise by a third of what the first linearisation promises, so that none is left behind.
        """
        rows = ((first.slack <= _NEAR_BOUND) | (self.kinds == Kind.GUARD)).nonzero()[:, 0]
        return replace(
            self,
            decisions=[self.decisions[row] for row in rows.tolist()],
            kinds=self.kinds[rows],
            unasked=self.unasked[rows],
            base_scores=first.scores[rows],
        )


def prepare_fit(
    loaded: LoadedModel,
    baseline: Baseline,
    scan: Scan,
    space: Workspace,
    options: FitOptions,
    progress: Progress,
) -> FitInputs:
    """Return the edited modules with what changing them costs, and the prompts that bound the update.

    Keeps that the base model answers are left out: they bound nothing. All guard prompts stay, those of `select` too:
    no choice needs them, and every bound makes the guard stronger. Prompts that were not asked come along: the first
    round finds out by their scores what the base model does with them. With thinking on they have no thought behind
    which to take a score, and are left out.
    """
    fit = baseline.fit
    sequences = ordinary_sequences(loaded, fit, options.answer_tokens)
    asked = {
        Kind.TARGET: fit.refused("targets"),
        Kind.KEEP: fit.refused("keep"),
        Kind.GUARD: [*fit.decided("guard"), *baseline.select.decided("guard")],
        Kind.ORDINARY: [*fit.decided("ordinary"), *(a for a in fit.decided("targets") if not a.refused)],
    }
    unasked = {
        kind: [prompt for prompt in prompts if not prompt.thinking]
        for kind, prompts in (
            (Kind.TARGET, fit.unasked_targets),
            (Kind.KEEP, fit.unasked_keep),
            (Kind.ORDINARY, fit.unasked_ordinary),
        )
    }
    known = _flat(asked)
    found = decisions(loaded.tokenizer, known, scan.openings, _flat(unasked))
    kinds = [kind for group in (asked, unasked) for kind, prompts in group.items() for _ in prompts]
    metrics = module_metrics(loaded, scan, sequences, space, options, progress)
    lower = LowerLayers(loaded.model, loaded.architecture, list(metrics))
    advance = counter(progress, "fit: layers below the patch", len(found))
    read_lower_layers(loaded.model, lower, [decision.ids for decision in found], advance)
    return FitInputs(
        metrics,
        found,
        torch.tensor(kinds),
        torch.arange(len(kinds)) >= len(known),
        sequences,
        lower=lower,
    )


def ordinary_sequences(loaded: LoadedModel, sets: BaselineSet, tokens: int) -> list[Ids]:
    """Return answered ordinary prompts up to the token before the `tokens`-th of the base model's own answer.

    Raises:
        PromptSetError: if no answer is so long.
    """
    answered = sets.answered("ordinary")
    found = [(*a.before_answer(loaded.tokenizer), *a.tokens[: tokens - 1]) for a in answered if len(a.tokens) >= tokens]
    if not found:
        raise PromptSetError(
            f"none of the {len(answered)} answers to ordinary prompts has the {tokens} tokens that the fit needs of "
            "one; lower fit.answer_tokens, or give ordinary prompts with longer answers"
        )
    return found


def module_metrics(
    loaded: LoadedModel,
    scan: Scan,
    sequences: Sequence[Ids],
    space: Workspace,
    options: FitOptions,
    progress: Progress,
) -> dict[str, ModuleMetric]:
    """Return the modules to be edited, and what a change of each costs.

    As many modules a pass as there is space for the sums of; every pass reads the same prompts and samples the same
    labels, so that passes change nothing.
    """
    modules = choose_writers(loaded.model, loaded.architecture, scan.subspace.layers, options.writers).modules
    groups = groups_within({name: _bytes_of_sums(loaded, name) for name in modules}, space.sums)
    costed = sequences[:COSTED]
    advance = counter(progress, "fit: what a change costs", len(costed) * len(groups))
    metrics: dict[str, ModuleMetric] = {}
    for group in groups:
        metrics |= metrics_of(loaded, group, costed, options, space.metrics, advance)
    return metrics


def metrics_of(
    loaded: LoadedModel,
    modules: Sequence[str],
    sequences: Sequence[Ids],
    options: FitOptions,
    zeros: Zeros,
    advance: Callable[[int], None],
) -> dict[str, ModuleMetric]:
    """Return what a change of each module costs, as a fit with these options measures it: `fisher_metrics`."""
    return fisher_metrics(
        loaded.model,
        loaded.architecture,
        modules,
        sequences,
        options.answer_tokens,
        input_shrinkage=options.input_shrinkage,
        output_shrinkage=options.output_shrinkage,
        seed=options.seed,
        zeros=zeros,
        advance=advance,
    )


def _bytes_of_sums(loaded: LoadedModel, name: str) -> int:
    """Return what the second moments of a module's inputs and output gradients take."""
    inputs, outputs = module_shape(loaded.model, name)
    return FLOAT_BYTES * (inputs**2 + outputs**2)


def score_bounds(inputs: FitInputs, scores: Float[Tensor, " decisions"], options: FitOptions) -> ScoreBounds:
    """Return where refusal scores should end.

    Refused targets: below the goal. Right refusals and the whole guard: above the base model's score by their margin.
    Other harmless prompts, if not far from refusing: below the base model's score, as they would else be refused along
    with the keeps. Of these some are refused already, falsely. They are not brought down to the goal: they have no
    harmful twin among the keeps, and take guard prompts of the same shape along (see LOG). Others are free.

    Args:
        inputs: what bounds the update.
        scores: where they are now; -inf where no drop is too large.
        options: goal, largest drop and margins.
    """
    base = scores if inputs.base_scores is None else inputs.base_scores
    harmless = torch.isin(inputs.kinds, torch.tensor((Kind.TARGET, Kind.ORDINARY)))
    refused = (inputs.kinds == Kind.TARGET) & ((base > 0) | ~inputs.unasked)
    brought_down = (scores - options.largest_drop).clamp(min=options.goal)
    upper = torch.where(refused, brought_down, base - options.ordinary_margin)
    bounded = harmless & (refused | (base > _WAVERING))
    guard = inputs.kinds == Kind.GUARD
    margins = torch.where(guard, options.guard_margin, options.keep_margin)
    kept = guard | ((inputs.kinds == Kind.KEEP) & ((base > 0) | ~inputs.unasked))
    return ScoreBounds(
        torch.where(kept, base + margins, -torch.inf),
        torch.where(bounded, upper, torch.inf),
    )


def _flat(groups: Mapping[Kind, Sequence[Item]]) -> list[Item]:
    return [item for group in groups.values() for item in group]
