"""Decoder layers whose weights the workers of a run hold together: each a share of every matrix.

Workers read different prompts, so that they need different weights at different moments, some of them on the way back
through a layer, some not at all because they have nothing left to read. No order of calls is agreed on beforehand.
Whoever needs a weight, or waits for the others' results, takes part in a meeting: all say what they need, all hand out
their shares of it, and those who asked go on. Results are exchanged after a meeting in which nobody needs anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unflinch.launch import rank, workers
from unflinch.models.fetched_weights import fetched_of
from unflinch.models.workers import gathered, serve_while_waiting

_NOTHING = -1


@dataclass(frozen=True)
class _Shared:
    """One tensor: this worker's share of its bytes, and what they are all together."""

    share: Tensor
    dtype: torch.dtype
    shape: torch.Size
    size: int
    """Bytes of the tensor; shares are padded to equal lengths."""


class SharedWeights(Mapping[str, Tensor]):
    """Weights by name, put together from all workers' shares whenever one is asked for."""

    def __init__(self, source: Mapping[str, Tensor], device: torch.device) -> None:
        """Take this worker's share of every tensor, one after the other.

        Args:
            source: all weights, the same on every worker.
            device: where the share is held.
        """
        self._names = sorted(source)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._held: dict[str, Tensor | _Shared] = {name: _own_part(source[name], device) for name in self._names}
        serve_while_waiting(self.serve)

    def __getitem__(self, name: str) -> Tensor:
        """Return a whole weight, which takes the others' help."""
        held = self._held[name]
        if isinstance(held, Tensor):
            return held
        found = self._meet(self._numbers[name])[1]
        assert found is not None, "what this worker asked for was handed out"
        return found

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of weights."""
        return len(self._names)

    def serve(self) -> None:
        """Hand out shares until nobody needs any: this worker waits for the others."""
        while self._meet(_NOTHING)[0]:
            pass

    def _meet(self, wanted: int) -> tuple[bool, Tensor | None]:
        """Return whether anybody wanted a weight, and the one that this worker wanted."""
        everyone = set(gathered(torch.tensor([wanted])).tolist()) - {_NOTHING}
        found = None
        for number in sorted(everyone):
            whole = self._whole(self._names[number])
            found = whole if number == wanted else found
        return bool(everyone), found

    def _whole(self, name: str) -> Tensor:
        held = self._held[name]
        assert isinstance(held, _Shared), "vectors are never asked for"
        return gathered(held.share)[: held.size].view(held.dtype).view(held.shape)


def share_weights(model: nn.Module, device: torch.device) -> None:
    """Have the workers hold together what each of them fetched from the model's files before.

    Args:
        model: the same on every worker, on which `watch_fetched` was called.
        device: where the shares are held.
    """
    fetched = fetched_of(model)
    assert fetched is not None, "all layers of a model that is to be shared are fetched"
    fetched.source = SharedWeights(fetched.source, device)


def _own_part(whole: Tensor, device: torch.device) -> Tensor | _Shared:
    if whole.ndim < 2:  # a norm's, or a bias: a meeting would cost more than it takes
        return whole.to(device)
    data = whole.contiguous().view(-1).view(torch.uint8)
    # Every share begins at a multiple of 16 bytes: the whole can then be viewed as any type.
    length = -(-len(data) // (16 * workers())) * 16
    share = torch.zeros(length, dtype=torch.uint8)
    own = data[rank() * length : (rank() + 1) * length]
    share[: len(own)] = own
    return _Shared(share.to(device), whole.dtype, whole.shape, len(data))
