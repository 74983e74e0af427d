"""Signs of babbling, on texts whose nature is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.data.dialogues import bundled_dialogues
from unflinch.data.prompts import bundled
from unflinch.validate.babble import guess_language, other_script_share, repeated_share

answers = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=4)


@given(answers=answers, run=st.integers(1, 4))
def test_the_repeated_share_counts_every_run_that_stands_earlier_in_the_dialogue(
    answers: list[list[int]], run: int
) -> None:
    seen: list[list[int]] = []
    repeated = total = 0
    for answer in answers:
        for start in range(len(answer) - run + 1):
            piece = answer[start : start + run]
            repeated += piece in seen
            total += 1
            seen.append(piece)
    assert repeated_share(answers, run) == pytest.approx(repeated / total if total else 0.0)


def test_a_loop_repeats_nearly_everything_and_plain_text_nothing() -> None:
    assert repeated_share([[1, 2] * 20]) > 0.9
    assert repeated_share([list(range(30)), list(range(100, 130))]) == 0
    assert repeated_share([list(range(30)), list(range(30))]) == 0.5
    assert repeated_share([[1, 2, 3], []]) == 0


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("Straße, naïve, señor", "de", 0.0),
        ("Привет, Python!", "ru", 0.5),
        ("你好 ab", "zh", 0.5),
        ("abc где", "en", 0.5),
        ("1, 2, 3 ... 🙂", "en", 0.0),
        ("", "zh", 0.0),
    ],
)
def test_letters_of_another_script_are_counted(text: str, language: str, share: float) -> None:
    assert other_script_share(text, language) == pytest.approx(share)


def test_the_language_of_the_bundled_dialogues_is_guessed() -> None:
    for dialogue in bundled_dialogues():
        assert guess_language("\n".join(dialogue.turns)) in (dialogue.language, None)


def test_the_language_of_longer_bundled_prompts_is_hardly_ever_guessed_wrong() -> None:
    guessed = wrong = 0
    for prompt in bundled("ordinary"):
        if prompt.category in {"code", "maths"} or len(prompt.text) < 60:
            continue
        found = guess_language(prompt.text)
        guessed += found is not None
        wrong += found not in (None, prompt.language)
    assert guessed > 300
    assert wrong <= 0.01 * guessed


@pytest.mark.parametrize("text", ["", "Paris.", "12 + 30 = 42", "print(x)"])
def test_too_little_text_has_no_language(text: str) -> None:
    assert guess_language(text) is None


def test_the_bundled_dialogues_take_turns_so_that_any_beginning_has_all_languages() -> None:
    languages = [dialogue.language for dialogue in bundled_dialogues()]
    assert set(languages[:6]) == {"en", "de", "fr", "es", "ru", "zh"}
    assert all(languages[at] == languages[at - 6] for at in range(6, len(languages)))
    assert all(before != after for before, after in pairwise(languages))
