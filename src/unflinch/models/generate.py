"""Answers of many prompts, greedy or sampled, stopping each as soon as its judgement is decided.

Prompts are read in small batches and answered in larger ones: reading is bound by arithmetic, writing one token at a
time by the memory that the weights come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from unflinch.launch import workers
from unflinch.models.batches import PADDING_ID, READ_TOKENS, Ids, length_sorted_batches, pad_batch
from unflinch.models.forward import Prefixes, can_share_prefix, logits_from_hidden, next_hidden, run_decoder
from unflinch.models.workers import everyones, own_share

StopWhen = Callable[[str], bool]
Choose = Callable[[Float[Tensor, "rows vocab"], Sequence[int]], Int[Tensor, " rows"]]
"""Takes the next token of every row from its logits and its place among all sequences."""
Advance = Callable[[int], None]

WRITTEN_TOGETHER = 128
"""Rows from which on answers are written, where caches can be joined."""


def greedy(logits: Float[Tensor, "rows vocab"], _places: Sequence[int]) -> Int[Tensor, " rows"]:
    """Return the likeliest token of every row."""
    return logits.argmax(-1)


def sampler(seed: int, temperature: float = 1.0) -> Choose:
    """Return a choice of tokens with probability softmax(logits / temperature).

    Every sequence has a generator of its own, so that its answer depends on no other one, nor on who writes these.
    """
    generators: dict[int, torch.Generator] = {}

    def choose(logits: Float[Tensor, "rows vocab"], places: Sequence[int]) -> Int[Tensor, " rows"]:
        probabilities = (logits.float() / temperature).softmax(-1).cpu()
        tokens = []
        for row, place in zip(probabilities, places, strict=True):
            if place not in generators:
                generators[place] = generator_of(seed, place)
            tokens.append(torch.multinomial(row, 1, generator=generators[place]))
        return torch.cat(tokens).to(logits.device)

    return choose


def at_places(choose: Choose, places: Sequence[int]) -> Choose:
    """Return a choice of tokens for some of many sequences: of each by its place among all of them."""
    return lambda logits, own: choose(logits, [places[place] for place in own])


def generator_of(seed: int, place: int) -> torch.Generator:
    """Return a generator for one of many sequences, whose numbers have nothing to do with those of another place."""
    state = np.random.SeedSequence((seed, place)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return every id that ends an answer, from generation config and tokenizer."""
    generation = model.generation_config.eos_token_id if model.generation_config else None
    ids = generation if isinstance(generation, list) else [generation]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Ids],
    max_new_tokens: int,
    *,
    choose: Choose = greedy,
    stop_when: StopWhen | None = None,
    batch_tokens: int = READ_TOKENS,
    advance: Advance | None = None,
) -> list[tuple[int, ...]]:
    """Return a continuation of every sequence, without end tokens.

    Args:
        model: the model, patched or not.
        tokenizer: used to show the text so far to `stop_when`.
        sequences: prompts as ids, see `models.chat.encode`.
        max_new_tokens: most tokens an answer may have.
        choose: takes the next tokens: `greedy`, or `sampler(seed)`.
        stop_when: called with the text so far; True ends that answer early.
        batch_tokens: most padded prompt tokens a batch.
        advance: called with the number of finished prompts, some at a time.
    """
    own = sorted(own_share(sorted(range(len(sequences)), key=lambda place: len(sequences[place]))))
    answers: dict[int, list[int]] = {place: [] for place in own}
    ends = end_token_ids(model, tokenizer)

    def goes_on(row: int, token: int) -> bool:
        if token in ends:
            return False
        answers[row].append(token)
        return not (stop_when and stop_when(str(tokenizer.decode(answers[row]))))

    for opened in _opened(model, {place: sequences[place] for place in own}, batch_tokens):
        finished = len(opened.rows)
        _write(model, opened, max_new_tokens, choose, goes_on)
        if advance:
            advance(finished * workers())
    written = {place: answer for some in everyones(answers) for place, answer in some.items()}
    return [tuple(written[place]) for place in range(len(sequences))]


@dataclass
class _Opened:
    """Answers that are being written: what is known of every row behind its last token."""

    rows: list[int]
    """Their places among all sequences."""
    hidden: Float[Tensor, "rows width"]
    cache: DynamicCache
    mask: Int[Tensor, "rows all_tokens"]
    positions: Int[Tensor, "rows 1"]


def _opened(model: PreTrainedModel, sequences: Mapping[int, Ids], batch_tokens: int) -> Iterator[_Opened]:
    """Yield the prompts read, many together where their caches are plain keys and values."""
    share = can_share_prefix(model)
    waiting: list[_Opened] = []
    prefixes: Prefixes = {}
    places = list(sequences)
    for batched in length_sorted_batches(list(sequences.values()), batch_tokens):
        rows = [places[i] for i in batched]
        batch = pad_batch([sequences[i] for i in rows], 1, PADDING_ID, model.device, share)
        hidden, cache = run_decoder(model, batch, prefixes, use_cache=True)
        assert cache is not None
        waiting.append(_Opened(rows, hidden[:, -1], cache, batch.attention_mask, batch.position_ids[:, -1:]))
        if not share or sum(len(opened.rows) for opened in waiting) >= WRITTEN_TOGETHER:
            yield _joined(model, waiting)
            waiting = []
    if waiting:
        yield _joined(model, waiting)


def _joined(model: PreTrainedModel, parts: Sequence[_Opened]) -> _Opened:
    """Return several batches as one, the shorter ones padded on the left."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.mask.shape[1] for part in parts)

    def joined(states: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.nn.functional.pad(s, (0, 0, width - s.shape[-2], 0)) for s in states])

    cache = DynamicCache(config=model.config)
    for number, layers in enumerate(zip(*(part.cache.layers for part in parts), strict=True)):
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        cache.update(joined(keys), joined(values), number)
    masks = [torch.nn.functional.pad(part.mask, (width - part.mask.shape[1], 0)) for part in parts]
    return _Opened(
        [row for part in parts for row in part.rows],
        torch.cat([part.hidden for part in parts]),
        cache,
        torch.cat(masks),
        torch.cat([part.positions for part in parts]),
    )


def _write(
    model: PreTrainedModel,
    opened: _Opened,
    max_new_tokens: int,
    choose: Choose,
    goes_on: Callable[[int, int], bool],
) -> None:
    """Write the answers token by token; `goes_on(row, token)` takes each and says whether its row wants another."""
    for step in range(max_new_tokens):
        tokens = choose(logits_from_hidden(model, opened.hidden), opened.rows)
        going = [place for place, row in enumerate(opened.rows) if goes_on(row, int(tokens[place]))]
        if not going or step == max_new_tokens - 1:
            return
        if len(going) < len(opened.rows):
            keep: Any = torch.tensor(going)  # on the CPU: layers, and their caches, may be on several devices
            opened.cache.reorder_cache(keep)  # takes a part of the rows, too, and from recurrent layers as well
            tokens, opened.mask, opened.positions = tokens[keep], opened.mask[keep], opened.positions[keep]
            opened.rows = [opened.rows[place] for place in going]
        opened.mask = torch.cat([opened.mask, opened.mask.new_ones(len(going), 1)], dim=1)
        opened.positions = opened.positions + 1
        opened.hidden = next_hidden(model, tokens, opened.mask, opened.positions, opened.cache)
