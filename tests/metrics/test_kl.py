"""KL(base || patched) against float64 sums, and the figures of its distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unflinch.metrics.kl import cvar, kl_distribution, kl_divergence

values = st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=60)


def logits(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def by_hand(base: list[float], patched: list[float]) -> float:
    """Sum p (log p - log q) over the vocabulary in float64, with exact sums."""
    log_p, log_q = ([x - math.log(math.fsum(map(math.exp, row))) for x in row] for row in (base, patched))
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 3.0, 12.0]))
def test_it_equals_the_sum_over_the_vocabulary_by_hand(seed: int, scale: float) -> None:
    base, patched = logits(2, 3, 50, scale=scale, seed=seed), logits(2, 3, 50, scale=scale, seed=seed + 1)
    divergence = kl_divergence(base, patched)
    assert divergence.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            expected = by_hand(base[i, j].tolist(), patched[i, j].tolist())
            assert divergence[i, j].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_it_is_taken_from_base_to_patched_and_not_the_other_way() -> None:
    base, patched = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0])
    assert kl_divergence(base, patched).item() == pytest.approx(by_hand([2.0, 0.0], [0.0, 5.0]), rel=1e-5)
    assert kl_divergence(base, patched).item() != pytest.approx(kl_divergence(patched, base).item(), rel=0.1)


@given(seed=st.integers(0, 10_000), step=st.sampled_from([1e-7, 1e-6, 1e-5, 1e-4, 1e-2]))
def test_it_is_never_negative_however_close_the_two_are(seed: int, step: float) -> None:
    base, change = logits(8, 2000, seed=seed), logits(8, 2000, scale=step, seed=seed + 1)
    divergence = kl_divergence(base, base + change)
    spread = change.amax(-1) - change.amin(-1)
    assert (divergence >= 0).all()
    assert (divergence <= spread**2 / 8 + 2e-6).all()  # Hoeffding's lemma


def test_it_is_zero_for_the_same_logits_and_for_a_constant_added_to_them() -> None:
    base = logits(4, 30)
    assert torch.equal(kl_divergence(base, base), torch.zeros(4))
    torch.testing.assert_close(kl_divergence(base, base + 7.0), torch.zeros(4), rtol=0, atol=1e-6)


def test_half_precision_logits_are_compared_in_float32() -> None:
    base, patched = logits(3, 40).bfloat16(), logits(3, 40, seed=1).bfloat16()
    assert torch.equal(kl_divergence(base, patched), kl_divergence(base.float(), patched.float()))


def test_its_gradient_is_that_of_the_formula() -> None:
    base, patched = logits(3, 20), logits(3, 20, seed=1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(kl_divergence(base, patched).sum(), patched)
    expected = patched.detach().double().softmax(-1) - base.double().softmax(-1)  # dKL/dlogits = q - p
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)


@given(values=values)
def test_the_distribution_agrees_with_sorted_values(values: list[float]) -> None:
    found = kl_distribution(values)
    data = sorted(values)

    def quantile(share: float) -> float:
        place = share * (len(data) - 1)
        low = int(place)
        high = min(low + 1, len(data) - 1)
        return data[low] + (place - low) * (data[high] - data[low])

    assert found.n == len(values)
    assert found.mean == pytest.approx(math.fsum(data) / len(data))
    assert found.median == pytest.approx(quantile(0.5))
    assert found.p95 == pytest.approx(quantile(0.95))
    assert found.p99 == pytest.approx(quantile(0.99))
    assert found.max == data[-1]
    slack = 1e-9 * (1 + found.max)
    assert found.mean - slack <= found.cvar95 <= found.max + slack
    assert found.cvar95 >= found.p95 - slack
    assert found.mean_interval.low - slack <= found.mean <= found.mean_interval.high + slack


def test_cvar_is_the_mean_of_the_worst_share() -> None:
    data = np.random.default_rng(0).permutation(100).astype(float).tolist()
    assert cvar(data, 0.95) == pytest.approx((99 + 98 + 97 + 96 + 95) / 5)
    assert cvar(data, 0.0) == pytest.approx(49.5)
    assert cvar(data, 0.99) == cvar(data, 1.0) == 99.0
    assert cvar([3.0], 0.95) == 3.0


def test_a_distribution_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        kl_distribution([])
