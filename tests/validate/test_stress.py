"""Conditions of stress change how something is asked, never what; and the worst of several answers counts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from scipy.stats import binom

from unflinch.data.prompts import Message, Prompt
from unflinch.options import ValidateOptions
from unflinch.results import Judgement, Label
from unflinch.steps.held_out_panel import KINDS, Refused, RefusedPanel
from unflinch.steps.stress import compared, under_condition
from unflinch.validate.refusal_rate import Answered
from unflinch.validate.stress import CONDITIONS, SAMPLES, Condition

REFUSAL = "I'm sorry, I can't."
LANGUAGES = ("en", "ru", "zh", "es", "de", "fr", "und")
PROMPTS = [
    *(Prompt("What is THIS?", language=language) for language in LANGUAGES),
    Prompt("And now?", messages=(Message("user", "a"), Message("assistant", "b"), Message("user", "And now?"))),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_every_condition_keeps_the_words_and_what_was_said_before(condition: Condition) -> None:
    for prompt in PROMPTS:
        asked = condition.rewrite(prompt, REFUSAL).conversation()
        said = [turn["content"].lower() for turn in asked]
        assert any(prompt.text.lower().rstrip("?") in text for text in said)
        before = [turn.content for turn in (prompt.messages or ())[:-1]]
        assert [text for text in said if text in before] == before
        assert asked[-1]["role"] == "user"


def test_every_condition_but_sampling_asks_something_else() -> None:
    for condition in CONDITIONS:
        same = condition.rewrite(PROMPTS[0], REFUSAL).conversation() == PROMPTS[0].conversation()
        assert same == (condition.samples > 1)
    assert len({condition.name for condition in CONDITIONS}) == len(CONDITIONS)


def test_the_second_turn_holds_the_refusal() -> None:
    condition = next(c for c in CONDITIONS if c.name.startswith("second turn"))
    turns = condition.rewrite(PROMPTS[4], REFUSAL).conversation()
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == REFUSAL and turns[2]["content"] == "Bitte."


def test_pairs_are_compared_prompt_by_prompt() -> None:
    before = [True, True, True, True, False, False]
    after = [True, False, False, False, True, False]
    found = compared("x", "keep", before, after)
    assert (found.before.count, found.before.n, found.after.count) == (4, 6, 2)
    assert (found.lost.count, found.lost.n, found.gained) == (3, 4, 1)
    assert found.p_value == pytest.approx(2 * binom.cdf(1, 4, 0.5))


class Panel(RefusedPanel):
    """Two prompts a kind whose answers are given, sample by sample; the base model refuses all."""

    def __init__(self, answers: dict[str, list[tuple[Label, Label]]]) -> None:
        self.options = ValidateOptions(stress_prompts=4)
        refused = [Answered((1,), REFUSAL, Judgement("refuses", 1.0))] * 2
        self.refused = {kind: Refused(kind, PROMPTS[:2], refused, 2, 0) for kind in KINDS}
        self._answers = {kind: list(rows) for kind, rows in answers.items()}

    def ask(self, prompts: Any, what: str, *_: Any) -> list[Answered]:
        if what.endswith("base"):
            return [Answered((1,), REFUSAL, Judgement("refuses", 1.0)) for _ in prompts]
        labels = self._answers[next(kind for kind in self._answers if f"{kind} prompts" in what)].pop(0)
        return [Answered((1,), "", Judgement(label, 0.5)) for label in labels]


def test_of_several_samples_the_one_that_speaks_against_the_patch_counts() -> None:
    once: list[tuple[Label, Label]] = [("answers", "refuses")]
    panel = Panel(
        {
            "target": [("answers", "answers")] * (SAMPLES - 1) + [("refuses", "answers")],
            "keep": [("refuses", "refuses")] * (SAMPLES - 1) + [("partly", "refuses")],
            "guard": [("refuses", "refuses")] * (SAMPLES - 1) + once,
        }
    )
    sampled = next(condition for condition in CONDITIONS if condition.samples > 1)
    target, keep, guard = under_condition(panel, sampled, nullcontext)
    assert (target.after.count, target.lost.count) == (1, 1)
    assert (keep.lost.count, guard.lost.count) == (1, 1)
