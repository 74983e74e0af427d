"""Part of `scan`: which modules a patch can act through, and what it will cost at least, before anything is edited."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unflinch.activations.gradients import refusal_gradients
from unflinch.edit.closed_form import whiten_in_place
from unflinch.edit.least_cost import Leverage, leverages, together
from unflinch.models.batches import shared_prefix_length
from unflinch.models.forward import can_share_prefix
from unflinch.models.load import LoadedModel
from unflinch.models.writers import choose_writers
from unflinch.options import FitOptions
from unflinch.robustness_results import EditCost, ModuleLeverage
from unflinch.steps.baseline import Baseline
from unflinch.steps.decisions import decisions
from unflinch.steps.fit_inputs import Ids, metrics_of, ordinary_sequences
from unflinch.steps.progress import Progress, counter
from unflinch.steps.scan import Scan

_PROMPTS = 48
"""Refused targets, and as many right refusals: their mean gradients hardly move with more."""
_COSTED = 64
"""Ordinary prompts from which the cost of a change is taken."""


def edit_cost(loaded: LoadedModel, baseline: Baseline, scan: Scan, options: FitOptions, progress: Progress) -> EditCost:
    """Return what every module that can be edited is worth, and the least KL of a patch of those that are chosen.

    Args:
        loaded: the base model.
        baseline: who refuses what; only `fit` is looked at.
        scan: chosen layers, and how refusals begin.
        options: the goal, and how the cost of a change is taken.
        progress: called while computing.
    """
    fit, openings = baseline.fit, scan.openings
    groups = [fit.refused("targets")[:_PROMPTS], [*fit.refused("keep"), *fit.refused("guard")][:_PROMPTS]]
    found = decisions(loaded.tokenizer, [asked for group in groups for asked in group], openings)
    is_target = torch.arange(len(found)) < len(groups[0])
    sequences = ordinary_sequences(loaded, fit, options.answer_tokens)[:_COSTED]
    modules = choose_writers(loaded.model, loaded.architecture, range(loaded.depth), options.writers).modules
    chosen = set(choose_writers(loaded.model, loaded.architecture, scan.subspace.layers, options.writers).modules)
    at_once = len(chosen)  # as many metrics as a fit holds
    batches = [modules[first : first + at_once] for first in range(0, len(modules), at_once)]
    advance = counter(progress, "scan: what an edit costs", len(batches) * (len(found) + len(sequences)))
    every: dict[str, Leverage] = {}
    scores = torch.empty(0)
    for some in batches:
        metrics = metrics_of(loaded, some, sequences, options, torch.zeros, advance)
        gradients = refusal_gradients(
            loaded.model, loaded.architecture, some, found, openings.decision_scores, advance=advance
        )
        scores = gradients.scores
        whitened = whiten_in_place(gradients, metrics, torch.ones_like(is_target))
        every |= leverages(whitened, is_target, ~is_target)
    shift = max(0.0, float(scores[is_target].mean()) - options.goal)
    whole = together({name: every[name] for name in modules if name in chosen})
    share = _own_tokens(loaded, sequences, options.answer_tokens) / options.answer_tokens
    return EditCost(
        tuple(ModuleLeverage(name, one.targets, one.guarded, name in chosen) for name, one in every.items()),
        shift,
        _finite(share * whole.least_kl(shift)),
        _finite(share * Leverage(whole.targets, 0.0, 0.0).least_kl(shift)),
    )


def _own_tokens(loaded: LoadedModel, sequences: Sequence[Ids], scored: int) -> float:
    """Return the mean number of tokens outside the common start, at all of which an update acts."""
    shared = shared_prefix_length(sequences, scored) if can_share_prefix(loaded.model) else 0
    return sum(map(len, sequences)) / len(sequences) - shared


def _finite(nats: float) -> float | None:
    return nats if nats < float("inf") else None
