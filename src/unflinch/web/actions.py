"""What the parts of the page do: functions of what is shown that return what to show next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any
from urllib.parse import quote

import gradio as gr

from unflinch.errors import UnflinchError
from unflinch.patch.answer import Side
from unflinch.report.fragments import render_comparison, render_scan, render_summary
from unflinch.run_folder import REPORT, RunFolder
from unflinch.web.runs import Runs, examples
from unflinch.web.speaker import Speaker

SIDES: tuple[Side, Side] = ("original", "patched")
NO_PATCH = "This run wrote no patch, as it did not pass: there is nothing to talk to. Its report says what it missed."

Turns = list[dict[str, str]]
Dialogues = dict[Side, Turns]
"""What was said on each side; the sides part with their first answers."""
Shown = tuple[Turns, Turns, Dialogues, str]
"""Both sides as they are shown, what was said, and the line below."""


def nothing_said() -> Dialogues:
    """Return two dialogues that have not begun."""
    return {side: [] for side in SIDES}


class Actions:
    """The page's actions on the runs of one folder."""

    def __init__(self, runs: Runs, speaker: Speaker) -> None:
        """Show `runs`, and let `speaker` answer."""
        self.runs = runs
        self.speaker = speaker

    def show(self, name: str) -> list[Any]:
        """Return summary, report, prompts to try, the line to type in and an empty chat for a run that was chosen."""
        with _told():
            run = self.runs.results(name)
            silent = "" if RunFolder(self.runs.folder(name)).patch.is_dir() else NO_PATCH
        report = f'<iframe title="Report of the run" sandbox src="/runs/{quote(name)}/{REPORT}"></iframe>'
        offered = [] if silent else [[text] for text in examples(run.outcomes)]
        return [
            render_summary(run),
            report,
            gr.Dataset(samples=offered, visible=bool(offered)),
            gr.Textbox(interactive=not silent),
            *self.forget()[:-1],
            silent,
        ]

    def draw_scan(self, name: str) -> str:
        """Return the scan map of a run."""
        with _told():
            return render_scan(self.runs.results(name))

    def compare(self, first: str, second: str) -> str:
        """Return two runs beside each other."""
        with _told():
            return render_comparison(self.runs.results(first), self.runs.results(second))

    def ask(self, prompt: str, name: str, strength: float, said: Dialogues) -> Iterator[Shown]:
        """Yield what is shown while both sides answer a prompt, one after the other."""
        if prompt.strip():
            asked = {"role": "user", "content": prompt.strip()}
            yield from self._answer(name, SIDES, strength, {side: [*_answered(said[side]), asked] for side in SIDES})

    def ask_offered(self, offered: Sequence[str], name: str, strength: float, said: Dialogues) -> Iterator[Shown]:
        """Yield the same for a prompt that was offered."""
        yield from self.ask(offered[0], name, strength, said)

    def answer_again(self, name: str, strength: float, said: Dialogues) -> Iterator[Shown]:
        """Yield what is shown while the patched side gives its last answer again, at another strength."""
        turns = said["patched"]
        if turns:
            asked = turns[:-1] if turns[-1]["role"] == "assistant" else turns
            yield from self._answer(name, ("patched",), strength, {**said, "patched": asked})

    def forget(self) -> Shown:
        """Return an empty chat."""
        return [], [], nothing_said(), ""

    def stopped(self) -> str:
        """Return what the line below the answers says once they were stopped."""
        return "Stopped."

    def _answer(self, name: str, sides: Sequence[Side], strength: float, said: Dialogues) -> Iterator[Shown]:
        with _told():
            folder, results = self.runs.folder(name), self.runs.results(name)
            loading = "" if self.speaker.ready(folder) else f"Loading {results.model.name} ..."
            yield _shown(said, loading)
            for side in sides:
                turns = said[side]
                for text in self.speaker.answers(folder, results, turns, side, strength):
                    said = {**said, side: [*turns, {"role": "assistant", "content": text}]}
                    yield _shown(said)


def _answered(turns: Turns) -> Turns:
    """Return the turns without a prompt that was never answered: chat templates want the roles to alternate."""
    return turns[:-1] if turns and turns[-1]["role"] == "user" else turns


def _shown(said: Dialogues, status: str = "") -> Shown:
    """Return what is shown of two dialogues: their texts escaped, as the page takes them for HTML."""
    original, patched = ([{**turn, "content": escape(turn["content"], quote=False)} for turn in said[s]] for s in SIDES)
    return original, patched, said, escape(status)


@contextmanager
def _told() -> Iterator[None]:
    """Turn a user's mistake into a message on the page; its text is escaped, as the page takes it for HTML."""
    try:
        yield
    except UnflinchError as error:
        raise gr.Error(escape(str(error)), print_exception=False) from error
