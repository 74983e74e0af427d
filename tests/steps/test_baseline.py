"""What the run folder keeps of the baseline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unflinch.data.prompts import Prompt
from unflinch.data.splits import FitPrompts, SelectPrompts
from unflinch.errors import PromptSetError, RunFolderError
from unflinch.steps.baseline import MIN_TARGETS, Asked, Baseline, BaselineSet, check_baseline, from_json, to_json

TARGETS, KEEP, GUARD, ORDINARY = (
    tuple(Prompt(f"{kind} {place}") for place in range(3)) for kind in ("target", "keep", "guard", "ordinary")
)
FIT, SELECT = FitPrompts(TARGETS, KEEP, GUARD, ORDINARY), SelectPrompts(TARGETS, KEEP, GUARD, ORDINARY)


def asked(prompts: tuple[Prompt, ...]) -> tuple[Asked, ...]:
    return tuple(Asked(prompt, "refuses", (1, place)) for place, prompt in enumerate(prompts))


def baseline() -> Baseline:
    some = BaselineSet(
        asked(TARGETS[:2]), asked(KEEP[:1]), asked(GUARD), asked(ORDINARY[:2]), TARGETS[2:], KEEP[1:], ORDINARY[2:]
    )
    return Baseline(some, BaselineSet(asked(TARGETS), asked(KEEP), asked(GUARD), asked(ORDINARY)), 0.001)


def test_a_stored_baseline_is_read_back_as_it_was() -> None:
    assert from_json(to_json(baseline()), FIT, SELECT) == baseline()


def test_counts_tell_what_was_asked_refused_and_left_to_the_fit() -> None:
    counts = baseline().fit.counts()
    assert (counts["targets"], counts["targets_refused"], counts["targets_unasked"]) == (2, 2, 1)
    assert (counts["keep_unasked"], counts["ordinary_unasked"]) == (2, 1)


@pytest.mark.parametrize("part", ["fit", "select"])
def test_a_model_that_answers_no_ordinary_prompt_is_told_so_at_once(part: str) -> None:
    targets = tuple(Asked(Prompt(f"t {n}"), "refuses", (1,)) for n in range(MIN_TARGETS))
    answered = tuple(Asked(prompt, "answers", (1,)) for prompt in ORDINARY)
    whole = BaselineSet(targets, asked(KEEP), asked(GUARD), answered)
    check_baseline(Baseline(whole, whole, 0.0), "tiny")
    without = replace(whole, ordinary=asked(ORDINARY))
    with pytest.raises(PromptSetError, match=f"answers none of the 3 ordinary prompts in '{part}'.*--ordinary"):
        check_baseline(replace(Baseline(whole, whole, 0.0), **{part: without}), "tiny")


@pytest.mark.parametrize("changed", ["targets", "keep", "ordinary"])
def test_prompts_that_have_changed_since_are_told_in_one_sentence(changed: str) -> None:
    fewer = replace(FIT, **{changed: getattr(FIT, changed)[:-1]})
    with pytest.raises(RunFolderError, match="the prompts have changed since this run was started"):
        from_json(to_json(baseline()), fewer, SELECT)
