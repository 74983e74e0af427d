"""KL(base || patched): the one function that is constrained in fitting and reported in validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor, nn

from unflinch.metrics.intervals import percentile_interval, resampled
from unflinch.results import Interval, KLDistribution

Sorted = Float64[np.ndarray, "rows n"]
"""Resampled values, ascending in every row."""


def kl_divergence(
    base_logits: Float[Tensor, "*positions vocab"], patched_logits: Float[Tensor, "*positions vocab"]
) -> Float[Tensor, "*positions"]:
    """Return KL(base || patched) at every position, full vocabulary, in nats.

    Formula: sum_v p(v) (log p(v) - log q(v)) with p = softmax(base), q = softmax(patched), in float32. Rounding may
    carry the sum of nearly equal distributions below zero; it is cut off there.
    """
    p = nn.functional.log_softmax(base_logits.float(), dim=-1)
    q = nn.functional.log_softmax(patched_logits.float(), dim=-1)
    return nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).clamp(min=0)


def kl_distribution(values: Sequence[float]) -> KLDistribution:
    """Return mean, median, tail quantiles, CVaR95 and maximum of per-prompt values in nats.

    All but the maximum, whose bootstrap is not consistent, with their percentile bootstrap intervals over prompts.

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("a KL distribution needs at least one value")
    data = np.sort(np.asarray(values, dtype=np.float64))
    drawn = np.sort(resampled(len(data)), axis=1)  # of sorted data: every resample is sorted, too

    def interval(statistic: Callable[[Sorted], Float64[np.ndarray, " rows"]]) -> Interval:
        return percentile_interval(drawn, lambda places: statistic(data[places]))

    def quantile(share: float) -> Callable[[Sorted], Float64[np.ndarray, " rows"]]:
        return lambda rows: _quantile_of_sorted(rows, share)

    def tail(rows: Sorted) -> Float64[np.ndarray, " rows"]:
        mean: Float64[np.ndarray, " rows"] = rows[:, -_worst(rows.shape[1], 0.95) :].mean(axis=1)
        return mean

    return KLDistribution(
        n=len(data),
        mean=float(data.mean()),
        mean_interval=interval(lambda rows: rows.mean(axis=1)),
        median=float(np.median(data)),
        p95=float(np.quantile(data, 0.95)),
        p99=float(np.quantile(data, 0.99)),
        max=float(data.max()),
        cvar95=cvar(values, 0.95),
        median_interval=interval(quantile(0.5)),
        p95_interval=interval(quantile(0.95)),
        p99_interval=interval(quantile(0.99)),
        cvar95_interval=interval(tail),
    )


def cvar(values: Sequence[float], level: float) -> float:
    """Return the mean of the worst `1 - level` share of the values, at least one of them."""
    data = np.sort(np.asarray(values, dtype=np.float64))
    return float(data[-_worst(len(data), level) :].mean())


def _worst(n: int, level: float) -> int:
    """Return how many of `n` values are the worst `1 - level` share."""
    return max(1, round(n * (1 - level)))


def _quantile_of_sorted(rows: Sorted, share: float) -> Float64[np.ndarray, " rows"]:
    """Return a quantile of every row by linear interpolation, as `np.quantile` does."""
    place = share * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    found: Float64[np.ndarray, " rows"] = rows[:, below] + (place - below) * (rows[:, above] - rows[:, below])
    return found
