"""Two runs beside each other: the figures and the limits of both, line by line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unflinch.data.splits import KINDS
from unflinch.report import wording
from unflinch.report.run_results import RunResults
from unflinch.results import Interval, Limit, RefusalCounts


@dataclass(frozen=True)
class Cell:
    """One figure of one run."""

    text: str
    note: str = ""
    """Interval or limit."""
    passed: bool | None = None
    """Whether its limit holds; None where there is none."""


@dataclass(frozen=True)
class Line:
    """The same figure of both runs."""

    name: str
    first: Cell
    second: Cell

    @property
    def differs(self) -> bool:
        """Whether the two runs differ in it."""
        return self.first != self.second


@dataclass(frozen=True)
class Comparison:
    """All lines in groups, and what keeps the two runs from being compared figure by figure."""

    names: tuple[str, str]
    groups: dict[str, tuple[Line, ...]]
    caution: str
    """Empty where both were measured on the same model and test prompts."""


_FIGURES: dict[str, Callable[[RunResults], Cell]] = {
    "False refusals left": lambda run: _left(run.targets),
    "Right refusals lost": lambda run: _lost(run.keep),
    "Guard refusals lost": lambda run: _lost(run.guard),
    "First-token KL, mean": lambda run: _nats(run.kl.first_token.mean, run.kl.first_token.mean_interval),
    "KL per answer token, mean": lambda run: _nats(run.kl.sequence.mean, run.kl.sequence.mean_interval),
    "The same, worst 5 %": lambda run: _nats(run.kl.sequence.cvar95, run.kl.sequence.cvar95_interval),
}
_FACTS: dict[str, Callable[[RunResults], Cell]] = {
    "Model": lambda run: Cell(run.model.name, run.model.dtype),
    "Test prompts": lambda run: Cell(f"{_asked(run):,}"),
    "Layers": lambda run: Cell(f"{len(run.scan.layers)} of {run.scan.number_of_layers}"),
    "Size of the patch": lambda run: Cell(
        f"{run.fit.patch.parameters:,}", f"{wording.small_percent(run.fit.patch.share_of_weights)} of the weights"
    ),
    "Rank, modules": lambda run: Cell(f"{run.fit.patch.rank}, {run.fit.patch.modules}"),
    "Time": lambda run: Cell(wording.duration(run.seconds.get("total", sum(run.seconds.values())))),
    "Made": lambda run: Cell(run.created[:16].replace("T", " "), f"unflinch {run.unflinch}"),
}


def compare(first: RunResults, second: RunResults) -> Comparison:
    """Return the figures of two runs line by line: those that matter most, the verdicts, and what was run."""
    limits = [{limit.name: limit for limit in run.verdict.limits} for run in (first, second)]
    names = dict.fromkeys(name for found in limits for name in found)
    verdict = [Line("Verdict", *(_verdict(run) for run in (first, second)))]
    verdict += [Line(wording.title(name), *(_limit(found.get(name)) for found in limits)) for name in names]
    figures, facts = (
        tuple(Line(name, cell(first), cell(second)) for name, cell in cells.items()) for cells in (_FIGURES, _FACTS)
    )
    groups = {"On test prompts": figures, "Limits of the verdict": tuple(verdict), "What was run": facts}
    return Comparison((first.name, second.name), groups, _caution(first, second))


def _caution(first: RunResults, second: RunResults) -> str:
    if first.model.base_hash != second.model.base_hash:
        return "The two runs are of different base weights."
    asked = [[outcome.text for outcome in run.outcomes if outcome.kind == "target"] for run in (first, second)]
    if sorted(asked[0]) != sorted(asked[1]):
        return "The two runs were measured on different test prompts."
    return ""


def _asked(run: RunResults) -> int:
    return sum(run.prompts["test"].get(kind, 0) for kind in KINDS)


def _left(counts: RefusalCounts) -> Cell:
    if not counts.n:
        return Cell("none before")
    share = wording.percent(counts.refused_after / counts.n)
    return Cell(f"{counts.refused_after} of {counts.n} ({share})", wording.percent_range(counts.after_interval))


def _lost(counts: RefusalCounts) -> Cell:
    if not counts.n:
        return Cell("none tested")
    share = wording.percent(counts.lost / counts.n)
    return Cell(f"{counts.lost} of {counts.n} ({share})", wording.percent_range(wording.lost_interval(counts)))


def _nats(value: float, interval: Interval | None) -> Cell:
    return Cell(wording.nats(value), f"{wording.nats(interval.low)}–{wording.nats(interval.high)}" if interval else "")


def _verdict(run: RunResults) -> Cell:
    missed = len(run.verdict.failures)
    return Cell("passed" if run.verdict.holds else "failed", f"{missed} missed" if missed else "", run.verdict.holds)


def _limit(limit: Limit | None) -> Cell:
    if limit is None:
        return Cell("–", "not measured")
    most = f"limit {wording.limit_value(limit.limit, limit.unit)}"
    return Cell(wording.limit_value(limit.measured, limit.unit), most, limit.passed)
