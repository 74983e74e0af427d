"""Statistics that outgrow the memory: kept there while an allowance lasts, beyond it in memory-mapped files.

A mapped tensor is used like any other; the system reads its pages from disk and writes them back as memory runs short.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from unflinch.run_folder import disk_error

Zeros = Callable[[Sequence[int]], Tensor]
"""From a shape to a float32 tensor of zeros on the CPU."""

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Workspace:
    """Where the statistics of a fit are kept."""

    metrics: Zeros
    """For the Cholesky factors of all edited modules, which are needed until the fit ends."""
    gradients: Callable[[], AbstractContextManager[Zeros]]
    """For the gradients of all prompts, inside the block: every round has its own."""
    sums: int
    """Bytes that the second moments of modules may take at once where the model is."""


@contextmanager
def workspace(folder: Path, metrics: int, gradients: int, sums: int) -> Iterator[Workspace]:
    """Give the workspace of a fit, which is gone afterwards.

    Args:
        folder: for what memory does not hold.
        metrics: bytes of memory for the Cholesky factors.
        gradients: bytes of memory for the gradients of a round.
        sums: see `Workspace`.
    """
    with scratch_space(folder / "metrics", metrics) as zeros:
        yield Workspace(zeros, partial(scratch_space, folder / "gradients", gradients), sums)


def in_memory() -> Workspace:
    """Return a workspace that keeps everything in memory."""
    return Workspace(torch.zeros, lambda: nullcontext(torch.zeros), sys.maxsize)


@contextmanager
def scratch_space(folder: Path, allowance: int) -> Iterator[Zeros]:
    """Give a function that makes tensors of zeros: in memory while the allowance lasts, on disk beyond it.

    Args:
        folder: where files are put while the block lasts; what an interrupted run left there is removed.
        allowance: bytes of memory that all tensors together may take.

    Raises:
        RunFolderError: by the function, if the disk is too small.
    """
    left = allowance
    files = 0

    def zeros(shape: Sequence[int]) -> Tensor:
        nonlocal left, files
        needed = prod(shape) * FLOAT_BYTES
        if needed <= left:
            left -= needed
            return torch.zeros(tuple(shape))
        files += 1
        return _mapped(folder / f"{files}.bin", shape, needed)

    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield zeros
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mapped(path: Path, shape: Sequence[int], needed: int) -> Tensor:
    """Return zeros in a new file, whose place on the disk is taken at once: later it could only fail with a crash."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, needed)
            else:
                file.truncate(needed)
        return torch.from_file(str(path), shared=True, size=prod(shape)).reshape(tuple(shape))
    except OSError as error:
        raise disk_error(path, error) from error


def groups_within(sizes: Mapping[str, int], allowance: int) -> list[list[str]]:
    """Return the names in consecutive groups whose sizes sum to at most the allowance; at least one a group."""
    groups: list[list[str]] = []
    left = 0
    for name, size in sizes.items():
        if not groups or size > left:
            groups.append([])
            left = allowance
        groups[-1].append(name)
        left -= size
    return groups
