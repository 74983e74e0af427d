"""How much memory is free, on a CUDA device or in this machine as far as this process may use it; giving some back."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from unflinch.launch import local_workers

GIB = 2**30

_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage and reclaimable part of it, of the second and of the first version of control groups."""


def in_gib(size: float) -> str:
    """Return bytes as a number that people read."""
    return f"{size / GIB:.1f} GiB"


def free_memory(device: torch.device) -> int:
    """Return the bytes that a process can still take on a device; Apple's GPU shares the CPU's memory.

    On CUDA memory that torch holds without using it counts as free. In a container its limit counts. Workers of one run
    share the machine's.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    machine = int(psutil.virtual_memory().available)
    container = left_in_container(Path("/sys/fs/cgroup"))
    return (machine if container is None else min(machine, container)) // local_workers()


def give_back_memory() -> None:
    """Give memory that a finished step has freed back to the system; glibc keeps it for the next one of equal size."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory_in_use(device: torch.device) -> int:
    """Return the bytes that this process holds on a device already."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def left_in_container(root: Path) -> int | None:
    """Return the bytes left below the limit of this process's control group; None where there is no such limit.

    Args:
        root: where control groups are mounted; a container sees its own there.
    """
    for limit, usage, reclaimable in _CGROUPS:
        try:
            most = int((root / limit).read_text())  # "max" where there is none
            used = int((root / usage).read_text())
            rows = (line.split() for line in ((root / usage).parent / "memory.stat").read_text().splitlines())
            cached = next((int(value) for name, value in rows if name == reclaimable), 0)
        except (OSError, ValueError):
            continue
        return max(0, most - used + cached)
    return None
