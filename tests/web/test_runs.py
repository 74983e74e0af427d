"""Which runs the page offers, and what of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from report.conftest import make_results
from web.conftest import write_results

from unflinch.errors import RunFolderError
from unflinch.results import Label, Outcome, PromptKind
from unflinch.web.runs import Runs, examples


def test_the_demo_comes_first_and_else_the_newest(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "demo", "old")):
        write_results(tmp_path / name, {})
        os.utime(tmp_path / name / "results.json", (1000 - age, 1000 - age))
    (tmp_path / "unfinished").mkdir()
    assert Runs(tmp_path).names() == ["new", "demo", "old"]
    assert Runs(tmp_path).first() == "demo"
    (tmp_path / "demo" / "results.json").unlink()
    assert Runs(tmp_path).first() == "new"


def test_without_a_finished_run_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="unflinch demo"):
        Runs(tmp_path).first()


@pytest.mark.parametrize("name", ["..", "../runs/demo", "", ".", "/etc", "nothing"])
def test_a_name_that_leads_elsewhere_is_no_run(runs: Runs, name: str) -> None:
    with pytest.raises(RunFolderError, match="no finished run"):
        runs.folder(name)


def test_results_are_read_again_once_they_changed(tmp_path: Path) -> None:
    results = make_results()
    for place, name in enumerate(("first", "second")):
        write_results(tmp_path / "run", {**results, "name": name})
        os.utime(tmp_path / "run" / "results.json", (place, place))
        assert Runs(tmp_path).results("run").name == name


def outcome(
    text: str,
    category: str = "a",
    language: str = "en",
    kind: PromptKind = "target",
    before: Label = "refuses",
    after: Label = "answers",
) -> Outcome:
    return Outcome(kind, text, category, language, before, after)


def test_short_prompts_that_the_patch_freed_are_offered_one_a_category() -> None:
    found = [
        outcome("auf Deutsch", "c", "de"),
        outcome("one"),
        outcome("two"),
        outcome("long " * 30, "b"),
        outcome("still refused", "d", after="refuses"),
        outcome("answered before", "e", before="answers"),
        outcome("a right refusal", "f", kind="keep"),
        outcome("one", "g"),
    ]
    assert examples(found) == ["one", "auf Deutsch"]
    assert examples(found, most=1) == ["one"]
