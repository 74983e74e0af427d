"""The figures of the documentation that are drawn from committed results, as inline SVG in the colours of the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from readme_tables import RESULTS

from unflinch.report.figures import AFTER, BEFORE, INK, MUTED, SERIES, axes_at, layer_figure, refusal_figure, themed_svg
from unflinch.report.kl_figures import kl_figure
from unflinch.report.run_results import RunResults, parse_results
from unflinch.report.wording import language

WIDE, NARROW = 680, 340
"""Widths in pixels: of the text column, and of a telephone."""


def kl_of_the_demo(width: int) -> str:
    """Return the histogram of the demo's KL over ordinary test prompts."""
    run = _demo()
    text = (
        "Histograms of KL over ordinary test prompts of the demo, first token and along the answer, logarithmic axis."
    )
    return kl_figure(f"kl-{width}", text, run.kl, run.directional_ablation, width)


def layers_of_the_demo(width: int) -> str:
    """Return how well false and right refusals can be told apart at every layer of the demo model."""
    text = "AUROC of telling false from right refusals, by layer and method; the patched layers are shaded."
    return layer_figure(f"layers-{width}", text, _demo().scan, width)


def languages_of_the_demo(width: int) -> str:
    """Return the demo's false refusals before and after by language, with their intervals."""
    groups = _demo().groups["targets_by_language"]
    text = "Share of false refusals by language before and after, with 95 % Wilson intervals."
    return refusal_figure(f"languages-{width}", text, groups, width, language)


def dial(width: int) -> str:
    """Return refusals and KL of one patch along its strength, from the sweep beside other methods."""
    (curve,) = (m["curve"] for m in _results("side_by_side")["methods"] if m["name"] == "unflinch")
    unpatched = {"strength": 0.0, "targets_refused": 1.0, "keep_lost": 0.0, "guard_lost": 0.0, "kl_first_token_mean": 0}
    points = [unpatched, *sorted(curve, key=lambda point: point["strength"])]
    strengths = [point["strength"] for point in points]

    def draw(figure: Figure) -> None:
        shares = axes_at(figure, 46, 10, width - 64, 210)
        names = {
            "targets_refused": "false refusals left",
            "keep_lost": "right refusals lost",
            "guard_lost": "guard lost",
        }
        for (key, name), colour, marker in zip(names.items(), (BEFORE, AFTER, SERIES[3]), "os^", strict=True):
            shares.plot(strengths, [p[key] for p in points], color=colour, marker=marker, markersize=5, label=name)
        shares.set_ylim(-0.03, 1.03)
        shares.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        shares.legend(frameon=False, labelcolor=INK, loc="upper right")
        nats = axes_at(figure, 46, 262, width - 64, 100)
        nats.plot(strengths, [p["kl_first_token_mean"] for p in points], color=SERIES[2], marker="o", markersize=5)
        nats.annotate("first-token KL, nats", (0, 1), (0, 8), "axes fraction", "offset points", color=MUTED)
        nats.set_xlabel("strength")
        nats.set_ylim(bottom=0)
        for axes in (shares, nats):
            _plain(axes)

    text = "Along the strength, false refusals fall, few right ones are lost, and KL grows faster than the strength."
    return themed_svg(f"dial-{width}", text, (width, 410), draw)


FIGURES: dict[str, Callable[[int], str]] = {
    "dial": dial,
    "kl": kl_of_the_demo,
    "languages": languages_of_the_demo,
    "layers": layers_of_the_demo,
}
"""Figures by the name that pages call them."""


def _plain(axes: Axes) -> None:
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=6)
    axes.spines["left"].set_visible(False)


def _demo() -> RunResults:
    return parse_results(_results("demo"))


def _results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found
