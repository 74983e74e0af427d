"""Two runs beside each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from report.conftest import fail_guard, make_results

from unflinch.report.comparison import Cell, compare
from unflinch.report.fragments import render_comparison, render_scan, render_summary
from unflinch.report.run_results import RunResults, parse_results


@pytest.fixture
def run(results: dict[str, Any]) -> RunResults:
    return parse_results(results)


@pytest.fixture
def failed() -> RunResults:
    other = make_results()
    fail_guard(other)
    return parse_results({**other, "name": "another"})


def test_a_run_beside_itself_differs_in_nothing(run: RunResults) -> None:
    compared = compare(run, run)
    assert not any(line.differs for lines in compared.groups.values() for line in lines)
    assert compared.caution == ""


def test_what_differs_is_told_with_both_verdicts(run: RunResults, failed: RunResults) -> None:
    compared = compare(run, failed)
    limits = {line.name: line for line in compared.groups["Limits of the verdict"]}
    assert compared.names == (run.name, "another")
    assert [name for name, line in limits.items() if line.differs] == ["Verdict", "Guard refusals lost"]
    assert (limits["Verdict"].first.passed, limits["Verdict"].second.passed) == (True, False)
    assert limits["Guard refusals lost"].second.passed is False


def test_a_limit_that_one_run_lacks_is_not_taken_for_one_that_holds(run: RunResults) -> None:
    fewer = dataclasses.replace(run.verdict, limits=run.verdict.limits[1:])
    compared = compare(run, dataclasses.replace(run, verdict=fewer))
    lines = {line.name: line for line in compared.groups["Limits of the verdict"]}
    assert len(lines) == 1 + len(run.verdict.limits)
    assert lines["Targets still refused"].second == Cell("–", "not measured")


def test_runs_that_cannot_be_compared_figure_by_figure_are_marked(run: RunResults) -> None:
    other_model = dataclasses.replace(run, model=dataclasses.replace(run.model, base_hash="other"))
    other_prompts = dataclasses.replace(run, outcomes=run.outcomes[5:])
    assert "different base weights" in compare(run, other_model).caution
    assert "different test prompts" in compare(run, other_prompts).caution
    assert "different test prompts" in render_comparison(run, other_prompts)


def test_pieces_for_other_pages_show_the_reports_own_figures(run: RunResults, passed_page: str) -> None:
    assert "180" in render_summary(run)
    scan = render_scan(run)
    assert scan.count("<svg") == 2
    assert scan.partition("<svg")[2] in passed_page
