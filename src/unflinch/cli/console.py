"""Everything that is shown, and the only file that prints: data goes to stdout, all the rest to stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from unflinch.launch import is_first, rank
from unflinch.report.wording import duration, words
from unflinch.steps.progress import Progress as ShowProgress

WIDEST = 100
"""Columns after which a line of figures is no longer easy to follow."""

_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")


def visible(text: str) -> str:
    """Return the text with everything but tabs and line feeds replaced that a terminal takes for a command to itself.

    Answers, prompts and names of files are strangers' text: an escape sequence in them could rewrite what is on screen.
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class PlainConsole(Console):
    """Shows text as `visible` returns it; rich's own styles and cursor movements go through."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


# Of several workers the first one is heard; the others do the same.
out = PlainConsole(highlight=False, markup=False, emoji=False, quiet=not is_first())
err = PlainConsole(highlight=False, markup=False, emoji=False, stderr=True, quiet=not is_first())


def show(data: RenderableType) -> None:
    """Print data on stdout."""
    out.print(data)


def show_line(line: str) -> None:
    """Print one line on stdout that is never broken, so that a path in it can be copied."""
    out.print(line, soft_wrap=True)


def show_json(data: object) -> None:
    """Print data as JSON on stdout."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    if is_first():
        print(json.dumps(data, indent=1, ensure_ascii=not utf8))


def show_json_line(data: object) -> None:
    """Print data as JSON on one line of stdout, at once; every character survives, as an escape where it must."""
    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode((sys.stdout.encoding or "ascii"), "strict")
    except UnicodeEncodeError:
        text = json.dumps(data)
    print(text, flush=True)


def show_beside(data: RenderableType) -> None:
    """Print a table on stderr, where stdout holds lines for another program."""
    err.print(data)


def note(message: str) -> None:
    """Print a remark on stderr; its lines are never broken, so that a command in it can be copied."""
    err.print(Text(message, "dim"), soft_wrap=True)


def warning(message: str) -> None:
    """Print a warning on stderr."""
    _line(Text.assemble(("warning: ", "bold yellow"), message))


def error(message: str) -> None:
    """Print what went wrong on stderr, as one line."""
    text = " ".join(message.split())
    if is_first():
        _line(Text.assemble(("error: ", "bold red"), text))
    else:
        print(f"worker {rank() + 1}: error: {text}", file=sys.stderr)


def _line(text: Text) -> None:
    err.print(text, soft_wrap=not err.is_terminal)


def step_done(step: str, figures: Mapping[str, Any], seconds: float) -> None:
    """Print a finished step on stderr with its headline figures and its time."""
    line = Table.grid(padding=(0, 1), expand=True)
    line.width = min(err.width, WIDEST)
    line.add_column(width=10)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    found = ", ".join(f"{words(name)} {figure(value)}" for name, value in figures.items())
    line.add_row(Text(step, "bold"), Text(found), Text(duration(seconds), "dim"))
    err.print(line)


def figure(value: object) -> str:
    """Return a headline figure as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return how much is done of how much; nothing where that is unknown."""
        return Text("" if task.total is None else f"{task.completed:,.0f}/{task.total:,.0f}")


class _TimeLeft(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Return the time left at the average speed of this piece of work; while that is unknown, the time taken."""
        started_with = float(task.fields.get("started_with", 0))
        done, elapsed = task.completed - started_with, task.elapsed or 0.0
        if task.total is None or done <= 0:
            return Text(duration(elapsed) if elapsed >= 2 else "", "dim")
        return Text(f"{duration(elapsed / done * (task.total - task.completed))} left")


@contextmanager
def progress() -> Iterator[ShowProgress]:
    """Give a callback that shows progress on stderr: a bar with the time left, or a line a piece of work.

    The lines are for a stderr that is no terminal; nothing is animated there.
    """
    if not err.is_terminal or err.quiet:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(None, table_column=Column(min_width=6, max_width=20)),
        _Count(),
        _TimeLeft(),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def update(what: str, done: int, total: int) -> None:
            nonlocal task
            if bars.tasks[0].description != what:
                bars.remove_task(task)
                task = bars.add_task(what, started_with=done)
            bars.update(task, completed=done, total=total or None)

        yield update


def _lines() -> ShowProgress:
    """Return a callback that prints a line whenever another piece of work begins."""
    current = ""

    def update(what: str, done: int, total: int) -> None:
        nonlocal current
        if what != current:
            current = what
            note(f"{what} ({total:,})" if total else what)

    return update


def waiting(what: str) -> AbstractContextManager[object]:
    """Show a spinner on stderr while something of unknown length goes on; nothing where no terminal reads it."""
    return err.status(Text(what)) if err.is_terminal else nullcontext()


@contextmanager
def growing_text() -> Iterator[Callable[[str], None]]:
    """Give a callback that takes an answer so far: shown as it grows in a terminal, whole at the end elsewhere."""
    shown = latest = ""
    with ExitStack() as until_first_word:
        until_first_word.enter_context(waiting("thinking"))

        def grow(text: str) -> None:
            nonlocal shown, latest
            latest = text
            whole = text.rstrip("\N{REPLACEMENT CHARACTER}")  # stands for the first bytes of a character
            if out.is_terminal and len(whole) > len(shown):
                until_first_word.close()
                _write(visible(whole[len(shown) :]))
                shown = whole

        try:
            yield grow
        finally:
            until_first_word.close()
            _write(visible(latest[len(shown) :]) + "\n")


def _write(text: str) -> None:
    print(text, end="", flush=True)
