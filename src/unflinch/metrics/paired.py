"""Two models on the same items: what changed, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from unflinch.benchmark_results import BenchmarkScore


def paired_score(benchmark: str, metric: str, base: Sequence[bool], patched: Sequence[bool]) -> BenchmarkScore:
    """Return both scores, their paired difference and the exact McNemar test.

    Formulas: standard error of a mean = s / sqrt(n), s the sample standard deviation, of the items' 0 and 1 for a
    score and of their differences -1, 0 and 1 for the difference.

    Args:
        benchmark: its name.
        metric: what counts as right.
        base: whether the base model is right, item by item.
        patched: the same items with the patch.

    Raises:
        ValueError: if there are no items, or not as many of each.
    """
    if not base or len(base) != len(patched):
        raise ValueError(f"paired scores need the same items on both sides, got {len(base)} and {len(patched)}")
    before, after = np.asarray(base, dtype=np.float64), np.asarray(patched, dtype=np.float64)
    lost, gained = int((before > after).sum()), int((after > before).sum())
    return BenchmarkScore(
        benchmark=benchmark,
        metric=metric,
        n=len(before),
        base=float(before.mean()),
        base_error=standard_error(before),
        patched=float(after.mean()),
        patched_error=standard_error(after),
        difference=float((after - before).mean()),
        difference_error=standard_error(after - before),
        lost=lost,
        gained=gained,
        p_value=exact_mcnemar(lost, gained),
    )


def exact_mcnemar(lost: int, gained: int) -> float:
    """Return how often chance alone changes the same items as unevenly; 1 where none changed.

    Formula: under chance each of the `lost + gained` items that changed went either way, so that `lost` is binomial
    with 1/2; two-sided. Source: McNemar (1947), in its exact form through `scipy.stats.binomtest`.
    """
    return float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """Return the standard error of the mean; 0 for one value, of which nothing can be said."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
