"""KL(base || patched): the one function that is constrained in fitting and reported in validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from unflinch.metrics.intervals import bootstrap_mean
from unflinch.results import KLDistribution


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
    """Return mean with bootstrap interval, median, tail quantiles, maximum and CVaR95 of per-prompt values in nats.

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("a KL distribution needs at least one value")
    data = np.asarray(values, dtype=np.float64)
    return KLDistribution(
        n=len(data),
        mean=float(data.mean()),
        mean_interval=bootstrap_mean(values),
        median=float(np.median(data)),
        p95=float(np.quantile(data, 0.95)),
        p99=float(np.quantile(data, 0.99)),
        max=float(data.max()),
        cvar95=cvar(values, 0.95),
    )


def cvar(values: Sequence[float], level: float) -> float:
    """Return the mean of the worst `1 - level` share of the values, at least one of them."""
    data = np.sort(np.asarray(values, dtype=np.float64))
    worst = max(1, round(len(data) * (1 - level)))
    return float(data[-worst:].mean())
