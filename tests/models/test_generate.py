"""Batched greedy answers equal those of transformers, row by row, and end where they should."""

from __future__ import annotations

import pytest
import torch
from tiny_models import KNOWN, READ_OFF, random_ids, tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

from unflinch.models.generate import end_token_ids, generate, sampler

START = (11, 7, 5, 3, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49)
NEW_TOKENS = 6


def prompts() -> list[tuple[int, ...]]:
    return random_ids((20, 31, 18), START) + random_ids((5, 19), seed=1)


def own_answer(model: PreTrainedModel, ids: tuple[int, ...], new_tokens: int = NEW_TOKENS) -> tuple[int, ...]:
    """What `generate` of transformers answers to one unpadded row, end token included."""
    output = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=new_tokens,
        pad_token_id=0,
    )
    return tuple(output[0, len(ids) :].tolist())


@pytest.mark.parametrize(
    ("family", "batch_tokens"), [*((family, 4096) for family in (*KNOWN, *READ_OFF)), ("qwen2", 1), ("mistral", 1)]
)
def test_answers_equal_those_of_transformers_row_by_row(family: str, batch_tokens: int) -> None:
    model = tiny_model(family)
    model.generation_config.eos_token_id = None
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    answers = generate(model, tokenizer, prompts(), NEW_TOKENS, batch_tokens=batch_tokens)
    assert answers == [own_answer(model, ids) for ids in prompts()]
    assert all(len(answer) == NEW_TOKENS for answer in answers)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "mistral"])
def test_an_answer_ends_before_any_of_the_end_tokens(family: str) -> None:
    model = tiny_model(family)
    model.generation_config.eos_token_id = None
    free = [own_answer(model, ids) for ids in prompts()]
    # Tokens that some rows come to early, one late, one never: rows leave the batch at different steps.
    model.generation_config.eos_token_id = [free[0][0], free[1][2]]
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token_id = free[4][4]
    ends = {free[0][0], free[1][2], free[4][4]}
    assert end_token_ids(model, tokenizer) == ends
    expected = []
    for answer in free:
        length = next((i for i, token in enumerate(answer) if token in ends), len(answer))
        expected.append(answer[:length])
    assert generate(model, tokenizer, prompts(), NEW_TOKENS) == expected
    assert expected[0] == ()
    assert len({len(answer) for answer in expected}) >= 3


def test_a_single_end_token_is_read_from_model_and_tokenizer() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.generation_config.eos_token_id = 17
    assert end_token_ids(model, tokenizer) == {17, tokenizer.eos_token_id}


def test_stop_when_ends_an_answer_at_the_first_token_that_decides_it() -> None:
    model, tokenizer = tiny_model("qwen2"), tiny_tokenizer()
    free = generate(model, tokenizer, prompts(), NEW_TOKENS)

    def decided(text: str) -> bool:
        return len(text) >= 5

    stopped = generate(model, tokenizer, prompts(), NEW_TOKENS, stop_when=decided)
    for answer, whole in zip(stopped, free, strict=True):
        lengths = range(1, len(whole) + 1)
        length = next((n for n in lengths if decided(tokenizer.decode(whole[:n]))), len(whole))
        assert answer == whole[:length]
    assert sum(map(len, stopped)) < sum(map(len, free))


def test_no_prompts_give_no_answers_and_no_new_tokens_empty_ones() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    assert generate(model, tokenizer, [], NEW_TOKENS) == []
    assert generate(model, tokenizer, random_ids((4, 5)), 0) == [(), ()]


def test_every_prompt_is_reported_once_as_finished() -> None:
    finished: list[int] = []
    many = prompts() * 100
    generate(tiny_model("llama"), tiny_tokenizer(), many, 2, batch_tokens=400, advance=finished.append)
    assert sum(finished) == len(many)
    assert len(finished) > 2


def test_a_sampled_answer_depends_on_seed_and_place_and_not_on_what_is_written_with_it() -> None:
    model, tokenizer = tiny_model("qwen2"), tiny_tokenizer()

    def sampled(seed: int, batch_tokens: int) -> list[tuple[int, ...]]:
        return generate(model, tokenizer, prompts() * 2, 6, choose=sampler(seed), batch_tokens=batch_tokens)

    together = sampled(0, 4096)
    assert together == sampled(0, 1)
    assert together != sampled(1, 4096)
    assert together[: len(prompts())] != together[len(prompts()) :]
