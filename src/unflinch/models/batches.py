"""Token sequences of different lengths as batches, without computing what does not count.

Sequences are padded on the left, so that the scored positions are the last columns of every batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

PADDING_ID = 0
"""Padding is masked, so any id in the vocabulary will do; the config's own may be missing or lie outside."""

MIN_SHARED_PREFIX = 4
"""Shorter common starts are not worth a separate call."""

READ_TOKENS = 2048
"""Most padded tokens that are read at once."""

GRADIENT_TOKENS = 1536
"""Most padded tokens whose graph is held at once."""

_BEGINNING = 12
"""Tokens by which sequences are sorted into those that begin alike and the others."""

Ids = Sequence[int]


@dataclass(frozen=True)
class PaddedBatch:
    """Left-padded rows behind a shared prefix."""

    sequences: Sequence[Ids]
    """What the rows are, with the prefix."""
    prefix: Int[Tensor, "1 prefix"]
    input_ids: Int[Tensor, "rows tokens"]
    attention_mask: Int[Tensor, "rows all_tokens"]
    """Over prefix and tokens."""
    position_ids: Int[Tensor, "rows tokens"]

    def padding(self, row: int) -> int:
        """Return how many of a row's first tokens are padding."""
        return self.prefix.shape[1] + self.input_ids.shape[1] - len(self.sequences[row])


def shared_prefix_length(sequences: Sequence[Ids], reserve: int) -> int:
    """Return how many first tokens all sequences share, leaving at least `reserve` tokens of each outside."""
    if len(sequences) < 2:
        return 0
    limit = min(len(s) for s in sequences) - reserve
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return length if length >= MIN_SHARED_PREFIX else 0


def pad_batch(sequences: Sequence[Ids], reserve: int, pad_id: int, device: torch.device, share: bool) -> PaddedBatch:
    """Return the sequences as one batch; the last `reserve` tokens of each row stay outside the shared prefix."""
    return pad_behind(sequences, shared_prefix_length(sequences, reserve) if share else 0, pad_id, device)


def pad_behind(sequences: Sequence[Ids], shared: int, pad_id: int, device: torch.device) -> PaddedBatch:
    """Return the sequences as one batch behind their first `shared` tokens, which must be the same in all of them."""
    longest = max(len(s) for s in sequences) - shared
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(sequences), shared + longest), dtype=torch.long)
    mask[:, :shared] = 1
    for row, sequence in enumerate(sequences):
        own = torch.tensor(sequence[shared:], dtype=torch.long)
        ids[row, longest - len(own) :] = own
        mask[row, shared + longest - len(own) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    prefix = torch.tensor([list(sequences[0][:shared])], dtype=torch.long)
    return PaddedBatch(sequences, prefix.to(device), ids.to(device), mask.to(device), positions.to(device))


def length_sorted_batches(sequences: Sequence[Ids], max_tokens: int) -> Iterator[list[int]]:
    """Yield index lists of similar length, longest first, each batch padded holding at most `max_tokens` tokens.

    Sequences with the most common beginning come apart from the others, so that their prefix can be shared.
    """
    beginnings = Counter(tuple(s[:_BEGINNING]) for s in sequences)
    common = max(beginnings, key=lambda b: (beginnings[b], b), default=())
    groups: tuple[list[int], list[int]] = ([], [])
    for index, sequence in enumerate(sequences):
        groups[tuple(sequence[:_BEGINNING]) != common].append(index)
    for group in groups:
        yield from _batches_of(group, [len(s) for s in sequences], max_tokens)


def _batches_of(indices: Sequence[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
