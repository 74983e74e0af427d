"""Which of how many workers this process is, as launchers say in the environment, and how its threads wait."""

from __future__ import annotations

import os

_SPINS_IN_QUIET, _SPINS = 10_000, 1_000
_QUIET = 0.25
"""Processors' worth of other programs' work below which a computer is quiet."""
_LOOKED_AT = 0.1
"""Seconds."""


def workers() -> int:
    """Return how many processes work together on one run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this worker's number, 0 for the first."""
    return int(os.environ.get("RANK", "0")) if workers() > 1 else 0


def is_first() -> bool:
    """Whether this worker is the one that writes the run folder and is heard."""
    return rank() == 0


def local_workers() -> int:
    """Return how many of the workers share this machine; all of them where the launcher does not say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", workers())) if workers() > 1 else 1


def local_rank() -> int:
    """Return this worker's number on its own machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if workers() > 1 else 0


def spins() -> int:
    """Return how often a thread that waits for others should look again before it sleeps (`GOMP_SPINCOUNT`).

    Sleeping and waking costs time; spinning takes it from other programs, and from the thread that is waited for.
    """
    import psutil  # only where a command computes

    busy = psutil.cpu_percent(_LOOKED_AT) / 100 * (psutil.cpu_count() or 1)
    return _SPINS_IN_QUIET if busy < _QUIET else _SPINS
