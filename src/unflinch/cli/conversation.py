"""The conversation of `unflinch chat`: what was said, which model answers next, and the commands that change it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import cast, get_args

from unflinch.cli import console
from unflinch.models.load import LoadedModel
from unflinch.patch.answer import Side, answer
from unflinch.patch.attach import AttachedPatch

COMMANDS = """\
/patched  /original  /both   say who answers from here on
/strength X                  0 is the original model, 1 the patch
/reset  /quit                forget the conversation; leave"""


@dataclass
class Conversation:
    """A dialogue with a model whose patch can be switched."""

    loaded: LoadedModel
    live: AttachedPatch
    max_tokens: int
    sides: tuple[Side, ...] = ("patched",)
    """Who answers the next prompt; where both do, the dialogue goes on from the patched model's answer."""
    turns: list[dict[str, str]] = field(default_factory=list)

    def conversation(self) -> list[dict[str, str]]:
        """Return what was said so far, as chat templates expect it."""
        return self.turns

    @property
    def thinking(self) -> None:
        """Whether the model is to think: as its template has it."""
        return None

    def answer(self, side: Side, grow: Callable[[str], None]) -> str:
        """Return the answer of one side to what was said so far.

        Args:
            side: with the patch, or without it.
            grow: called with the answer so far after each token.
        """

        def go_on(text: str) -> bool:
            grow(text)
            return False

        return answer(self.loaded, self.live, self, side, self.max_tokens, go_on)


def talk(conversation: Conversation) -> None:
    """Answer prompts from stdin until it ends or says /quit."""
    if sys.stdin.isatty():
        console.note(COMMANDS)
    for line in _prompts():
        if line.startswith("/"):
            if line.split()[0] in ("/quit", "/exit"):
                return
            console.note(obey(conversation, line))
        elif line:
            with suppress(KeyboardInterrupt):  # Ctrl-C ends the answer, not the conversation
                ask(conversation, line)


def ask(conversation: Conversation, prompt: str) -> None:
    """Add a prompt to the conversation, and show the answer of each side that is to answer."""
    conversation.turns.append({"role": "user", "content": prompt})
    answers = []
    try:
        for side in conversation.sides:
            if len(conversation.sides) > 1:
                console.show_line(f"[{side}]")
            with console.growing_text() as grow:
                answers.append(conversation.answer(side, grow))
    finally:
        if answers:
            conversation.turns.append({"role": "assistant", "content": answers[0]})
        else:
            conversation.turns.pop()


def obey(conversation: Conversation, line: str) -> str:
    """Carry out a line that starts with a slash, and return what to say about it."""
    command, _, value = line[1:].partition(" ")
    if command in (*get_args(Side), "both"):
        conversation.sides = get_args(Side) if command == "both" else (cast(Side, command),)
        return f"next answers: {' and '.join(conversation.sides)}"
    if command == "reset":
        conversation.turns.clear()
        return "the conversation starts anew"
    if command == "strength":
        try:
            strength = float(value)
        except ValueError:
            strength = nan
        if not isfinite(strength):
            return f"expected a number, such as /strength 0.5; given {value!r}"
        conversation.live.set_strength(strength)
        return f"strength {strength:g}"
    return COMMANDS


def _prompts() -> Iterator[str]:
    """Yield the lines of stdin, asked for where it is a terminal."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (gives `input` a history)
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input("> ").strip()
