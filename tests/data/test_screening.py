"""The screen drops what is close to keep or guard prompts, and lets harmless prompts through."""

from __future__ import annotations

import numpy as np
import pytest

from unflinch.data.prompts import Prompt, bundled
from unflinch.data.screening import TOO_CLOSE_SCORE, Screen
from unflinch.data.splits import PromptSets, split_prompts


@pytest.fixture(scope="module")
def halves() -> tuple[PromptSets, PromptSets]:
    """A part of the bundled prompts, as one half to learn from and one to try, twins together."""
    targets = [prompt for prompt in bundled("targets") if prompt.language == "en"][:500]
    texts = {prompt.text for prompt in targets}
    keep = [prompt for prompt in bundled("keep") if prompt.contrast_of in texts]
    splits = split_prompts(targets, keep, bundled("guard"), bundled("ordinary")[:400], (0.6, 0.0, 0.4))
    return splits.fit, splits.test


@pytest.fixture(scope="module")
def screen(halves: tuple[PromptSets, PromptSets]) -> Screen:
    """The screen of the first half."""
    return Screen(halves[0])


def test_unseen_keep_and_guard_prompts_are_mostly_dropped_and_ordinary_ones_mostly_not(
    screen: Screen, halves: tuple[PromptSets, PromptSets]
) -> None:
    def dropped(prompts: tuple[Prompt, ...]) -> float:
        return float(np.mean(screen.scores([prompt.text for prompt in prompts]) >= TOO_CLOSE_SCORE))

    test = halves[1]
    assert dropped(test.keep) > 0.8
    assert dropped(test.guard) > 0.8
    assert dropped(test.ordinary) < 0.4
    assert dropped(test.targets) < 0.7


def test_a_prompt_in_nearly_the_words_of_a_keep_or_guard_prompt_is_dropped_whatever_its_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unflinch.data.screening.TOO_CLOSE_SCORE", np.inf)
    harmless = (Prompt("What is the moon made of?"),)
    keep, guard = (Prompt("Sing a song of nine sad crows"),), (Prompt("Tell me about the moons of planet Ix"),)
    screen = Screen(PromptSets(harmless, keep, guard, ()))
    assert screen.too_close("Tell me about all the moons of planet Ix!")
    assert screen.too_close("Sing us a song of nine sad crows")
    assert not screen.too_close("Describe the seas of planet Earth")


def test_the_score_is_the_sign_of_the_side_that_was_seen(screen: Screen, halves: tuple[PromptSets, PromptSets]) -> None:
    seen = halves[0]
    assert np.mean(screen.scores([prompt.text for prompt in seen.keep]) > 0) > 0.99
    assert np.mean(screen.scores([prompt.text for prompt in seen.targets]) < 0) > 0.99
