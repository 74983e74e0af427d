"""Confidence intervals of what was counted or averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from unflinch.results import Interval, Rate


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


def bootstrap_mean(values: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of the mean, over prompts; a point when there are fewer than two."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        point = float(data.mean()) if len(data) else 0.0
        return Interval(point, point, level)
    rng = np.random.default_rng(seed)
    means = data[rng.integers(0, len(data), (resamples, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
