"""Intervals against formulas written out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unflinch.metrics.intervals import percentile_interval, rate, resampled, wilson
from unflinch.results import Interval

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
Z95 = 1.959963984540054


@given(counts=counts)
def test_wilson_equals_its_formula(counts: tuple[int, int]) -> None:
    count, n = counts
    p = count / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    interval = wilson(count, n)
    assert interval.low == pytest.approx(centre - half, abs=1e-9)
    assert interval.high == pytest.approx(centre + half, abs=1e-9)
    assert interval.level == 0.95


@given(counts=counts)
def test_wilson_lies_in_the_unit_interval_around_the_proportion(counts: tuple[int, int]) -> None:
    found = rate(*counts)
    assert 0 <= found.interval.low <= found.value <= found.interval.high <= 1
    assert (found.count, found.n) == counts


@given(counts=counts)
def test_a_higher_level_is_a_wider_interval(counts: tuple[int, int]) -> None:
    narrow, wide = wilson(*counts, level=0.8), wilson(*counts, level=0.99)
    assert wide.low <= narrow.low
    assert wide.high >= narrow.high


def test_nothing_counted_says_nothing() -> None:
    found = rate(0, 0)
    assert (found.value, found.interval.low, found.interval.high) == (0.0, 0.0, 1.0)


def test_no_loss_in_three_hundred_bounds_the_rate_near_one_percent() -> None:
    assert wilson(0, 300).low == 0
    assert wilson(0, 300).high == pytest.approx(Z95**2 / (300 + Z95**2))


def mean_interval(data: list[float], seed: int = 0) -> Interval:
    values = np.asarray(data)
    return percentile_interval(resampled(len(values), seed=seed), lambda drawn: values[drawn].mean(axis=1))


@given(data=st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=1, max_size=40), seed=st.integers(0, 3))
def test_a_bootstrap_interval_contains_the_mean_and_stays_among_the_values(data: list[float], seed: int) -> None:
    interval = mean_interval(data, seed)
    mean = math.fsum(data) / len(data)
    slack = 1e-9 * (1 + max(map(abs, data)))
    assert min(data) - slack <= interval.low <= mean + slack
    assert mean - slack <= interval.high <= max(data) + slack


def test_a_bootstrap_interval_is_near_the_normal_one_for_many_values() -> None:
    data = [math.sin(i * i) for i in range(400)]
    mean = math.fsum(data) / len(data)
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in data) / len(data) / len(data))
    interval = mean_interval(data)
    assert interval.low == pytest.approx(mean - Z95 * error, abs=0.25 * error)
    assert interval.high == pytest.approx(mean + Z95 * error, abs=0.25 * error)


@pytest.mark.parametrize("statistic", [np.mean, np.median, np.max])
def test_a_bootstrap_interval_is_that_of_scipy_up_to_chance(statistic: Callable[..., Any]) -> None:
    data = np.random.default_rng(1).exponential(size=80)
    found = percentile_interval(resampled(80, 20_000), lambda drawn: statistic(data[drawn], axis=1))
    other = stats.bootstrap(
        (data,), statistic, n_resamples=20_000, method="percentile", vectorized=True, rng=np.random.default_rng(2)
    ).confidence_interval
    width = other.high - other.low
    assert found.low == pytest.approx(other.low, abs=0.05 * width)
    assert found.high == pytest.approx(other.high, abs=0.05 * width)


def test_pairs_are_drawn_together() -> None:
    data = np.random.default_rng(0).exponential(size=30)
    found = percentile_interval(resampled(30), lambda drawn: (3 * data)[drawn].mean(axis=1) / data[drawn].mean(axis=1))
    assert (found.low, found.high) == pytest.approx((3.0, 3.0))


def test_a_bootstrap_is_repeatable_and_depends_on_its_seed_alone() -> None:
    data = [float(i % 7) for i in range(50)]
    before = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr,call-overload]
    assert mean_interval(data) == mean_interval(data)
    assert mean_interval(data) != mean_interval(data, seed=1)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr,call-overload]


def test_a_bootstrap_of_one_value_is_a_point() -> None:
    assert (mean_interval([2.5]).low, mean_interval([2.5]).high) == (2.5, 2.5)
