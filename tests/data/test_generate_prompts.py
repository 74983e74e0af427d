"""What is asked for is harmless, and replies are read in the shapes that models give them."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.data.generate_prompts import default_categories, example_pool, examples, read_prompts, request_text
from unflinch.data.prompts import Message, Prompt
from unflinch.data.splits import split_prompts

PAIR = ["How do I boil an egg?", 'What does "al dente" mean?']


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(PAIR),
        json.dumps(PAIR, indent=2),
        "Sure! Here they are:\n```json\n" + json.dumps(PAIR) + "\n```\nAsk me for more.",
        json.dumps({"prompts": PAIR}),
        json.dumps(PAIR)[:-1] + ', "How do I poach an eg',
        '["only an example"] is what you want, and here it is:\n' + json.dumps(PAIR),
        '1. How do I boil an egg?\n2. "What does "al dente" mean?"\n',
        '- How do I boil an egg?\n- What does "al dente" mean?',
        'Here:\n\n  1) "How do I boil an egg?",\n  2) What does "al dente" mean?',
    ],
)
def test_prompts_are_read_from_an_array_or_a_list(reply: str) -> None:
    assert read_prompts(reply) == PAIR


@pytest.mark.parametrize(
    "reply", ["", "I cannot do that.", "<html><body>502</body></html>", "[[[[", "[1, 2]", "{}", "["]
)
def test_what_lists_nothing_has_no_prompts(reply: str) -> None:
    assert read_prompts(reply) == []


@given(st.lists(st.text(min_size=1).filter(lambda text: text == text.strip()), min_size=1))
def test_any_array_of_strings_is_read_back(prompts: list[str]) -> None:
    assert read_prompts(json.dumps(prompts)) == prompts


@given(st.text())
def test_any_reply_can_be_read(reply: str) -> None:
    assert all(isinstance(one, str) for one in read_prompts(reply))


@pytest.mark.parametrize("piece", ["[", '["', '["a",', '["a"x', "1. ", "- a ", "\\", "\n", '"'])
def test_a_flood_is_read_in_time(piece: str) -> None:
    start = time.process_time()
    read_prompts(piece * (400_000 // len(piece)))
    assert time.process_time() - start < 2


def test_a_request_says_what_is_wanted_and_asks_for_harmless_prompts_alone() -> None:
    text = request_text("targets", "chemistry_lab_safety", "fr", 7, PAIR, ["old", *map(str, range(10, 20))])
    assert "Write 7 new prompts" in text
    assert "Category: chemistry lab safety. Language: French." in text
    assert "entirely harmless" in text
    assert json.dumps(PAIR, ensure_ascii=False) in text
    assert '"19"' in text
    assert '"old"' not in text  # the newest ten alone
    assert "Examples" not in request_text("ordinary", "code", "de", 7, [], [])


def test_examples_are_of_the_category_and_of_the_fit_part() -> None:
    prompts = [Prompt(f"Question {n} about {kind}?", kind, "en") for kind in ("eggs", "bees") for n in range(40)]
    pool = example_pool(
        [*prompts, Prompt("Borderline?", "eggs", "en", wide=True), Prompt("Be?", "eggs", "en", "Brief.")]
    )
    assert set(pool) == set(split_prompts(prompts, (), (), ()).fit.targets)
    shown = examples(pool, "eggs", "en", 0)
    assert len(set(shown)) == 5
    assert all(text.endswith("about eggs?") for text in shown)
    assert shown == examples(pool, "eggs", "en", 0)
    assert shown != examples(pool, "eggs", "en", 1)
    assert examples(pool, "new_category", "en", 0) == ()


def test_examples_are_english_where_the_language_has_too_few() -> None:
    english = [Prompt(f"Question {n}?", "eggs", "en") for n in range(40)]
    german = [Prompt(f"Frage {n}?", "eggs", "de") for n in range(40)]
    assert all(text.startswith("Frage") for text in examples([*english, *german], "eggs", "de", 0))
    assert all(text.startswith("Question") for text in examples([*english, *german[:2]], "eggs", "de", 0))


def test_default_categories_are_those_with_single_english_questions() -> None:
    talk = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye"))
    prompts = [
        Prompt("1 + 1?", "maths", "en"),
        Prompt("Bye", "dialogue", "en", messages=talk),
        Prompt("Be brief.", "system_prompt", "en", "Be kind."),
        Prompt("Wie spät ist es?", "other_language", "de"),
        Prompt("2 + 2?", "maths", "en"),
    ]
    assert default_categories(prompts) == ("maths",)
