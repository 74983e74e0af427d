"""Confidence intervals of what was counted or averaged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int
from scipy import stats

from unflinch.results import Interval, Rate

Draws = Int[np.ndarray, "resamples n"]
"""Places of the values of every resample."""
Statistic = Callable[[Draws], Float64[np.ndarray, " resamples"]]

RESAMPLES = 2000


def wilson(count: int, n: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a proportion; [0, 1] when nothing was counted.

    Source: Wilson (1927), through `scipy.stats.binomtest`.
    """
    if n == 0:
        return Interval(0.0, 1.0, level)
    ci = stats.binomtest(count, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(ci.low), float(ci.high), level)


def rate(count: int, n: int) -> Rate:
    """Return the proportion `count / n` with its Wilson interval."""
    return Rate(count, n, wilson(count, n))


def resampled(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """Return what places of `n` observations the bootstrap draws, with replacement, by a generator of its own."""
    draws: Draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    return draws


def percentile_interval(draws: Draws, statistic: Statistic, level: float = 0.95) -> Interval:
    """Return the percentile bootstrap interval of a statistic: the middle `level` of its values over the resamples.

    Source: Efron (1979). Observations are drawn whole, so that a statistic of pairs stays one of pairs.

    Args:
        draws: of `resampled`; of one observation the interval is a point.
        statistic: takes the places that were drawn, returns its value for every resample.
        level: of confidence.
    """
    low, high = np.quantile(statistic(draws), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
