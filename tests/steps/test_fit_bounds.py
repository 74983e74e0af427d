"""Where refusal scores should end, and what unasked prompts have to do with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_model
from tiny_patches import random_patch
from torch import Tensor

from unflinch.artifacts import FittedStage, ModuleMetric
from unflinch.metrics.refusal_score import Decision
from unflinch.options import FitOptions
from unflinch.steps.fit import FitInputs, averaged, score_bounds

OPTIONS = FitOptions(goal=-2.0, largest_drop=6.0)
SCORES = torch.tensor([3.0, 7.0, -0.5, 2.0, 1.0, -1.5])
"""Three targets, the third unasked and answered; three keeps, the second asked, the third unasked and answered."""


def inputs(**changes: Tensor) -> FitInputs:
    decisions = [Decision((1, 2, n), ()) for n in range(6)]
    unasked = torch.tensor([False, True, True, True, False, True])
    guards = torch.tensor([False, True, False])
    found = FitInputs({}, decisions[:3], decisions[3:], torch.tensor([1.0, 2.0, 1.0]), guards, [], unasked)
    return replace(found, **changes)


def test_targets_come_down_to_the_goal_by_no_more_than_the_largest_drop_and_keeps_rise_by_their_margin() -> None:
    bounds = score_bounds(inputs(), SCORES, OPTIONS)
    assert bounds.upper[:2].tolist() == [-2.0, 1.0]
    assert bounds.lower[3:5].tolist() == [3.0, 3.0]
    assert not bounds.lower[:3].isfinite().any() and not bounds.upper[3:].isfinite().any()


def test_an_unasked_prompt_that_the_model_does_not_refuse_is_free() -> None:
    finite = score_bounds(inputs(), SCORES, OPTIONS).finite()
    assert finite.tolist() == [True, True, False, True, True, False]
    asked = inputs(unasked=torch.zeros(6, dtype=torch.bool))
    assert score_bounds(asked, SCORES, OPTIONS).finite().all()


def test_later_rounds_ask_for_more_than_the_base_model_not_than_the_patch_so_far() -> None:
    later = score_bounds(inputs(base_scores=SCORES), SCORES - 5, OPTIONS)
    assert torch.equal(later.lower, score_bounds(inputs(), SCORES, OPTIONS).lower)


def test_later_rounds_see_the_prompts_near_their_bounds_with_all_that_belongs_to_them() -> None:
    near = torch.tensor([0.0, 2.0, torch.inf, 0.1, 3.0, torch.inf])
    rows = [0, 3]
    kept = inputs().near_bounds(FittedStage(random_patch(tiny_model("qwen2")), SCORES, near))
    assert [d.ids[-1] for d in kept.targets + kept.keeps] == rows
    assert (kept.margins.tolist(), kept.guards.tolist()) == ([1.0], [False])
    assert kept.unasked.tolist() == [False, True]
    assert kept.base_scores is not None and torch.equal(kept.base_scores, SCORES[rows])


def test_the_average_of_two_patches_is_half_of_both() -> None:
    model = tiny_model("qwen2")
    first, second = random_patch(model, seed=1), random_patch(model, seed=2)
    metrics = {
        name: ModuleMetric(torch.eye(f.a.shape[1]), torch.eye(f.b.shape[0])) for name, f in first.factors.items()
    }
    found = averaged(first, second, metrics, rank=64)
    for name, factors in found.factors.items():
        wanted = 0.5 * (first.factors[name].b @ first.factors[name].a + second.factors[name].b @ second.factors[name].a)
        assert factors.b @ factors.a == pytest.approx(wanted, abs=1e-5)
