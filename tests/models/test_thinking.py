"""How a model thinks is read off its chat template, and its answer begins behind its thought."""

from __future__ import annotations

import pytest
from thinking_models import (
    ALWAYS_OPENED,
    ANSWER,
    CHANNELS,
    ENDLESS,
    FORBIDDEN,
    OFF_BY_DEFAULT,
    REFUSAL,
    SWITCHED,
    UNOPENED,
    thinking_model,
    thinking_tokenizer,
)
from tiny_models import CHATML, tiny_tokenizer

from unflinch.data.prompts import Prompt
from unflinch.errors import ModelError
from unflinch.models.chat import encode, encode_all
from unflinch.models.generate import generate
from unflinch.models.thinking import Thinking, read_thinking, thinking_modes, thoughts_of, write_thoughts

SHAPES = {
    "switched": (SWITCHED, "</think>", True, False),
    "always opened": (ALWAYS_OPENED, "</think>", False, True),
    "unopened": (UNOPENED, "</think>", False, False),
    "off by default": (OFF_BY_DEFAULT, "</think>", True, True),
    "channels": (CHANNELS, "<|channel|>final<|message|>", False, False),
}


def thinking_of(template: str) -> Thinking:
    found = read_thinking(tiny_tokenizer(template))
    assert found is not None
    return found


@pytest.mark.parametrize(("template", "closing", "has_switch", "opened"), SHAPES.values(), ids=SHAPES)
def test_a_template_shows_how_its_model_thinks(template: str, closing: str, has_switch: bool, opened: bool) -> None:
    found = thinking_of(template)
    assert (found.markers.closing, found.has_switch, found.opened) == (closing, has_switch, opened)


def test_a_template_that_shows_no_thought_is_of_a_model_that_does_not_think() -> None:
    assert read_thinking(tiny_tokenizer(CHATML)) is None
    assert thinking_modes(None, "auto", "some/model") == thinking_modes(None, "off", "some/model") == (None,)


@pytest.mark.parametrize("template", [SWITCHED, OFF_BY_DEFAULT])
def test_with_thinking_off_the_prompt_ends_behind_a_closed_thought_and_with_it_on_it_does_not(template: str) -> None:
    tokenizer = tiny_tokenizer(template)
    off, on = (str(tokenizer.decode(encode(tokenizer, Prompt("Why?", thinking=mode)))) for mode in (False, True))
    assert off.rstrip().endswith("</think>")
    assert "</think>" not in on


def test_without_a_mode_a_prompt_is_laid_out_as_the_template_has_it() -> None:
    for template, *_ in SHAPES.values():
        tokenizer = tiny_tokenizer(template)
        own = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], add_generation_prompt=True)
        assert list(encode(tokenizer, Prompt("Why?"))) == list(own["input_ids"])


def test_modes_are_those_that_the_template_allows() -> None:
    switched, always = thinking_of(SWITCHED), thinking_of(ALWAYS_OPENED)
    assert thinking_modes(switched, "auto", "m") == thinking_modes(switched, "both", "m") == (False, True)
    assert [thinking_modes(switched, wanted, "m") for wanted in ("off", "on")] == [(False,), (True,)]
    assert thinking_modes(always, "auto", "m") == thinking_modes(always, "on", "m") == (True,)


def test_a_mode_that_the_template_does_not_allow_is_an_error_that_says_what_to_give() -> None:
    for wanted in ("off", "both"):
        with pytest.raises(ModelError, match="some/model has no switch.*--thinking on"):
            thinking_modes(thinking_of(CHANNELS), wanted, "some/model")
    for wanted in ("on", "both"):
        with pytest.raises(ModelError, match="some/model shows no thought.*--thinking off"):
            thinking_modes(None, wanted, "some/model")


@pytest.mark.parametrize(
    ("template", "thought"),
    [
        (SWITCHED, "<think>\nI may say it.\n</think>\n\n"),
        (ALWAYS_OPENED, "I may say it.</think>\n"),
        (UNOPENED, "\n<think>I may say it.</think>"),
        (CHANNELS, "<|channel|>analysis<|message|>Well.<|end|><|start|>assistant<|channel|>final<|message|>"),
        (CHANNELS, "<|channel|>final<|message|>"),
        (SWITCHED, ""),
    ],
)
def test_the_answer_begins_with_its_first_visible_character(template: str, thought: str) -> None:
    thinking = thinking_of(template)
    begins = [thinking.answer_begins((thought + "Sure.")[:end]) for end in range(len(thought) + 2)]
    assert begins == [False] * (len(thought) + 1) + [True]


def test_the_thought_ends_where_one_unbroken_answer_begins_to_answer() -> None:
    tokenizer = thinking_tokenizer()
    model, thinking = thinking_model(tokenizer), read_thinking(tokenizer)
    assert thinking is not None
    prompts = [Prompt(text, thinking=True) for text in ("Tell me.", f"Tell me of {FORBIDDEN} things.")]
    sequences = encode_all(tokenizer, prompts)
    whole = generate(model, tokenizer, sequences, 16)
    assert [tokenizer.decode(ids) for ids in whole] == [f"<think>hm</think>\n\n{said}" for said in (ANSWER, REFUSAL)]
    thoughts = write_thoughts(model, tokenizer, sequences, thinking)
    assert thoughts == [ids[:-1] for ids in whole]


def test_a_thought_that_does_not_close_is_none_and_without_thinking_there_is_none_to_write() -> None:
    tokenizer = thinking_tokenizer()
    model, thinking = thinking_model(tokenizer), Thinking(thinking_of(SWITCHED).markers, True, False, most_tokens=16)
    text = f"Think {ENDLESS}ly."
    prompts = [Prompt(text, thinking=True), Prompt(text, thinking=False), Prompt(text)]
    sequences = encode_all(tokenizer, prompts)
    assert thoughts_of(model, tokenizer, prompts, sequences, thinking) == [None, (), ()]
    with pytest.raises(ModelError, match="how the model thinks is not known"):
        thoughts_of(model, tokenizer, prompts, sequences, None)
