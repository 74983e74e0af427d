"""Likelihoods of continuations, against the model's own logits of one unpadded row at a time."""

from __future__ import annotations

import pytest
import torch
from tiny_models import own_logits, random_ids, tiny_model
from transformers import PreTrainedModel

from unflinch.models.continuations import Choices, Likelihood, grouped, likelihoods


def one_by_one(model: PreTrainedModel, item: Choices) -> list[Likelihood]:
    found = []
    for continuation in item.continuations:
        log_p = own_logits(model, (*item.context, *continuation)).log_softmax(-1)[len(item.context) - 1 : -1]
        score = sum(float(row[token]) for row, token in zip(log_p, continuation, strict=True))
        found.append(Likelihood(score, tuple(log_p.argmax(-1).tolist()) == continuation))
    return found


def all_of(model: PreTrainedModel, items: list[Choices], batch_tokens: int = 2048) -> list[list[Likelihood]]:
    found: dict[int, list[Likelihood]] = {}
    for group in grouped(items, batch_tokens):
        scored = likelihoods(model, [items[row] for row in group.rows], group.prefix, {})
        found |= dict(zip(group.rows, scored, strict=True))
    return [found[row] for row in range(len(items))]


def mixed_items() -> list[Choices]:
    """Contexts with and without a common beginning; continuations of one token, of several, and of both."""
    start = tuple(random_ids((70,), seed=5)[0])
    contexts = [*random_ids((9, 30, 75), seed=1), *random_ids((80, 90, 75, 71, 88), start=start, seed=2)]
    sizes = ((1, 1, 1, 1), (4, 2, 7), (1, 5), (3,), (1, 1), (6, 1, 2, 3), (2, 2), (1,))
    return [Choices(c, tuple(random_ids(s, seed=n))) for n, (c, s) in enumerate(zip(contexts, sizes, strict=True))]


@pytest.mark.parametrize("family", ("qwen2", "gemma2", "granite", "cohere", "gpt_neox"))
def test_batches_give_what_one_row_at_a_time_gives(family: str) -> None:
    model, items = tiny_model(family), mixed_items()
    for found, expected in zip(all_of(model, items), (one_by_one(model, item) for item in items), strict=True):
        assert [one.log_probability for one in found] == pytest.approx(
            [one.log_probability for one in expected], rel=1e-3, abs=1e-3
        )
        assert [one.greedy for one in found] == [one.greedy for one in expected]


def test_what_the_model_would_write_is_greedy() -> None:
    model, context = tiny_model("qwen2"), random_ids((12,))[0]
    written: tuple[int, ...] = ()
    for _ in range(3):
        written = (*written, int(own_logits(model, (*context, *written))[-1].argmax()))
    other = (*written[:2], (written[2] + 1) % 300)
    ((first, second),) = all_of(model, [Choices(context, (written, other))])
    assert (first.greedy, second.greedy) == (True, False)


@pytest.mark.parametrize("batch_tokens", [1, 150, 100_000])
def test_every_item_is_in_one_batch_that_shares_what_it_says(batch_tokens: int) -> None:
    items = mixed_items()
    groups = list(grouped(items, batch_tokens))
    assert sorted(row for group in groups for row in group.rows) == list(range(len(items)))
    for group in groups:
        assert len({items[row].context[: group.prefix] for row in group.rows}) == 1
    assert {row for group in groups if group.prefix >= 70 for row in group.rows} == set(range(3, 8))


def test_a_shared_beginning_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, items = tiny_model("llama"), mixed_items()
    read: list[int] = []
    decoder = model.get_decoder()
    forward = decoder.forward

    def counting(*arguments: object, **named: torch.Tensor):
        read.append(named["input_ids"].numel())
        return forward(*arguments, **named)

    monkeypatch.setattr(decoder, "forward", counting)
    prefixes: dict = {}
    for group in grouped(items[3:], 20):
        likelihoods(model, [items[3 + row] for row in group.rows], group.prefix, prefixes)
    assert read.count(70) == 1
