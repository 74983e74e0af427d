"""How likely a model finds texts that may follow a context.

A context is read once for all its continuations, and a beginning that many contexts share, such as the examples of a
few-shot prompt, once for all of these. Exact up to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.models.batches import PADDING_ID, pad_behind, shared_prefix_length
from unflinch.models.forward import Prefixes, can_share_prefix, logits_from_hidden, run_decoder, scored_hidden
from unflinch.models.layers import decoder_of

_BEGINNING = 64
"""Tokens by which contexts with a common beginning are found."""
_ENOUGH = 4
"""Contexts from which on a common beginning is worth a batch of its own."""
_ROWS_OF_LOGITS = 128


@dataclass(frozen=True)
class Choices:
    """A context, and texts that may follow it, as token ids; none is empty."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest continuation."""
        return max(len(c) for c in self.continuations)


@dataclass(frozen=True)
class Likelihood:
    """What the model makes of one continuation."""

    log_probability: float
    """Sum over its tokens, in nats."""
    greedy: bool
    """Whether the model would write it when it always takes the most likely token."""


@dataclass(frozen=True)
class Group:
    """Items that are read as one batch, by their place, and how many first tokens all contexts of their kind share."""

    rows: tuple[int, ...]
    prefix: int


def grouped(items: Sequence[Choices], batch_tokens: int = 2048) -> Iterator[Group]:
    """Yield batches that hold every item once; those with one prefix follow each other, longest first.

    Args:
        items: what is to be read.
        batch_tokens: most padded tokens a batch, without the shared prefix.
    """
    kinds: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        kinds[item.context[:_BEGINNING]].append(place)
    others: list[int] = []
    for rows in kinds.values():
        if len(rows) < _ENOUGH:
            others += rows
        else:
            prefix = shared_prefix_length([items[row].context for row in rows], reserve=1)
            yield from _batches(items, rows, prefix, batch_tokens)
    yield from _batches(items, others, 0, batch_tokens)


def _batches(items: Sequence[Choices], rows: Sequence[int], prefix: int, batch_tokens: int) -> Iterator[Group]:
    def cost(row: int) -> int:
        item = items[row]
        return len(item.context) - prefix + len(item.continuations) * (item.longest - 1)

    batch: list[int] = []
    most = 0
    for row in sorted(rows, key=lambda row: (-len(items[row].context), row)):
        most = max(most, cost(row))
        if batch and most * (len(batch) + 1) > batch_tokens:
            yield Group(tuple(batch), prefix)
            batch, most = [], cost(row)
        batch.append(row)
    if batch:
        yield Group(tuple(batch), prefix)


@torch.inference_mode()
def likelihoods(
    model: PreTrainedModel, items: Sequence[Choices], prefix: int, prefixes: Prefixes
) -> list[list[Likelihood]]:
    """Return the likelihood of every continuation of every item of one batch.

    Formula: log p(continuation | context) = sum_j log p(token_j | context, tokens before j), over the full vocabulary.

    Args:
        model: the model, patched or not.
        items: one batch, see `grouped`.
        prefix: how many first tokens all contexts share.
        prefixes: what this model has read before; the batch's prefix is added.
    """
    continuations = [c for item in items for c in item.continuations]
    targets, counted = _padded(continuations, torch.device("cpu"))
    read = _behind_contexts if can_share_prefix(model) else _whole
    states = read(model, items, prefix, prefixes)
    scores, greedy = _scores(model, states[counted], targets[counted])
    owners = counted.nonzero()[:, 0]
    sums = torch.zeros(len(continuations), dtype=torch.float64).index_add(0, owners.cpu(), scores.double().cpu())
    misses = torch.zeros(len(continuations)).index_add(0, owners.cpu(), (~greedy).float().cpu())
    found = iter([Likelihood(float(s), not m) for s, m in zip(sums, misses, strict=True)])
    return [[next(found) for _ in item.continuations] for item in items]


def _behind_contexts(
    model: PreTrainedModel, items: Sequence[Choices], prefix: int, prefixes: Prefixes
) -> Float[Tensor, "continuations scored width"]:
    """Return the states that predict the tokens of every continuation, each context read once."""
    contexts = [item.context for item in items]
    batch = pad_behind(contexts, prefix, PADDING_ID, model.device)
    tails = [c[:-1] for item in items for c in item.continuations]
    hidden, cache = run_decoder(model, batch, prefixes, use_cache=any(tails))
    # On the CPU: layers, and their caches, may be on several devices.
    owners = torch.tensor([row for row, item in enumerate(items) for _ in item.continuations])
    first = hidden[:, -1:][owners]
    if not any(tails):
        return first
    assert cache is not None
    cache.batch_select_indices(owners)
    ids, mask = _padded(tails, model.device)
    lengths = torch.tensor([len(c) for c in contexts])[owners].to(model.device)
    rest = decoder_of(model)(
        input_ids=ids,
        attention_mask=torch.cat([batch.attention_mask[owners], mask.long()], dim=1),
        position_ids=lengths[:, None] + torch.arange(ids.shape[1], device=model.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([first, rest], dim=1)


def _whole(
    model: PreTrainedModel, items: Sequence[Choices], _prefix: int, _prefixes: Prefixes
) -> Float[Tensor, "continuations scored width"]:
    """Return the same states for models whose caches cannot be shared: every continuation with its own context."""
    pairs = [(item.context, c) for item in items for c in item.continuations]
    sequences = [(*context, *c[:-1]) for context, c in pairs]
    lengths = [len(c) for _, c in pairs]
    longest = max(lengths)
    states = scored_hidden(model, sequences, longest, lengths=lengths)
    # They end together; here they must begin together.
    return torch.stack([row.roll(length - longest, dims=0) for row, length in zip(states, lengths, strict=True)])


def _padded(
    sequences: Sequence[tuple[int, ...]], device: torch.device
) -> tuple[Int[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
    """Return the ids padded on the right, and where they are not padding."""
    longest = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), longest), PADDING_ID, dtype=torch.long)
    mask = torch.zeros((len(sequences), longest), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = True
    return ids.to(device), mask.to(device)


def _scores(
    model: PreTrainedModel, states: Float[Tensor, "tokens width"], targets: Int[Tensor, " tokens"]
) -> tuple[Float[Tensor, " tokens"], Bool[Tensor, " tokens"]]:
    """Return the log-probability of every token, and whether it is the most likely one."""
    scores, greedy = [], []
    for some, wanted in zip(states.split(_ROWS_OF_LOGITS), targets.split(_ROWS_OF_LOGITS), strict=True):
        logits = logits_from_hidden(model, some)
        own = wanted.to(logits.device)
        scores.append(logits.gather(1, own[:, None])[:, 0] - logits.logsumexp(-1))
        greedy.append(logits.argmax(-1) == own)
    return torch.cat(scores), torch.cat(greedy)
