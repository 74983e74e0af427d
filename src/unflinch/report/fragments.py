"""Pieces of a page about one run or two, as HTML in the style of the report; other pages show them too."""

from __future__ import annotations

from typing import Any

from unflinch.report import wording
from unflinch.report.comparison import compare
from unflinch.report.figures import layer_figure, method_colours
from unflinch.report.run_results import RunResults
from unflinch.report.templating import Figure, both_widths, environment


def render_summary(run: RunResults) -> str:
    """Return the verdict and the four figures that matter most."""
    return environment().get_template("summary.html.j2").render(run=run, wording=wording)


def render_scan(run: RunResults) -> str:
    """Return the map of the scan: how well each layer tells false refusals from right ones."""
    return environment().get_template("scan.html.j2").render(run=run, **scan_context(run))


def render_comparison(first: RunResults, second: RunResults) -> str:
    """Return the figures and the verdicts of two runs beside each other."""
    return environment().get_template("comparison.html.j2").render(comparison=compare(first, second))


def scan_context(run: RunResults) -> dict[str, Any]:
    """Return what the template of the scan shows beside the run."""
    return {"layer_figure": _layer_figure(run), "method_colours": method_colours(run.scan.separations)}


def _layer_figure(run: RunResults) -> Figure | None:
    scan = run.scan
    if not scan.separations:
        return None
    description = f"AUROC by layer for each method; {scan.method} at layer {scan.best_layer} was chosen."
    return both_widths(lambda width: layer_figure(f"layers-{width}", description, scan, width))
