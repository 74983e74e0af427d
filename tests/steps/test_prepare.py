"""Limits of a run: breadth first, what models often refuse first, and in `fit` targets with their harmful twins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unflinch.data.prompts import bundled, guard_prompts
from unflinch.data.splits import KINDS
from unflinch.options import PromptOptions
from unflinch.steps.prepare import load_splits

LIMITS = {
    f"max_{kind}_{part}": most
    for kind, most in (("targets", 60), ("keep", 70), ("ordinary", 20))
    for part in ("fit", "select", "test")
}


def test_limited_splits_hold_what_models_often_refuse_from_many_categories() -> None:
    splits = load_splits(PromptOptions(**LIMITS))
    for part in (splits.fit, splits.select, splits.test):
        assert (len(part.targets), len(part.keep), len(part.ordinary)) == (60, 70, 20)
        assert all(prompt.often_refused for prompt in (*part.targets, *part.keep))
        assert len({prompt.category for prompt in part.targets}) >= 25
        assert len({prompt.category for prompt in part.keep}) >= 15


def test_a_third_of_the_ordinary_fit_prompts_is_typical_and_comes_first_the_others_are_nearly_refused() -> None:
    limits = {**LIMITS, "max_ordinary_fit": 90}
    found = load_splits(PromptOptions(**limits)).fit.ordinary
    free = load_splits(PromptOptions(**{**limits, "max_ordinary_fit": 20_000})).fit.ordinary
    assert len({p.key for p in found}) == 90
    share = sum(p.often_refused for p in free) / len(free)
    assert sum(p.often_refused for p in found[:30]) / 30 == pytest.approx(share, abs=0.2)
    assert all(p.often_refused for p in found[30:])
    assert sum(p.language != "en" for p in found[30:60]) == 30


def test_in_fit_every_target_comes_with_its_harmful_twin_and_elsewhere_twins_do_not_count() -> None:
    splits = load_splits(PromptOptions(**LIMITS))

    def with_twin(part: str) -> int:
        sets = getattr(splits, part)
        return len({p.text for p in sets.targets} & {p.contrast_of for p in sets.keep})

    assert with_twin("fit") == 60
    assert with_twin("select") < 30
    assert with_twin("test") < 30


def test_without_the_wide_part_the_same_split_holds_what_is_left() -> None:
    everything = {f"max_{kind}_{part}": 20_000 for kind in ("targets", "keep") for part in ("fit", "select", "test")}
    wide, narrow = (load_splits(PromptOptions(**everything, wide=flag)) for flag in (True, False))
    for part in ("fit", "select", "test"):
        for kind in ("targets", "keep"):
            found = set(getattr(getattr(narrow, part), kind))
            assert found == {prompt for prompt in getattr(getattr(wide, part), kind) if not prompt.wide}
            assert 0 < len(found) < len(getattr(getattr(wide, part), kind)) / 2


def test_the_first_guard_prompts_are_of_all_categories_and_languages() -> None:
    splits = load_splits(PromptOptions(**LIMITS))
    for part in (splits.fit, splits.select, splits.test):
        first = part.guard[:40]
        assert {p.category for p in first} == {p.category for p in part.guard}
        assert {p.language for p in first} == {p.language for p in part.guard}


def test_a_guard_prompt_in_a_keep_file_is_not_fitted_on_as_a_keep(tmp_path: Path) -> None:
    file = tmp_path / "keep.jsonl"
    texts = [p.text for p in (*guard_prompts(), *bundled("keep")[:400])]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    splits = load_splits(PromptOptions(**LIMITS, keep=str(file)))
    guard = {p.text for p in guard_prompts()}
    for part in (splits.fit, splits.select, splits.test):
        assert part.keep and not guard & {p.text for p in part.keep}


def test_the_guard_is_whole_whatever_the_limits() -> None:
    limited, free = load_splits(PromptOptions(**LIMITS)), load_splits(PromptOptions())
    for part in ("fit", "select", "test"):
        assert getattr(limited, part).guard == getattr(free, part).guard


def test_only_fit_prompts_are_reworded() -> None:
    plain = load_splits(PromptOptions(**LIMITS))
    found = load_splits(PromptOptions(**LIMITS, reworded_share=1.0))
    assert (found.select, found.test) == (plain.select, plain.test)
    for kind in KINDS:
        before, after = getattr(plain.fit, kind), getattr(found.fit, kind)
        assert all(old.text in new.text for old, new in zip(before, after, strict=True))
        assert after != before
