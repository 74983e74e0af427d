"""What the run folder keeps of the baseline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unflinch.data.prompts import Prompt
from unflinch.data.splits import FitPrompts, SelectPrompts
from unflinch.errors import RunFolderError
from unflinch.steps.baseline import Asked, Baseline, BaselineSet, from_json, to_json

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


@pytest.mark.parametrize("changed", ["targets", "keep", "ordinary"])
def test_prompts_that_have_changed_since_are_told_in_one_sentence(changed: str) -> None:
    fewer = replace(FIT, **{changed: getattr(FIT, changed)[:-1]})
    with pytest.raises(RunFolderError, match="the prompts have changed since this run was started"):
        from_json(to_json(baseline()), fewer, SELECT)
