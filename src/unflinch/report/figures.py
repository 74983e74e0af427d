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
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from unflinch.report.run_results import ScanFacts
from unflinch.report.wording import title
from unflinch.results import GroupRate, LayerSeparation, Rate

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


def axes_at(figure: Figure, left: int, top: int, width: int, height: int) -> Axes:
    """Return axes at a place given in pixels from the top left corner."""
    full_width, full_height = figure.get_size_inches() * 72
    bottom = full_height - top - height
    return figure.add_axes((left / full_width, bottom / full_height, width / full_width, height / full_height))


def shortened(text: str, length: int) -> str:
    """Return a text of at most `length` characters, cut with an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def interval_dot(axes: Axes, value: float, low: float, high: float, row: float, colour: str) -> None:
    """Draw a value in its row as a dot on the line of its interval."""
    axes.plot([low, high], [row, row], color=colour, linewidth=2, alpha=0.55)
    axes.plot([value], [row], "o", color=colour, markersize=9, markeredgecolor=PAGE, markeredgewidth=1.5)


def _rate_dot(axes: Axes, rate: Rate, row: float, colour: str) -> None:
    interval_dot(axes, rate.value, rate.interval.low, rate.interval.high, row, colour)


def name_rows(axes: Axes, names: Sequence[str], wide: bool) -> None:
    """Write the name of every row at the left, from the top, and part the rows with thin lines."""
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [shortened(name, 32 if wide else 20) for name in names])
    axes.tick_params(axis="y", labelcolor=INK, pad=8)
    axes.tick_params(length=0)
    axes.grid(axis="x")
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color=GRID, linewidth=0.6)
    axes.spines[["left", "bottom"]].set_visible(False)


def count_row(axes: Axes, counts: str, row: float, right: int) -> None:
    """Write counts at the right end of a row, in a margin of `right` pixels."""
    place = ("axes fraction", "data")
    axes.annotate(counts, (1, row), (right - 4, 0), place, "offset points", ha="right", va="center", color=MUTED)


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
        axes = axes_at(figure, left, 6, width - left - right, height)
        for row, group in enumerate(groups):
            _rate_dot(axes, group.before, row - 0.16, BEFORE)
            _rate_dot(axes, group.after, row + 0.16, AFTER)
            if wide:
                count_row(axes, f"{group.before.count} → {group.after.count} of {group.after.n}", row, right)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1] if wide else [0, 0.5, 1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        name_rows(axes, [label(group.group) for group in groups], wide)

    return themed_svg(name, description, (width, height + 32), draw)


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
        axes = axes_at(figure, 44, 34, width - 58, 250)
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
