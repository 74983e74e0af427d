"""The figures of the report, as inline SVG whose colours are the page's own CSS variables.

Matplotlib draws with stand-in colours; `themed_svg` replaces each of them by `var(--name)`, so that one drawing is
right in the light and in the dark theme. Lengths are CSS pixels: one SVG unit is one pixel at full width.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unflinch.report.run_results import ScanFacts
from unflinch.report.wording import power_of_ten, title
from unflinch.results import GroupRate, KLDistribution, KLReport, LayerSeparation, Rate, Yardstick

INK, MUTED, GRID, BEFORE, AFTER, PAGE = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f", "#101112"
SERIES = ("#131415", "#161718", "#191a1b", "#1c1d1e", "#1f2021")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    BEFORE: "before",
    AFTER: "after",
    PAGE: "page",
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES, start=1)},
}
_MARKERS = ("o", "s", "^", "D", "v")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unflinch",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 12.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
}
_SMALLEST_KL = 1e-8
PANEL_HEIGHT = 130
"""Height of one histogram in pixels."""


def themed_svg(name: str, description: str, size: tuple[int, int], draw: Callable[[Figure], None]) -> str:
    """Return a drawing as inline SVG in the colours of the page.

    Args:
        name: prefix that keeps the identifiers of several figures on one page apart.
        description: read aloud instead of the picture.
        size: width and height in CSS pixels.
        draw: draws on the empty figure; one point is one pixel.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    opening = (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(description)}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    svg = re.sub(r"^<svg[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.strip()


def _axes(figure: Figure, left: int, top: int, width: int, height: int) -> Axes:
    """Return axes at a place given in pixels from the top left corner."""
    full_width, full_height = figure.get_size_inches() * 72
    bottom = full_height - top - height
    return figure.add_axes((left / full_width, bottom / full_height, width / full_width, height / full_height))


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _interval_dot(axes: Axes, rate: Rate, row: float, colour: str) -> None:
    axes.plot([rate.interval.low, rate.interval.high], [row, row], color=colour, linewidth=2, alpha=0.55)
    axes.plot([rate.value], [row], "o", color=colour, markersize=9, markeredgecolor=PAGE, markeredgewidth=1.5)


def refusal_figure(
    name: str, description: str, groups: Sequence[GroupRate], width: int, label: Callable[[str], str] = title
) -> str:
    """Return refused shares before and after for each group, as paired dots with Wilson intervals.

    Args:
        name: prefix of the identifiers.
        description: read aloud instead of the picture.
        groups: one row each, drawn in this order from the top.
        width: in pixels; a narrow figure leaves the counts at the right out.
        label: turns a group's identifier into words.
    """
    wide = width >= 600
    left, right, row_height = (226, 136, 30) if wide else (152, 26, 30)
    height = row_height * len(groups)

    def draw(figure: Figure) -> None:
        axes = _axes(figure, left, 6, width - left - right, height)
        for row, group in enumerate(groups):
            _interval_dot(axes, group.before, row - 0.16, BEFORE)
            _interval_dot(axes, group.after, row + 0.16, AFTER)
            if wide:
                counts = f"{group.before.count} → {group.after.count} of {group.after.n}"
                axes.annotate(
                    counts,
                    (1, row),
                    (right - 4, 0),
                    ("axes fraction", "data"),
                    "offset points",
                    ha="right",
                    va="center",
                    color=MUTED,
                )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1] if wide else [0, 0.5, 1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.set_yticks(range(len(groups)), [_shortened(label(group.group), 32 if wide else 20) for group in groups])
        axes.tick_params(axis="y", labelcolor=INK, pad=8)
        axes.tick_params(length=0)
        axes.grid(axis="x")
        for row in range(1, len(groups)):
            axes.axhline(row - 0.5, color=GRID, linewidth=0.6)
        axes.spines[["left", "bottom"]].set_visible(False)

    return themed_svg(name, description, (width, height + 32), draw)


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
            axes = _axes(figure, left, top + room, plot_width, PANEL_HEIGHT)
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


def method_colours(separations: Sequence[LayerSeparation]) -> dict[str, str]:
    """Return the CSS variable that each method is drawn in, in order of appearance."""
    methods = dict.fromkeys(separation.method for separation in separations)
    return {method: f"series-{number % len(SERIES) + 1}" for number, method in enumerate(methods)}


def layer_figure(name: str, description: str, scan: ScanFacts, width: int) -> str:
    """Return held-out AUROC by layer for each method, with the patched layers shaded and the best one ringed.

    Where a method was tried at several ranks, its best rank at each layer is drawn.
    """
    curves: dict[str, dict[int, float]] = {method: {} for method in method_colours(scan.separations)}
    for found in scan.separations:
        curve = curves[found.method]
        curve[found.layer] = max(found.auroc, curve.get(found.layer, 0.0))

    def draw(figure: Figure) -> None:
        axes = _axes(figure, 44, 34, width - 58, 250)
        for first, last in _runs(scan.layers):
            axes.axvspan(first - 0.5, last + 0.5, color=AFTER, alpha=0.13, linewidth=0)
        for number, (method, curve) in enumerate(curves.items()):
            points = sorted(curve.items())
            weight, size = (2.4, 5) if method == scan.method else (1.4, 4)
            axes.plot(
                [layer for layer, _ in points],
                [auroc for _, auroc in points],
                linewidth=weight,
                markersize=size,
                color=SERIES[number % len(SERIES)],
                marker=_MARKERS[number % len(_MARKERS)],
            )
        axes.set_xlim(-0.7, scan.number_of_layers - 0.3)
        best = curves.get(scan.method, {}).get(scan.best_layer)
        if best is not None:
            axes.plot(
                [scan.best_layer],
                [best],
                "o",
                markersize=14,
                markerfacecolor="none",
                markeredgecolor=INK,
                markeredgewidth=1.6,
            )
            side = "left" if scan.best_layer < 0.2 * scan.number_of_layers else "center"
            side = "right" if scan.best_layer > 0.8 * scan.number_of_layers else side
            axes.annotate(
                f"best: layer {scan.best_layer}, {best:.3f}",
                (scan.best_layer, 1),
                (0, 16),
                axes.get_xaxis_transform(),
                "offset points",
                ha=side,
                va="center",
            )
        lowest = min(found.auroc for found in scan.separations)
        axes.set_ylim(math.floor(20 * min(lowest, 0.9)) / 20, 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(12 if width >= 600 else 6, integer=True))
        axes.tick_params(length=0, pad=6)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("Layer", labelpad=6)

    return themed_svg(name, description, (width, 332), draw)


def _runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last of every run of neighbouring layers: 3, 4, 5, 9 -> (3, 5), (9, 9)."""
    runs: list[tuple[int, int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], layer)
        else:
            runs.append((layer, layer))
    return runs
