"""Panels of test prompts: what is read further than a glance, and whose loss in a number format excuses whose."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from unflinch.data.prompts import Prompt
from unflinch.options import ValidateOptions
from unflinch.results import Judgement, Label, Outcome
from unflinch.steps.forms import lost_by_format
from unflinch.steps.held_out_panel import GLANCE, KINDS, HeldOutPanel, Refused
from unflinch.validate.refusal_rate import Answered

MODES = (Prompt("a", thinking=False), Prompt("a", thinking=True))
"""One guard prompt, asked in both modes of thinking."""


def answered(label: Label, tokens: int = GLANCE) -> Answered:
    return Answered((1,) * tokens, "", Judgement(label, 0.5))


class Panel(HeldOutPanel):
    """A panel whose answers are given: at a glance and whole."""

    def __init__(self, glance: dict[str, Label], whole: dict[str, Label], prompts: tuple[Prompt, ...] = MODES) -> None:
        self.options = ValidateOptions(answer_tokens=GLANCE + 12)
        both = [answered("refuses") for _ in prompts]
        self.refused = {kind: Refused(kind, list(prompts), both, len(prompts), 0) for kind in KINDS}
        self._labels = {GLANCE: glance, GLANCE + 12: whole}
        self.asked: list[tuple[str, int]] = []

    def ask(self, prompts: Any, what: str, tokens: int, *_: Any) -> list[Answered]:
        self.asked += [(str(p.thinking), tokens) for p in prompts]
        return [answered(self._labels[tokens][str(p.thinking)], tokens) for p in prompts]


@pytest.mark.parametrize(("lost_in_the_format", "excused"), [("False", 0), ("True", 1)])
def test_a_guard_prompt_lost_in_one_mode_is_not_excused_by_what_the_format_loses_in_the_other(
    lost_in_the_format: str, excused: int
) -> None:
    base_in_format: dict[str, Label] = {"False": "refuses", "True": "refuses", lost_in_the_format: "answers"}
    panel = Panel({}, base_in_format)
    outcomes = tuple(
        Outcome("guard", "a", "c", "en", "refuses", after, "", "", thinking=thinking)
        for thinking, after in ((False, "refuses"), (True, "partly"))
    )
    assert lost_by_format(panel, outcomes, nullcontext) == excused
    assert panel.asked == [("True", GLANCE + 12)]  # the one that was lost


def test_an_answer_that_is_no_plain_one_at_a_glance_is_read_whole_with_and_without_a_change() -> None:
    glance: dict[str, Label] = {"False": "answers", "True": "evades"}
    panel = Panel(glance, {"True": "refuses"})
    found = panel.after(nullcontext, "changed", glance=True)
    for kind in KINDS:
        assert [a.judgement.label for a in found[kind]] == ["answers", "refuses"]
    assert panel.asked == [("False", GLANCE), ("True", GLANCE), ("True", GLANCE + 12)] * len(KINDS)
    assert [a.judgement.label for a in panel.glanced_at(MODES, "base")] == ["answers", "refuses"]
