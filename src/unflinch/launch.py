"""Which of how many workers this process is, as `torchrun` and `accelerate launch` say in the environment."""

from __future__ import annotations

import os


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
