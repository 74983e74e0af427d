"""The figures of the report that show KL: its distribution, and where it sits. Drawn as in `figures.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unflinch.report.figures import (
    AFTER,
    BEFORE,
    INK,
    MUTED,
    PAGE,
    axes_at,
    count_row,
    interval_dot,
    name_rows,
    themed_svg,
)
from unflinch.report.wording import power_of_ten, title
from unflinch.results import KLDistribution, KLGroup, KLPosition, KLReport, Yardstick

PANEL_HEIGHT = 130
"""Height of one histogram in pixels."""
_SMALLEST_KL = 1e-8
_ROW_HEIGHT = 30


def _tick(value: float, _: object = None) -> str:
    """Return a tick of a KL axis: plain from 0.001 up, a power of ten below."""
    if value >= 0.0009:
        return f"{value:g}"
    return "10" + power_of_ten(value).split("10", 1)[1]


def label_rows(places: Sequence[float], widths: Sequence[float]) -> list[int]:
    """Return for each label the row to write it in, counted from the bottom, so that nothing crosses.

    Every label starts at its line and runs to the right; a line ends at its own label's row. A label that reaches
    over other lines is therefore written above all of their labels.

    Args:
        places: x of each line in pixels, ascending.
        widths: width of each label in pixels.
    """
    rows = [0] * len(places)
    for index in reversed(range(len(places))):
        end = places[index] + widths[index]
        covered = [rows[other] for other in range(index + 1, len(places)) if places[other] <= end]
        rows[index] = max(covered) + 1 if covered else 0
    return rows


@dataclass(frozen=True)
class Mark:
    """A labelled vertical line."""

    place: float
    label: str
    colour: str
    line: str


def _marks(distribution: KLDistribution, noise_floor: float, ablation: float) -> list[Mark]:
    """Return the lines of one KL panel, ascending; what a logarithmic axis cannot hold is left out."""
    marks = [
        Mark(noise_floor, "noise floor", MUTED, ":"),
        Mark(distribution.mean, "mean", INK, "-"),
        Mark(distribution.p95, "p95", INK, "--"),
        Mark(distribution.p99, "p99", INK, "--"),
        Mark(distribution.cvar95, "CVaR95", INK, "-."),
        Mark(ablation, "ablation", BEFORE, "-"),
    ]
    drawable = [mark for mark in marks if math.isfinite(mark.place) and mark.place > _SMALLEST_KL]
    return sorted(drawable, key=lambda mark: mark.place)


def _label_heights(marks: Sequence[Mark], low: float, scale: float) -> list[int]:
    """Return in pixels above the axes where each label stands; `scale` is pixels for a factor of ten."""
    places = [math.log10(mark.place / low) * scale for mark in marks]
    rows = label_rows(places, [7.2 * len(mark.label) + 14 for mark in marks])
    return [12 + 18 * row for row in rows]


def _kl_panel(axes: Axes, values: Sequence[float], edges: list[float], marks: Sequence[Mark], tops: list[int]) -> None:
    """Draw one histogram with its marked lines; the labels stand above the axes."""
    drawn = np.clip(np.asarray(values, dtype=float), edges[0], edges[-1])
    axes.hist(drawn, bins=edges, color=AFTER, alpha=0.75, edgecolor=PAGE, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    data_and_share = axes.get_xaxis_transform()
    for mark, top in zip(marks, tops, strict=True):
        text_at = 1 + top / PANEL_HEIGHT
        axes.plot(
            [mark.place, mark.place],
            [0, text_at + 6 / PANEL_HEIGHT],
            transform=data_and_share,
            clip_on=False,
            color=mark.colour,
            linestyle=mark.line,
            linewidth=1.4,
        )
        axes.annotate(
            mark.label,
            (mark.place, text_at),
            (5, 0),
            data_and_share,
            "offset points",
            color=mark.colour,
            va="center",
            fontsize=12,
        )
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(LogLocator(numticks=12 if len(edges) > 30 else 6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.tick_params(length=0, pad=7)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def kl_figure(name: str, description: str, kl: KLReport, ablation: Yardstick, width: int) -> str:
    """Return the histograms of first-token and sequence KL on one logarithmic axis, with their statistics marked.

    Values of zero, and rounding below 1e-8, are drawn in the lowest bin.
    """
    panels = (
        ("First token", kl.first_token_values, _marks(kl.first_token, kl.noise_floor, ablation.kl_first_token_mean)),
        ("Sequence, per token", kl.sequence_values, _marks(kl.sequence, kl.noise_floor, ablation.kl_sequence_mean)),
    )
    places = [value for _, values, marks in panels for value in (*values, *(mark.place for mark in marks))]
    positive = [value for value in places if math.isfinite(value) and value > _SMALLEST_KL] or [_SMALLEST_KL]
    low, high = min(positive) / 1.5, max(max(positive), 10 * min(positive)) * 2
    left, right = (48, 60) if width >= 600 else (34, 52)
    plot_width = width - left - right
    scale = plot_width / math.log10(high / low)
    tops = [_label_heights(marks, low, scale) for _, _, marks in panels]
    above = [40 + max(heights, default=0) for heights in tops]
    below = 30

    def draw(figure: Figure) -> None:
        top = 0
        for (heading, values, marks), heights, room in zip(panels, tops, above, strict=True):
            axes = axes_at(figure, left, top + room, plot_width, PANEL_HEIGHT)
            edges = [float(edge) for edge in np.geomspace(low, high, 49 if width >= 600 else 29)]
            _kl_panel(axes, values, edges, marks, heights)
            axes.annotate(
                heading,
                (0, 1),
                (-left + 1, room - 12),
                "axes fraction",
                "offset points",
                fontsize=13.5,
                fontweight="bold",
                va="center",
            )
            top += room + PANEL_HEIGHT + below
        axes.set_xlabel("KL(base || patched) in nats; height: number of prompts", labelpad=8)

    return themed_svg(name, description, (width, sum(above) + 2 * (PANEL_HEIGHT + below) + 20), draw)


def _drawable(values: Sequence[float]) -> list[float]:
    """Return values that a logarithmic axis can hold."""
    return [max(value, _SMALLEST_KL) if math.isfinite(value) else _SMALLEST_KL for value in values]


def _nats_ticks(axis: Axis, most: int) -> None:
    """Label a logarithmic axis at about `most` places, at 1, 2 and 5 where it spans few powers of ten."""
    low, high = sorted(axis.get_view_interval())
    subs = (1.0, 2.0, 5.0) if math.log10(high / low) * 3 <= most else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=most))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick))


def kl_group_figure(
    name: str, description: str, groups: Sequence[KLGroup], width: int, label: Callable[[str], str] = title
) -> str:
    """Return mean sequence KL of every group with its interval, and the mean of its worst 5 %, on a logarithmic axis.

    Args:
        name: prefix of the identifiers.
        description: read aloud instead of the picture.
        groups: one row each, drawn in this order from the top.
        width: in pixels; a narrow figure leaves the counts at the right out.
        label: turns a group's identifier into words.
    """
    wide = width >= 600
    left, right = (226, 96) if wide else (152, 26)
    height = _ROW_HEIGHT * len(groups)

    def draw(figure: Figure) -> None:
        axes = axes_at(figure, left, 6, width - left - right, height)
        for row, group in enumerate(groups):
            found = group.sequence
            mean, low, high, worst = _drawable(
                [found.mean, found.mean_interval.low, found.mean_interval.high, found.cvar95]
            )
            interval_dot(axes, mean, low, high, row, AFTER)
            axes.plot([worst], [row], "D", markerfacecolor="none", markeredgecolor=INK, markersize=6)
            if wide:
                count_row(axes, f"n = {found.n}", row, right)
        axes.set_xscale("log")
        _nats_ticks(axes.xaxis, 10 if wide else 4)
        axes.set_xlabel("Nats per token", labelpad=6)
        name_rows(axes, [label(group.group) for group in groups], wide)

    return themed_svg(name, description, (width, height + 58), draw)


def kl_position_figure(name: str, description: str, positions: Sequence[KLPosition], width: int) -> str:
    """Return KL token by token of the answers: mean with its interval, and the 95th percentile, logarithmic."""
    left, right, height = (58, 20, 220) if width >= 600 else (50, 12, 200)
    places = [position.position for position in positions]
    lines = {
        "low": [position.kl.mean_interval.low for position in positions],
        "mean": [position.kl.mean for position in positions],
        "high": [position.kl.mean_interval.high for position in positions],
        "p95": [position.kl.p95 for position in positions],
    }
    drawn = {line: _drawable(values) for line, values in lines.items()}

    def draw(figure: Figure) -> None:
        axes = axes_at(figure, left, 10, width - left - right, height)
        axes.fill_between(places, drawn["low"], drawn["high"], color=AFTER, alpha=0.2, linewidth=0)
        axes.plot(places, drawn["mean"], color=AFTER, linewidth=2, marker="o", markersize=4)
        axes.plot(places, drawn["p95"], color=MUTED, linewidth=1.4, linestyle="--")
        axes.set_yscale("log")
        _nats_ticks(axes.yaxis, 6)
        axes.xaxis.set_major_locator(MaxNLocator(12 if width >= 600 else 6, integer=True))
        axes.set_xlim(0.4, max(places) + 0.6)
        axes.tick_params(length=0, pad=6)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("Token of the answer", labelpad=6)

    return themed_svg(name, description, (width, height + 58), draw)
