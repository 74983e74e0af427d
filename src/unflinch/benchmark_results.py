"""Numbers that `bench` produces: frozen, free of torch, written to JSON as they are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchmarkScore:
    """Share of right answers in one benchmark, base and patched model on the same items."""

    benchmark: str
    metric: str
    """What counts as right, as lm-eval names it."""
    n: int
    base: float
    base_error: float
    """Standard error of `base`; the same for `patched_error`."""
    patched: float
    patched_error: float
    difference: float
    """Patched minus base."""
    difference_error: float
    """Standard error of the difference, over items: smaller than that of either score where both mostly agree."""
    lost: int
    """Items that only the base model answers right."""
    gained: int
    """Items that only the patched model answers right."""
    p_value: float
    """Exact McNemar test: how often chance alone changes as unevenly as `lost` and `gained`."""

    @property
    def within_one_error(self) -> bool:
        """Whether the patched score is at most one standard error of the base score below it."""
        return self.difference >= -self.base_error


@dataclass(frozen=True)
class BenchmarkResults:
    """Everything that `bench` measures."""

    scores: tuple[BenchmarkScore, ...]
    seconds: dict[str, float]
    """Time of each benchmark, base and patched together, as far as it was measured in one go."""
