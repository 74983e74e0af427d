"""The multipliers solve the quadratic programme, and their update is the cheapest that meets the bounds."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from unflinch.artifacts import ModuleMetric, PromptGradients
from unflinch.edit import closed_form
from unflinch.edit.closed_form import (
    ScoreBounds,
    closed_form_update,
    gram_matrix,
    solve_multipliers,
    whiten_in_place,
)

PROMPTS, RANK = 5, 2
SHAPES = {"one": (6, 4), "two": (3, 7)}
"""Outputs and inputs of two modules."""
LOOSE = 1e6
"""Stiffness at which no bound is missed that can be met."""


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_metrics(seed: int = 0) -> dict[str, ModuleMetric]:
    def factor(size: int, place: int) -> Tensor:
        root = normal(size, 2 * size, seed=seed + place)
        return torch.linalg.cholesky(root @ root.T / (2 * size) + 0.3 * torch.eye(size))

    return {
        name: ModuleMetric(factor(inputs, 10 * place), factor(outputs, 10 * place + 5))
        for place, (name, (outputs, inputs)) in enumerate(SHAPES.items())
    }


def random_gradients(seed: int = 0) -> PromptGradients:
    return PromptGradients(
        normal(PROMPTS, seed=seed + 99),
        {name: normal(PROMPTS, RANK, shape[1], seed=seed + 1) for name, shape in SHAPES.items()},
        {name: normal(PROMPTS, RANK, shape[0], seed=seed + 2) for name, shape in SHAPES.items()},
    )


def whitened(gradients: PromptGradients, metrics: dict[str, ModuleMetric]) -> PromptGradients:
    """Return all gradients in whitened coordinates; `gradients` stay as they are."""
    return whiten_in_place(deepcopy(gradients), metrics, torch.ones(PROMPTS, dtype=torch.bool))


def dense(gradients: PromptGradients, name: str) -> Tensor:
    """Return every prompt's gradient as a whole matrix, in float64."""
    return torch.einsum("pro,pri->poi", gradients.outputs[name].double(), gradients.inputs[name].double())


def moments(metric: ModuleMetric) -> tuple[Tensor, Tensor]:
    """Return C and S."""
    c, s = metric.input_factor.double(), metric.output_factor.double()
    return c @ c.T, s @ s.T


def explicit_gram(gradients: PromptGradients, metrics: dict[str, ModuleMetric]) -> Tensor:
    total = torch.zeros(PROMPTS, PROMPTS, dtype=torch.float64)
    for name, metric in metrics.items():
        c, s = moments(metric)
        g = dense(gradients, name)
        total += torch.einsum("poi,qoi->pq", g, s.inverse() @ g @ c.inverse())
    return total


def linear_change(gradients: PromptGradients, update: dict[str, Tensor]) -> Tensor:
    """Return <G_i, dW> of every prompt."""
    return torch.stack([torch.einsum("poi,oi->p", dense(gradients, n), dw) for n, dw in update.items()]).sum(0)


def kl_cost(update: dict[str, Tensor], metrics: dict[str, ModuleMetric]) -> float:
    total = 0.0
    for name, dw in update.items():
        c, s = moments(metrics[name])
        total += 0.5 * float((dw.T @ s @ dw @ c).trace())
    return total


def random_gram(size: int, seed: int) -> Tensor:
    root = normal(size, size + 2, seed=seed).double()
    return root @ root.T


def primal(gram: Tensor, scores: Tensor, bounds: ScoreBounds, nu: Tensor, price: float) -> float:
    """Return ½ nuᵀ K nu plus the price of every bound that s - K nu misses."""
    after = scores.double() - gram @ nu
    missed = (after - bounds.upper.double()).clamp(min=0) + (bounds.lower.double() - after).clamp(min=0)
    return float(0.5 * nu @ gram @ nu + price * missed.sum())


def test_whitening_some_prompts_leaves_these_in_order_in_the_memory_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "_WHITENED_ROWS", 2)
    gradients, metrics = random_gradients(), random_metrics()
    chosen = torch.tensor([False, True, True, False, True])
    everything, places = whitened(gradients, metrics), [x.data_ptr() for x in gradients.inputs.values()]
    some = whiten_in_place(gradients, metrics, chosen)
    assert torch.equal(some.scores, gradients.scores[chosen])
    for name in SHAPES:
        torch.testing.assert_close(some.inputs[name], everything.inputs[name][chosen])
        torch.testing.assert_close(some.outputs[name], everything.outputs[name][chosen])
    assert [x.data_ptr() for x in some.inputs.values()] == places


def bounds_for(scores: Tensor, targets: int, drop: float) -> ScoreBounds:
    """Targets must come down by `drop`, the others may not come down at all."""
    upper, lower = torch.full_like(scores, torch.inf), torch.full_like(scores, -torch.inf)
    upper[:targets], lower[targets:] = scores[:targets] - drop, scores[targets:]
    return ScoreBounds(lower, upper)


@pytest.mark.parametrize("rows", [2, 512])
def test_the_gram_matrix_from_factors_equals_explicit_matrices(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "_GRAM_ROWS", rows)
    gradients, metrics = random_gradients(), random_metrics()
    white = whitened(gradients, metrics)
    torch.testing.assert_close(gram_matrix(white), explicit_gram(gradients, metrics), rtol=1e-4, atol=1e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), targets=st.integers(1, 5), drop=st.floats(0.1, 5))
def test_multipliers_equal_those_of_a_general_solver(seed: int, targets: int, drop: float) -> None:
    gram, scores = random_gram(6, seed), normal(6, seed=seed + 1)
    bounds = bounds_for(scores, targets, drop)
    found = solve_multipliers(gram, scores, bounds, torch.full((6,), LOOSE))
    k, s = gram.numpy(), scores.double().numpy()
    low, high = bounds.lower.double().numpy(), bounds.upper.double().numpy()
    wanted = [
        {"type": "ineq", "fun": lambda nu: (high - (s - k @ nu))[:targets], "jac": lambda nu: k[:targets]},
        {"type": "ineq", "fun": lambda nu: ((s - k @ nu) - low)[targets:], "jac": lambda nu: -k[targets:]},
    ]
    start = torch.linalg.lstsq(gram, scores.double() - torch.cat([bounds.upper[:targets], bounds.lower[targets:]]))
    reference = minimize(
        lambda nu: 0.5 * nu @ k @ nu,
        start.solution.numpy(),
        jac=lambda nu: k @ nu,
        constraints=wanted,
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    best = torch.from_numpy(reference.x)
    assert 0.5 * float(found @ gram @ found) == pytest.approx(0.5 * float(best @ gram @ best), rel=1e-3, abs=1e-5)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), targets=st.integers(1, 5), drop=st.floats(0.1, 5))
def test_bounds_that_can_be_met_are_met_and_only_tight_ones_have_a_multiplier(
    seed: int, targets: int, drop: float
) -> None:
    gram, scores = random_gram(6, seed), normal(6, seed=seed + 1)
    bounds = bounds_for(scores, targets, drop)
    nu = solve_multipliers(gram, scores, bounds, torch.full((6,), LOOSE))
    after = scores.double() - gram @ nu
    slack = torch.cat([bounds.upper[:targets] - after[:targets], after[targets:] - bounds.lower[targets:]])
    tolerance = 2e-3 * drop
    assert (slack > -tolerance).all()
    assert (nu[:targets] >= 0).all() and (nu[targets:] <= 0).all()  # the sign of a push down, and of one up
    assert ((nu.abs() * gram.diagonal() < tolerance) | (slack < tolerance)).all()  # complementary slackness


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), price=st.sampled_from([0.0625, 0.5, 5.0]))
def test_bounds_that_contradict_each_other_are_missed_at_the_least_total_price(seed: int, price: float) -> None:
    root = normal(6, 2, seed=seed).double()  # two directions for six wishes
    gram, scores = root @ root.T, normal(6, seed=seed + 1)
    scale = float(gram.diagonal().mean())
    bounds = bounds_for(scores, 3, 3.0)
    nu = solve_multipliers(gram, scores, bounds, torch.full((6,), price))
    assert (nu.abs() * scale <= price * (1 + 1e-6)).all()
    # `stiffness` refers to K scaled to mean diagonal 1, where multipliers are `scale` times as large.
    scaled_gram, scaled_nu = gram / scale, nu * scale
    best = primal(scaled_gram, scores, bounds, scaled_nu, price)
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(25):
            other = scaled_nu + size * torch.randn(6, generator=generator, dtype=torch.float64)
            assert primal(scaled_gram, scores, bounds, other, price) >= best - 1e-5 * (1 + abs(best))


def test_prompts_that_are_where_they_belong_get_no_multiplier() -> None:
    gram, scores = random_gram(4, 0), torch.tensor([-5.0, -6.0, 4.0, 5.0])
    bounds = ScoreBounds(
        torch.tensor([-torch.inf, -torch.inf, 1.0, 1.0]), torch.tensor([-2.0, -2.0, torch.inf, torch.inf])
    )
    assert not solve_multipliers(gram, scores, bounds, torch.full((4,), 100.0)).any()


def test_the_update_at_full_rank_equals_its_formula_and_moves_scores_by_minus_k_nu() -> None:
    gradients, metrics = random_gradients(), random_metrics()
    white = whitened(gradients, metrics)
    nu = normal(PROMPTS, seed=7).double()
    found = closed_form_update(white, nu, metrics, rank=8)
    update = {name: f.b.double() @ f.a.double() for name, f in found.items()}
    for name, metric in metrics.items():
        c, s = moments(metric)
        expected = -s.inverse() @ torch.einsum("p,poi->oi", nu, dense(gradients, name)) @ c.inverse()
        torch.testing.assert_close(update[name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    change = linear_change(gradients, update)
    torch.testing.assert_close(change, -explicit_gram(gradients, metrics) @ nu, rtol=1e-3, atol=1e-2)


def test_no_other_update_that_meets_the_same_bounds_costs_less_kl() -> None:
    gradients, metrics = random_gradients(seed=3), random_metrics(seed=3)
    white = whitened(gradients, metrics)
    bounds = bounds_for(gradients.scores, 3, 2.0)
    nu = solve_multipliers(gram_matrix(white), gradients.scores, bounds, torch.full((PROMPTS,), LOOSE))
    factors = closed_form_update(white, nu, metrics, rank=8)
    ours = {name: f.b.double() @ f.a.double() for name, f in factors.items()}
    least = kl_cost(ours, metrics)
    stacked = torch.cat([dense(gradients, name).flatten(1) for name in SHAPES], 1)
    wanted = linear_change(gradients, ours)
    for seed in range(50):
        noise = {n: 0.3 * normal(*shape, seed=seed).double() for n, shape in SHAPES.items()}
        extra = normal(PROMPTS, seed=seed).double().abs() * (0.0 if seed % 2 else 1.0)
        signed = wanted + extra * torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0])  # on the bounds, or well inside
        other = {name: ours[name] + noise[name] for name in SHAPES}
        missing = signed - linear_change(gradients, other)
        repair = torch.linalg.lstsq(stacked, missing).solution
        for name, piece in zip(SHAPES, repair.split([o * i for o, i in SHAPES.values()]), strict=True):
            other[name] = other[name] + piece.reshape(SHAPES[name])
        torch.testing.assert_close(linear_change(gradients, other), signed, rtol=1e-5, atol=1e-5)
        assert kl_cost(other, metrics) >= least * (1 - 1e-4)
