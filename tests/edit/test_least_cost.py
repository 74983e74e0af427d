"""The leverage bounds what any update costs that moves the scores: met by the cheapest one, and never undercut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from unflinch.artifacts import PromptGradients
from unflinch.edit.closed_form import ScoreBounds, gram_matrix, solve_multipliers
from unflinch.edit.least_cost import Leverage, leverages, together

PROMPTS, RANK = 6, 2
SHAPES = {"one": (6, 4), "two": (3, 7)}
"""Outputs and inputs of two modules, in whitened coordinates."""
TARGETS = torch.tensor([True, True, True, False, False, False])
SHIFT = 2.0


def whitened(seed: int) -> PromptGradients:
    generator = torch.Generator().manual_seed(seed)

    def normal(size: int) -> torch.Tensor:
        return torch.randn(PROMPTS, RANK, size, generator=generator)

    return PromptGradients(
        torch.zeros(PROMPTS),
        {name: normal(inputs) for name, (_, inputs) in SHAPES.items()},
        {name: normal(outputs) for name, (outputs, _) in SHAPES.items()},
    )


def mean_gradients(gradients: PromptGradients) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean gradients of targets and keeps as vectors of all weights, by explicit outer products."""
    rows = [
        torch.cat(
            [
                sum(
                    torch.outer(g, x) for g, x in zip(gradients.outputs[m][p], gradients.inputs[m][p], strict=True)
                ).flatten()
                for m in SHAPES
            ]
        )
        for p in range(PROMPTS)
    ]
    every = torch.stack(rows).double()
    return every[TARGETS].mean(0).numpy(), every[~TARGETS].mean(0).numpy()


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_bound_is_what_the_cheapest_update_of_all_weights_costs(seed: int) -> None:
    gradients = whitened(seed)
    target, keep = mean_gradients(gradients)
    cheapest = minimize(
        lambda update: 0.5 * update @ update,
        -target * SHIFT / (target @ target),
        jac=lambda update: update,
        constraints=[
            {"type": "ineq", "fun": lambda update: -SHIFT - update @ target, "jac": lambda _: -target},
            {"type": "ineq", "fun": lambda update: update @ keep, "jac": lambda _: keep},
        ],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert cheapest.success
    bound = together(leverages(gradients, TARGETS, ~TARGETS)).least_kl(SHIFT)
    assert bound == pytest.approx(cheapest.fun, rel=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_no_solution_with_a_bound_for_every_prompt_costs_less(seed: int) -> None:
    gradients = whitened(seed)
    gram = gram_matrix(gradients)
    bounds = ScoreBounds(
        torch.where(TARGETS, -torch.inf, 0.0),
        torch.where(TARGETS, -SHIFT * torch.tensor([0.5, 1.0, 1.5] * 2), torch.inf),
    )
    nu = solve_multipliers(gram, gradients.scores, bounds, torch.full((PROMPTS,), 1e6))
    cost = float(0.5 * nu @ gram @ nu)
    assert cost >= together(leverages(gradients, TARGETS, ~TARGETS)).least_kl(SHIFT) * (1 - 1e-4)


def test_keeps_that_rise_along_with_falling_targets_cost_nothing() -> None:
    assert Leverage(4.0, -1.0, 1.0).guarded == Leverage(4.0, 0.0, 0.0).guarded == 4.0


def test_targets_that_cannot_be_told_from_keeps_cost_without_bound() -> None:
    alike = Leverage(4.0, 4.0, 4.0)
    assert alike.guarded == 0.0 and alike.least_kl(1.0) == float("inf")
    assert alike.least_kl(0.0) == 0.0
