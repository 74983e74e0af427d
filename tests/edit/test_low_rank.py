"""Truncation and addition lose as little as can be lost in the KL metric."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unflinch.artifacts import LowRankFactors, ModuleMetric
from unflinch.edit.low_rank import added, from_whitened, scaled, to_whitened, truncated, whiten


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cholesky(size: int, seed: int) -> Tensor:
    root = normal(size, 2 * size, seed=seed)
    return torch.linalg.cholesky(root @ root.T / size)


def random_metric(outputs: int, inputs: int) -> ModuleMetric:
    return ModuleMetric(cholesky(inputs, 1), cholesky(outputs, 2))


def dense(factors: LowRankFactors) -> Tensor:
    return factors.b.double() @ factors.a.double()


SHAPES = [(12, 30, 4), (30, 12, 4), (12, 30, 40), (30, 12, 40), (12, 30, 12), (12, 12, 12)]


@pytest.mark.parametrize(("outputs", "inputs", "many"), SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_truncated_factors_lose_as_little_as_the_svd(outputs: int, inputs: int, many: int, rank: int) -> None:
    b, a = normal(outputs, many, seed=0), normal(many, inputs, seed=1)
    left, right = truncated(b, a, rank)
    assert (left.shape, right.shape) == ((outputs, rank), (rank, inputs))
    product = b.double() @ a.double()
    lost = float((product - left.double() @ right.double()).norm())
    least = float(torch.linalg.svdvals(product)[rank:].square().sum().sqrt())
    assert lost == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize(("outputs", "inputs", "many"), SHAPES)
def test_nothing_is_lost_at_full_rank(outputs: int, inputs: int, many: int) -> None:
    b, a = normal(outputs, many, seed=0), normal(many, inputs, seed=1)
    left, right = truncated(b, a, 12)
    torch.testing.assert_close(left @ right, b @ a, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("many", [2, 40])
def test_truncating_nothing_gives_finite_factors_of_nothing(many: int) -> None:
    left, right = truncated(torch.zeros(8, many), torch.zeros(many, 9), 2)
    assert left.isfinite().all() and right.isfinite().all()
    assert float((left @ right).abs().max()) == pytest.approx(0.0, abs=1e-12)


def test_inner_products_of_whitened_vectors_are_those_of_the_inverse_metric() -> None:
    factor = cholesky(7, 5)
    left, right = normal(2, 3, 7, seed=6), normal(2, 3, 7, seed=7)
    found = (whiten(left, factor) * whiten(right, factor)).sum(-1)
    metric = (factor.double() @ factor.double().T).inverse()
    expected = torch.einsum("pri,ij,prj->pr", left.double(), metric, right.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_going_to_whitened_coordinates_and_back_changes_nothing() -> None:
    metric = random_metric(6, 9)
    factors = LowRankFactors(normal(3, 9, seed=3), normal(6, 3, seed=4))
    again = from_whitened(*to_whitened(factors, metric), metric)
    torch.testing.assert_close(again.a, factors.a, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.b, factors.b, rtol=1e-3, atol=1e-4)


def test_the_squared_norm_in_whitened_coordinates_is_the_kl_metric() -> None:
    metric = random_metric(6, 9)
    factors = LowRankFactors(normal(3, 9, seed=3), normal(6, 3, seed=4))
    b, a = to_whitened(factors, metric)
    c = metric.input_factor.double() @ metric.input_factor.double().T
    s = metric.output_factor.double() @ metric.output_factor.double().T
    dw = dense(factors)
    assert float((b.double() @ a.double()).square().sum()) == pytest.approx(
        float((dw.T @ s @ dw @ c).trace()), rel=1e-4
    )


def test_added_updates_equal_the_dense_sum_at_full_rank_and_no_better_sum_exists_below_it() -> None:
    metric = random_metric(6, 9)
    parts = [{"m": LowRankFactors(normal(2, 9, seed=i), normal(6, 2, seed=10 + i))} for i in range(3)]
    total = sum((dense(part["m"]) for part in parts), torch.zeros(6, 9, dtype=torch.float64))
    found = added(parts, {"m": metric}, 6)["m"]
    torch.testing.assert_close(dense(found), total, rtol=1e-3, atol=1e-3)

    white = metric.output_factor.double().T @ total @ metric.input_factor.double()
    least = float(torch.linalg.svdvals(white)[2:].square().sum().sqrt())
    short = added(parts, {"m": metric}, 2)["m"]
    assert short.a.shape == (2, 9)
    lost = metric.output_factor.double().T @ (total - dense(short)) @ metric.input_factor.double()
    assert float(lost.norm()) == pytest.approx(least, rel=1e-3)


def test_a_scaled_update_is_the_update_times_its_strength() -> None:
    factors = {"m": LowRankFactors(normal(2, 9, seed=0), normal(6, 2, seed=1))}
    torch.testing.assert_close(dense(scaled(factors, 0.7)["m"]), 0.7 * dense(factors["m"]))
