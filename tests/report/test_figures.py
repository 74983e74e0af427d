"""The figures of the report."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.report.figures import layer_figure, refusal_figure
from unflinch.report.kl_figures import kl_figure, kl_group_figure, kl_position_figure, label_rows
from unflinch.report.run_results import RunResults, parse_results
from unflinch.results import GroupRate, Interval, LayerSeparation, Rate

Drawing = Callable[[RunResults], str]
DRAWINGS: dict[str, Drawing] = {
    "refusals": lambda run: refusal_figure("r", "text", run.groups["targets_by_category"], 976),
    "kl": lambda run: kl_figure("k", "text", run.kl, run.directional_ablation, 976),
    "layers": lambda run: layer_figure("l", "text", run.scan, 976),
    "KL by kind": lambda run: kl_group_figure("g", "text", run.kl.groups["by_kind"], 976),
    "KL by position": lambda run: kl_position_figure("p", "text", run.kl.positions, 976),
    "narrow KL by kind": lambda run: kl_group_figure("g", "text", run.kl.groups["by_kind"], 376),
    "narrow KL by position": lambda run: kl_position_figure("p", "text", run.kl.positions, 376),
    "narrow refusals": lambda run: refusal_figure("r", "text", run.groups["targets_by_category"], 376),
    "narrow kl": lambda run: kl_figure("k", "text", run.kl, run.directional_ablation, 376),
    "narrow layers": lambda run: layer_figure("l", "text", run.scan, 376),
}


@pytest.fixture
def run(results: dict[str, Any]) -> RunResults:
    return parse_results(results)


def group(name: str, before: float, after: float) -> GroupRate:
    rates = [Rate(round(100 * share), 100, Interval(share, share)) for share in (before, after)]
    return GroupRate(name, *rates)


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_every_colour_is_one_of_the_page(draw: Drawing, run: RunResults) -> None:
    svg = draw(run)
    assert "var(--after)" in svg or "var(--series-1)" in svg
    assert re.findall(r"#[0-9a-fA-F]{6}\b", svg) == []


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_is_well_formed_and_described(draw: Drawing, run: RunResults) -> None:
    root = ElementTree.fromstring(draw(run))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "text"
    texts = "".join(root.itertext())
    assert "DejaVu" not in draw(run)
    assert texts.strip()


def test_a_dot_stands_where_its_share_is() -> None:
    svg = refusal_figure("r", "text", [group("a", before=1.0, after=0.0), group("b", before=0.5, after=0.25)], 976)
    places = {
        colour: [
            float(x)
            for x in re.findall(rf'<use xlink:href="#[^"]+" x="([\d.]+)"[^>]*style="fill: var\(--{colour}\)', svg)
        ]
        for colour in ("before", "after")
    }
    (one, half), (zero, quarter) = places["before"], places["after"]
    assert half == pytest.approx((zero + one) / 2, abs=0.01)
    assert quarter == pytest.approx(zero + (one - zero) / 4, abs=0.01)
    assert one - zero > 400


def test_the_counts_stand_beside_the_dots() -> None:
    assert "55 → 2 of 100" in refusal_figure("r", "text", [group("a", 0.55, 0.02)], 976)


@pytest.mark.parametrize("name", ["price in $US and $CA", "化学", "a < b & c", "x" * 200])
def test_any_category_name_can_be_drawn(name: str) -> None:
    svg = refusal_figure("r", "text", [group(name, 0.5, 0.1)], 376)
    texts = "".join(ElementTree.fromstring(svg).itertext())
    assert name[:15].lower() in texts.lower()


def test_values_of_zero_are_drawn_on_the_logarithmic_axis(run: RunResults) -> None:
    zeros = dataclasses.replace(run.kl, first_token_values=(0.0,) * 50, sequence_values=(0.0, -1e-12, 0.2))
    svg = kl_figure("k", "text", zeros, run.directional_ablation, 976)
    assert "nan" not in svg.lower()
    assert "inf" not in svg.lower()


def test_the_marked_statistics_are_named(run: RunResults) -> None:
    svg = kl_figure("k", "text", run.kl, run.directional_ablation, 976)
    for name in ("mean", "p95", "p99", "CVaR95", "noise floor", "ablation"):
        assert svg.count(f">{name}<") == 2


@pytest.mark.parametrize("width", [976, 376])
def test_groups_and_positions_without_any_kl_are_drawn_on_the_logarithmic_axis(run: RunResults, width: int) -> None:
    nothing = dataclasses.replace(run.kl.sequence, mean=0.0, mean_interval=Interval(0.0, 0.0), p95=0.0, cvar95=0.0)
    groups = [dataclasses.replace(group, sequence=nothing) for group in run.kl.groups["by_kind"]]
    positions = [dataclasses.replace(position, kl=nothing) for position in run.kl.positions]
    for svg in (kl_group_figure("g", "text", groups, width), kl_position_figure("p", "text", positions, width)):
        assert "nan" not in svg.lower()
        assert "inf" not in svg.lower()


def test_the_best_layer_is_written_where_it_is(run: RunResults) -> None:
    assert "best: layer 14, 0.972" in layer_figure("l", "text", run.scan, 976)


def test_of_several_ranks_the_best_is_drawn(run: RunResults) -> None:
    separations = tuple(LayerSeparation("whitened", 14, auroc, rank) for rank, auroc in ((1, 0.8), (2, 0.9), (4, 0.7)))
    scan = dataclasses.replace(run.scan, separations=separations)
    assert "best: layer 14, 0.900" in layer_figure("l", "text", scan, 976)


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(20, 120)), min_size=1, max_size=8))
def test_no_line_crosses_the_label_of_another(marks: list[tuple[float, float]]) -> None:
    marks = sorted(marks)
    places, widths = [place for place, _ in marks], [width for _, width in marks]
    rows = label_rows(places, widths)
    for left in range(len(marks)):
        for right in range(left + 1, len(marks)):
            reached = places[right] <= places[left] + widths[left]
            assert not reached or rows[right] < rows[left]
