"""A prompt is laid out by the model's own template, up to where the answer begins."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tiny_models import CHATML, SYSTEM, tiny_tokenizer

from unflinch.data.prompts import Prompt
from unflinch.errors import ModelError
from unflinch.models.chat import check_chat_template, encode, encode_all
from unflinch.models.thinking import read_thinking


@dataclass(frozen=True)
class Talk:
    """Messages as they are."""

    messages: tuple[tuple[str, str], ...]
    thinking: bool | None = None

    def conversation(self) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in self.messages]


def test_the_ids_say_the_conversation_and_end_where_the_answer_begins() -> None:
    tokenizer = tiny_tokenizer()
    ids = encode(tokenizer, Talk((("user", "Hi there"), ("assistant", "Hello"), ("user", "Why?"))))
    assert tokenizer.decode(ids) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert all(isinstance(i, int) for i in ids)


def test_a_prompt_of_the_data_package_can_be_encoded() -> None:
    tokenizer = tiny_tokenizer()
    prompts = [Prompt("Hi there"), Prompt("Why?")]
    asked = [Talk((("user", "Hi there"),)), Talk((("user", "Why?"),))]
    assert encode_all(tokenizer, prompts) == [encode(tokenizer, talk) for talk in asked]


@pytest.mark.parametrize("template", [None, ""])
def test_a_tokenizer_without_a_chat_template_is_refused(template: str | None) -> None:
    with pytest.raises(ModelError, match=r"some/model has no chat template.*-Instruct"):
        check_chat_template(tiny_tokenizer(template), "some/model")
    check_chat_template(tiny_tokenizer(CHATML), "some/model")


def test_a_conversation_that_the_template_refuses_is_a_model_error() -> None:
    refusing = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + CHATML
    tokenizer = tiny_tokenizer(refusing)
    encode(tokenizer, Talk((("user", "Hi"),)))
    with pytest.raises(ModelError, match="does not take .*one turn only"):
        encode(tokenizer, Talk((("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"))))


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ messages + 1 }}", "{{ messages[9].content.lower() }}"])
def test_a_template_that_is_wrong_itself_is_a_model_error(template: str) -> None:
    with pytest.raises(ModelError, match="does not take"):
        encode(tiny_tokenizer(template), Talk((("system", "Be kind."), ("user", "Hi"))))
    assert read_thinking(tiny_tokenizer(template)) is None


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML,
        CHATML.replace("for message in messages", "for message in messages if message.role != 'system'"),
    ],
    ids=["refuses it", "leaves it out"],
)
def test_a_system_prompt_stands_in_the_first_user_turn_where_the_template_has_no_place_for_it(template: str) -> None:
    tokenizer = tiny_tokenizer(template)
    turns = (("assistant", "Hello"), ("user", "Why?"))
    asked = encode(tokenizer, Talk((("system", "Be kind."), ("user", "Hi"), *turns)))
    assert asked == encode(tokenizer, Talk((("user", "Be kind.\n\nHi"), *turns)))
