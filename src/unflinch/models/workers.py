"""Several processes that read the prompts of one run together, each with the whole model.

Every worker goes through the same steps. Where many prompts are read, each reads its share of the batches that one
worker alone would read, and all get the whole result: the same numbers, up to the order of sums. What has to be decided
from such numbers is decided by the first worker. Alone, no process group is made.

Tensors travel through gloo on the CPU, whatever device the models are on: they are small beside the work.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unflinch.errors import ConfigError, UnflinchError, WorkerError
from unflinch.launch import is_first, rank, workers

Item = TypeVar("Item")

_Outcome = tuple[list[Item], UnflinchError | None]
"""The result of some work, or none and what it failed with."""
_serving: list[Callable[[], None]] = []
"""What this worker does for others before it waits for their results."""
_PIECE = 1 << 24
"""Numbers that are added up at once: gloo holds a copy of them for every worker."""


def own_share(items: Iterable[Item]) -> Iterator[Item]:
    """Yield this worker's items: every n-th of them for n workers, so that all are read, each by one worker."""
    return islice(items, rank(), None, workers())


def summed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums over all workers, by name; a worker that has no tensor of a name adds nothing to it.

    Rows that each worker has filled of a tensor that is otherwise zero are thereby gathered, exactly. Tensors are added
    up where they are, piece by piece: they may be larger than the memory (`activations.scratch_space`).
    """
    if workers() == 1:
        return dict(tensors)
    shapes: dict[str, tuple[int, ...]] = {}
    for found in everyones({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        shapes |= found
    sums = {}
    for name, shape in shapes.items():
        sums[name] = tensors[name].detach().contiguous() if name in tensors else torch.zeros(shape)
        for own in sums[name].view(-1).split(_PIECE):
            piece = own.to("cpu", torch.promote_types(own.dtype, torch.float32))
            with _told_of_lost_workers():
                dist.all_reduce(piece, group=_group("cpu"))
            own.copy_(piece)
    return sums


def everyones(own: Item) -> list[Item]:
    """Return what every worker gives, in order of the workers."""
    if workers() == 1:
        return [own]
    found: list[Any] = [None] * workers()
    _serve()
    with _told_of_lost_workers():
        dist.all_gather_object(found, own, group=_group("cpu"))
    return found


def by_first(work: Callable[[], Item]) -> Item:
    """Return what `work` returns on the first worker, the only one that does it: so that all go on with the same.

    Raises:
        UnflinchError: on every worker, if `work` raises it.
    """
    if workers() == 1:
        return work()
    outcome: list[Any] = [_outcome(work) if is_first() else None]
    _serve()
    with _told_of_lost_workers():
        dist.broadcast_object_list(outcome, src=0, group=_group("cpu"))
    found: _Outcome[Item] = outcome[0]
    return _result(*found)


def all_or_none(work: Callable[[], Item]) -> Item:
    """Return what `work`, which every worker does by itself, returns here.

    Raises:
        UnflinchError: the same on every worker, if one of them fails.
    """
    result, error = _outcome(work)
    failures = [failure for failure in everyones(error) if failure is not None]
    return _result(result, failures[0] if failures else None)


def gathered(own: Tensor) -> Tensor:
    """Return what all workers give one behind the other, `(workers * length,)`; every worker gives equally much.

    Unlike the exchanges above it waits for no results, and is what weights travel by (`models.shared_weights`): on
    GPUs through NCCL.
    """
    whole = own.new_empty(workers() * len(own))
    with _told_of_lost_workers():
        dist.all_gather_into_tensor(whole, own, group=_group(own.device.type))
    return whole


def serve_while_waiting(serve: Callable[[], None]) -> None:
    """Have `serve` called before every exchange of results from now on; it returns once nobody needs this worker."""
    _serving.append(serve)


def _serve() -> None:
    for serve in _serving:
        serve()


def _outcome(work: Callable[[], Item]) -> _Outcome[Item]:
    try:
        return [work()], None
    except UnflinchError as error:
        return [], error


def _result(result: list[Item], error: UnflinchError | None) -> Item:
    if error is not None:
        raise error
    return result[0]


@cache
def _group(device: str) -> dist.ProcessGroup:
    """Return the group of all workers for tensors on a kind of device, made on first use."""
    if not dist.is_initialized():
        try:
            dist.init_process_group("gloo")
        except ValueError as error:  # the environment is incomplete
            raise ConfigError(
                f"WORLD_SIZE is {workers()}, but the workers cannot find each other ({error}); "
                "start them with torchrun or accelerate launch, or unset WORLD_SIZE"
            ) from error
        atexit.register(dist.destroy_process_group)
    group = dist.new_group(backend="nccl" if device == "cuda" else "gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


@contextmanager
def _told_of_lost_workers() -> Iterator[None]:
    """Raise `WorkerError` where a worker that is waited for is gone: its connection closes with it."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerError(
            f"worker {rank() + 1} of {workers()} has lost the others: one of them stopped, see its own message; "
            "finished steps are kept, start all workers again with --resume"
        ) from error
