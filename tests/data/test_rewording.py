"""Some fit prompts are asked in other words; a prompt and its harmful twin alike, and never as the stress test asks."""

from __future__ import annotations

import pytest

from unflinch.data.prompts import MAX_PROMPT_CHARACTERS, Message, Prompt, bundled
from unflinch.data.rewording import _FRAMES, reworded
from unflinch.validate.stress import _FRAMES as STRESS_FRAMES

PROMPTS = tuple(Prompt(f"How does machine {i} work?", "technology", "en") for i in range(1000))
LANGUAGES = ("en", "ru", "zh", "es", "de", "fr")


def test_no_share_changes_nothing() -> None:
    assert reworded(PROMPTS, 0.0, 0) == PROMPTS


def test_about_the_share_is_reworded_and_holds_the_prompt_whole() -> None:
    found = reworded(PROMPTS, 0.3, 0)
    changed = [(old, new) for old, new in zip(PROMPTS, found, strict=True) if old != new]
    assert 250 < len(changed) < 350
    assert all(old.text in new.text and old.category == new.category for old, new in changed)
    assert len({prompt.key for prompt in found}) == len(found)
    assert found == reworded(PROMPTS, 0.3, 0)
    assert found != reworded(PROMPTS, 0.3, 1)


def test_a_prompt_and_its_twin_stay_a_pair_in_the_same_words() -> None:
    twins = [Prompt(f"How do I break {i}?", language="en", contrast_of=p.text) for i, p in enumerate(PROMPTS)]
    for target, old, twin in zip(reworded(PROMPTS, 0.5, 0), twins, reworded(twins, 0.5, 0), strict=True):
        assert twin.contrast_of == target.text
        assert twin.text.replace(old.text, "") == target.text.replace(old.contrast_of or "", "")


@pytest.mark.parametrize("language", [*LANGUAGES, "und", "it"])
def test_the_words_are_of_the_prompts_language_and_english_where_there_are_none(language: str) -> None:
    (found,) = reworded([Prompt("1 + 1?", language=language)], 1.0, 0)
    words = {frame.get(language, frame["en"]).format("1 + 1?") for frame in _FRAMES}
    assert found.text in words


def test_dialogues_and_prompts_under_a_system_prompt_stay() -> None:
    turns = (Message("user", "Hello."), Message("assistant", "Hello!"), Message("user", "And now?"))
    kept = (Prompt("And now?", messages=turns), Prompt("Who are you?", system="You are a pilot."))
    assert reworded(kept, 1.0, 0) == kept


def test_a_prompt_at_the_limit_of_length_stays() -> None:
    longest = Prompt("a" * MAX_PROMPT_CHARACTERS)
    assert reworded([longest], 1.0, 0) == (longest,)


def test_no_frame_is_one_of_the_stress_test() -> None:
    assert all(set(frame) == set(LANGUAGES) for frame in _FRAMES)
    theirs = {text for frame in STRESS_FRAMES.values() for text in frame.values()}
    assert theirs.isdisjoint(text for frame in _FRAMES for text in frame.values())


def test_bundled_prompts_of_every_kind_can_be_reworded() -> None:
    for kind in ("targets", "keep", "ordinary"):
        assert len(reworded(bundled(kind), 1.0, 0)) == len(bundled(kind))
