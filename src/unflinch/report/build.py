"""`report.html`: one self-contained page about one run."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from unflinch.report import wording
from unflinch.report.figures import refusal_figure
from unflinch.report.fragments import scan_context
from unflinch.report.kl_figures import kl_figure, kl_group_figure, kl_position_figure
from unflinch.report.run_results import RunResults, read_results
from unflinch.report.templating import Figure, both_widths, environment
from unflinch.results import LABELS, GroupRate, KLGroup, Label, Outcome, PromptKind
from unflinch.run_folder import REPORT, RunFolder
from unflinch.validation_results import DialogueOutcome

_RIGHT_REFUSALS = {
    "keep_by_category": "Right refusals",
    "keep_by_language": "Right refusals by language",
    "guard_by_category": "Guard",
    "guard_by_language": "Guard by language",
}
MOST_EXAMPLES = 40
WORST_PROMPTS = 10
MOST_DIALOGUES = 10


@dataclass(frozen=True)
class Table:
    """A figure of refusal rates with the numbers that it shows."""

    heading: str
    groups: tuple[GroupRate, ...]
    figure: Figure
    label: Callable[[str], str]


@dataclass(frozen=True)
class KLTable:
    """KL by one way of grouping, as a figure with the numbers that it shows."""

    heading: str
    groups: tuple[KLGroup, ...]
    figure: Figure
    label: Callable[[str], str]


def build_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path; a reader never sees half a page.

    Args:
        run_folder: holds `results.json`.

    Raises:
        RunFolderError: the results are missing or damaged, or the page cannot be written.
    """
    page = render_report(read_results(run_folder))
    target = run_folder / REPORT
    RunFolder(run_folder).write_file(target, lambda file: file.write_text(page, encoding="utf-8"))
    return target


def render_report(run: RunResults) -> str:
    """Return the page about a run as HTML."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            wording=wording,
            false_refusals=_tables(run, {"targets_by_category": "By category", "targets_by_language": "By language"}),
            right_refusals=_tables(run, _RIGHT_REFUSALS),
            label_names=label_names(run.outcomes),
            labels=count_labels(run.outcomes),
            kl_figure=_kl_figure(run),
            kl_tables=_kl_tables(run),
            position_figure=_position_figure(run),
            dialogues=pick_dialogues(run.dialogues.dialogues) if run.dialogues else (),
            **scan_context(run),
            worst=sorted(run.kl.worst, key=lambda prompt: -prompt.first_token)[:WORST_PROMPTS],
            examples=pick_examples(run.outcomes),
            settings=list(flatten(run.settings)),
        )
    )


def _tables(run: RunResults, headings: Mapping[str, str]) -> list[Table]:
    """Return the grouped refusal rates that the run holds, the worst group first: refused targets, lost keeps."""
    tables = []
    for key, heading in headings.items():
        groups = run.groups.get(key, ())
        if not groups:
            continue
        ordered = _worst_first(groups, high_is_bad=key.startswith("targets"))
        label = wording.language if key.endswith("language") else wording.title
        tables.append(Table(heading, ordered, _refusal_figure(key, heading, ordered, label), label))
    return tables


def _worst_first(groups: Sequence[GroupRate], high_is_bad: bool) -> tuple[GroupRate, ...]:
    """Return the groups with the worst share after the patch first, equal ones by name."""
    by_name = sorted(groups, key=lambda group: group.group)
    return tuple(sorted(by_name, key=lambda group: group.after.value, reverse=high_is_bad))


def _refusal_figure(key: str, heading: str, groups: Sequence[GroupRate], label: Callable[[str], str]) -> Figure:
    description = f"{heading}: share of prompts refused before and after, with 95 % Wilson intervals."
    return both_widths(lambda width: refusal_figure(f"{key}-{width}", description, groups, width, label))


def _kl_figure(run: RunResults) -> Figure:
    description = "Histograms of the KL of ordinary test prompts, first token and sequence, on a logarithmic axis."
    return both_widths(lambda width: kl_figure(f"kl-{width}", description, run.kl, run.directional_ablation, width))


def _kl_tables(run: RunResults) -> list[KLTable]:
    """Return sequence KL by kind, category and language, as far as the run holds them, the largest mean first."""
    tables = []
    headings = {"by_kind": "By kind of prompt", "by_category": "By category", "by_language": "By language"}
    for key, heading in headings.items():
        groups = tuple(sorted(run.kl.groups.get(key, ()), key=lambda group: -group.sequence.mean))
        if groups:
            label = wording.language if key == "by_language" else wording.title
            tables.append(KLTable(heading, groups, _kl_group_figure(key, heading, groups, label), label))
    return tables


def _kl_group_figure(key: str, heading: str, groups: Sequence[KLGroup], label: Callable[[str], str]) -> Figure:
    description = f"{heading}: mean sequence KL with 95 % interval, and the mean of the worst 5 %, logarithmic."
    return both_widths(lambda width: kl_group_figure(f"kl-{key}-{width}", description, groups, width, label))


def _position_figure(run: RunResults) -> Figure | None:
    if not run.kl.positions:
        return None
    description = "KL token by token of the answers: mean with 95 % interval, and 95th percentile, logarithmic."
    return both_widths(lambda width: kl_position_figure(f"positions-{width}", description, run.kl.positions, width))


def label_names(outcomes: Sequence[Outcome]) -> list[Label]:
    """Return the labels that tables show: `undecided` only where a thought did not close."""
    given = {label for outcome in outcomes for label in (outcome.before, outcome.after)}
    return [*LABELS, *(name for name in get_args(Label) if name in given - set(LABELS))]


def count_labels(outcomes: Sequence[Outcome]) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Return for each kind of prompt how often each label was given, before and after the patch."""
    counts = {kind: (Counter[str](), Counter[str]()) for kind in get_args(PromptKind)}
    for outcome in outcomes:
        before, after = counts[outcome.kind]
        before[outcome.before] += 1
        after[outcome.after] += 1
    return {kind: pair for kind, pair in counts.items() if pair[0]}


def pick_examples(outcomes: Sequence[Outcome], most: int = MOST_EXAMPLES) -> list[Outcome]:
    """Return targets to show in full, one category after the other in turn; those still refused come first.

    Only targets that the base model refuses are picked. Keep and guard prompts never are: their answers are not
    stored, and would not be shown if they were.
    """
    by_category: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.kind == "target" and outcome.before != "answers":
            by_category[outcome.category].append(outcome)
    queues = [sorted(found, key=lambda outcome: outcome.after == "answers") for found in by_category.values()]
    picked: list[Outcome] = []
    for turn in range(max(map(len, queues), default=0)):
        picked.extend(queue[turn] for queue in queues if turn < len(queue))
    return sorted(picked[:most], key=lambda outcome: outcome.category)


def pick_dialogues(dialogues: Sequence[DialogueOutcome], most: int = MOST_DIALOGUES) -> list[DialogueOutcome]:
    """Return dialogues to show in full: those that babble first, then those that moved most."""
    return sorted(dialogues, key=lambda one: (not one.babbles, -max(one.kl, default=0.0)))[:most]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as dotted names with their values in JSON."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)
