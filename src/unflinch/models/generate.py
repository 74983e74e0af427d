"""Greedy answers of many prompts, stopping each as soon as its judgement is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unflinch.models.forward import (
    PADDING_ID,
    Ids,
    can_share_prefix,
    length_sorted_batches,
    logits_from_hidden,
    pad_batch,
    run_decoder,
)

StopWhen = Callable[[str], bool]
Advance = Callable[[int], None]


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return every id that ends an answer, from generation config and tokenizer."""
    generation = model.generation_config.eos_token_id if model.generation_config else None
    ids = generation if isinstance(generation, list) else [generation]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


@torch.inference_mode()
def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Ids],
    max_new_tokens: int,
    *,
    stop_when: StopWhen | None = None,
    batch_tokens: int = 2048,
    advance: Advance | None = None,
) -> list[tuple[int, ...]]:
    """Return the greedy continuation of every sequence, without end tokens.

    Args:
        model: the model, patched or not.
        tokenizer: used to show the text so far to `stop_when`.
        sequences: prompts as ids, see `models.chat.encode`.
        max_new_tokens: most tokens an answer may have.
        stop_when: called with the text so far; True ends that answer early.
        batch_tokens: most padded prompt tokens a batch.
        advance: called with the number of finished prompts after each batch.
    """
    answers: list[tuple[int, ...]] = [()] * len(sequences)
    ends = end_token_ids(model, tokenizer)
    for rows in length_sorted_batches(sequences, batch_tokens):
        produced = _generate_batch(model, tokenizer, [sequences[i] for i in rows], max_new_tokens, ends, stop_when)
        for i, answer in zip(rows, produced, strict=True):
            answers[i] = answer
        if advance:
            advance(len(rows))
    return answers


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Ids],
    max_new_tokens: int,
    ends: frozenset[int],
    stop_when: StopWhen | None,
) -> list[tuple[int, ...]]:
    share = can_share_prefix(model)
    batch = pad_batch(sequences, 1, PADDING_ID, model.device, share)
    hidden, cache = run_decoder(model, batch, use_cache=True)
    assert cache is not None
    mask, positions = batch.attention_mask, batch.position_ids[:, -1:]
    active = list(range(len(sequences)))
    answers: list[list[int]] = [[] for _ in sequences]
    for step in range(max_new_tokens):
        tokens = logits_from_hidden(model, hidden[:, -1]).argmax(-1)
        going = []
        for place, (row, token) in enumerate(zip(active, tokens.tolist(), strict=True)):
            if token in ends:
                continue
            answers[row].append(token)
            if stop_when and stop_when(str(tokenizer.decode(answers[row]))):
                continue
            going.append(place)
        if not going or step == max_new_tokens - 1:
            break
        if len(going) < len(active):
            keep = torch.tensor(going, device=model.device)
            cache.batch_select_indices(keep)
            tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            active = [active[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        positions = positions + 1
        hidden = model.get_decoder()(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    return [tuple(answer) for answer in answers]
