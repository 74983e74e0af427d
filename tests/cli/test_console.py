"""What the console shows in a terminal, and that every table reads well in 80 columns."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from report.conftest import make_results, without_what_came_later
from rich.console import Console, RenderableType
from rich.text import Text

from unflinch.cli import console, tables
from unflinch.data.mine import Spectrum, spectrum
from unflinch.data.prompts import bundled
from unflinch.report.run_results import parse_results


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns in place of stdout and stderr."""
    screen = io.StringIO()
    shown = console.PlainConsole(file=screen, force_terminal=True, width=80, highlight=False, markup=False, emoji=False)
    monkeypatch.setattr(console, "out", shown)
    monkeypatch.setattr(console, "err", shown)
    monkeypatch.setattr(console, "_write", screen.write)
    return screen


def with_tiny_kl(results: dict[str, Any]) -> dict[str, Any]:
    for distribution in (results["kl"]["first_token"], results["kl"]["sequence"]):
        distribution |= {"mean": 1.2e-5, "cvar95": 3.4e-5, "mean_interval": {"low": 1.1e-5, "high": 1.3e-5}}
    return results


@cache
def all_tables() -> dict[str, RenderableType]:
    run = parse_results(make_results())
    return {
        "run": tables.run_summary(run),
        "run of tiny figures": tables.run_summary(parse_results(with_tiny_kl(make_results()))),
        "older run": tables.run_summary(parse_results(without_what_came_later(make_results()))),
        "scan": tables.scan_summary(run.scan),
        "fit": tables.fit_summary(run.fit),
        "spectrum": tables.spectrum_summary(spectrum(bundled("targets"))),
        "nothing": tables.spectrum_summary(spectrum(())),
    }


@pytest.mark.parametrize("name", all_tables())
def test_a_table_fits_into_80_columns_without_losing_a_figure(name: str) -> None:
    def drawn(width: int) -> str:
        screen = io.StringIO()
        Console(file=screen, width=width, highlight=False, markup=False, emoji=False).print(all_tables()[name])
        return screen.getvalue()

    assert max(map(len, drawn(80).splitlines())) <= 80
    assert drawn(80).replace("─", "").split() == drawn(200).replace("─", "").split()
    assert "…" not in drawn(80)


def test_a_terminal_shows_how_much_is_done(terminal: io.StringIO) -> None:
    with console.progress() as progress:
        progress("fit: asking targets", 0, 1000)
        progress("fit: asking targets", 250, 1000)
    assert "fit: asking targets" in terminal.getvalue()
    assert "250/1,000" in terminal.getvalue()
    assert "left" in terminal.getvalue()


def test_a_path_is_never_broken_into_lines(terminal: io.StringIO) -> None:
    path = "runs/" + "a-very-long-name/" * 10
    console.show_line(path)
    assert path in terminal.getvalue()


def test_an_answer_grows_in_a_terminal_without_half_characters(terminal: io.StringIO) -> None:
    with console.growing_text() as grow:
        for text in ("Caf\N{REPLACEMENT CHARACTER}", "Café", "Café", "Café is"):
            grow(text)
    assert terminal.getvalue().endswith("Café is\n")
    assert "\N{REPLACEMENT CHARACTER}" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("value", "text"), [(True, "yes"), (1234567, "1,234,567"), (0.97231, "0.972"), (0.000031, "3.1e-05"), ("x", "x")]
)
def test_a_headline_figure_is_short(value: object, text: str) -> None:
    assert console.figure(value) == text


def test_markup_in_a_message_is_shown_as_it_is(terminal: io.StringIO) -> None:
    console.error("no file [bold]x[/bold] :smile:")
    assert "no file [bold]x[/bold] :smile:" in terminal.getvalue()


HOSTILE = "title \x1b]0;mine\x07 up \x1b[2A back \b gone \r over \x9b31m"


@pytest.mark.parametrize(
    "show",
    [
        console.error,
        console.warning,
        console.note,
        console.show_line,
        lambda text: console.show(Text(text)),
        lambda text: console.step_done("fit", {"method": text}, 1.0),
        lambda text: console.show(tables.spectrum_summary(Spectrum({text: 3}, {"en": 3}, 1.0, 1.0))),
    ],
)
def test_no_text_commands_the_terminal(show: Callable[[str], None], terminal: io.StringIO) -> None:
    show(HOSTILE)
    styles = re.compile(r"\x1b\[[\d;]*m")
    left = styles.sub("", terminal.getvalue())
    assert "title" in left
    assert not set(left) & set("\x1b\x07\b\r\x9b")


def test_no_answer_commands_the_terminal(terminal: io.StringIO) -> None:
    with console.growing_text() as grow:
        grow("Hello \x1b[2J")
        grow("Hello \x1b[2J there\tand\nhere")
    assert "\x1b[2J" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\N{REPLACEMENT CHARACTER}[2J there\tand\nhere\n")
