"""Late refusals get a path of their own; prompts that are not refused, that of their language where it is usual."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_tokenizer

from unflinch.data.prompts import Prompt
from unflinch.metrics.refusal_score import RefusalOpenings
from unflinch.models.chat import encode
from unflinch.steps.baseline import Asked
from unflinch.steps.decisions import decisions
from unflinch.validate.judges import RuleJudge

TOKENIZER = tiny_tokenizer()
SORRY = "I'm sorry, but I can't help with that request."
LATE = "Well. I cannot help you with that."
LONGER = "Well then. I cannot help you with that."


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False))


def refused(number: int, answer: str, language: str = "de") -> Asked:
    return Asked(Prompt(f"Question {number}", language=language), "refuses", ids(answer))


def answered(number: int, language: str = "de") -> Asked:
    return Asked(Prompt(f"Question {number}", language=language), "answers")


@pytest.fixture
def openings() -> RefusalOpenings:
    """Only "I" opens refusals."""
    weights = torch.zeros(len(TOKENIZER))
    weights[ids(SORRY)[0]] = 0.9
    return RefusalOpenings(weights)


def test_an_early_refusal_is_decided_behind_its_prompt(openings: RefusalOpenings) -> None:
    (found,) = decisions(TOKENIZER, [refused(0, SORRY)], openings)
    assert (found.ids, found.path) == (encode(TOKENIZER, Prompt("Question 0", language="de")), ())


@pytest.mark.parametrize(("share", "decided_by_first"), [(0.6, False), (0.95, True)])
def test_a_refusal_is_decided_late_if_its_opening_opens_plain_answers_too(share: float, decided_by_first: bool) -> None:
    weights = torch.zeros(len(TOKENIZER))
    weights[ids(SORRY)[0]] = share
    (found,) = decisions(TOKENIZER, [refused(0, SORRY)], RefusalOpenings(weights))
    assert (found.path == ()) is decided_by_first


def test_a_late_refusal_is_decided_at_the_token_that_makes_a_refusal_of_it(openings: RefusalOpenings) -> None:
    prompt = refused(0, LATE)
    (found,) = decisions(TOKENIZER, [prompt], openings)
    assert found.path == ids(LATE)[: len(found.path)] and 1 < len(found.path) < len(ids(LATE))
    labels = [RuleJudge()("", TOKENIZER.decode(found.path[:end])).label for end in range(1, len(found.path) + 1)]
    assert labels[-1] == "refuses" and "refuses" not in labels[:-1]
    assert found.ids == (*encode(TOKENIZER, prompt.prompt), *found.path[:-1])


def test_prompts_that_are_answered_get_the_commonest_path_of_a_language_that_refuses_late(
    openings: RefusalOpenings,
) -> None:
    asked = [refused(0, LATE), refused(1, LONGER), refused(2, LONGER), refused(3, SORRY), answered(4)]
    found = decisions(TOKENIZER, asked, openings)
    assert found[4].path == found[1].path == found[2].path != found[0].path
    shortest = decisions(TOKENIZER, [*asked[:2], answered(4)], openings)
    assert shortest[2].path == shortest[0].path  # once each: the shorter one


@pytest.mark.parametrize("language", ["en", "und"])
def test_other_languages_and_unknown_ones_are_scored_at_the_first_token(
    openings: RefusalOpenings, language: str
) -> None:
    asked = [refused(0, LATE, "und"), refused(1, LATE), answered(2, language)]
    assert decisions(TOKENIZER, asked, openings)[2].path == ()


def test_a_language_that_mostly_refuses_early_has_no_usual_path(openings: RefusalOpenings) -> None:
    asked = [refused(0, LATE), refused(1, SORRY), answered(2)]
    assert [len(d.path) > 0 for d in decisions(TOKENIZER, asked, openings)] == [True, False, False]


def test_prompts_that_were_not_asked_follow_and_are_scored_as_answered_ones_are(openings: RefusalOpenings) -> None:
    asked = [refused(0, LATE), answered(1)]
    strangers = [Prompt("Question 2", language="de"), Prompt("Question 3", language="en")]
    found = decisions(TOKENIZER, asked, openings, strangers)
    german, english = found[2:]
    assert german.path == found[1].path != ()
    assert german.ids == (*encode(TOKENIZER, strangers[0]), *german.path[:-1])
    assert (english.ids, english.path) == (encode(TOKENIZER, strangers[1]), ())
