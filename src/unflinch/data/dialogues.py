"""The bundled everyday dialogues: what the user says turn by turn; the answers are the model's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

from unflinch.errors import InputError


@dataclass(frozen=True)
class Dialogue:
    """The user's side of a harmless dialogue; no turn needs a particular answer to the one before."""

    turns: tuple[str, ...]
    category: str
    language: str
    system: str | None = None
    """What it is led under; None for the model's own default."""
    thinking: bool | None = None
    """Whether the model is to think before each answer; None where it knows no thinking."""


def bundled_dialogues(most: int | None = None) -> tuple[Dialogue, ...]:
    """Return the first `most` dialogues, all of them if not given; languages take turns, so that every start has all.

    Raises:
        InputError: if the file is missing or damaged.
    """
    try:
        lines = files("unflinch.data").joinpath("bundled", "dialogues.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        found = tuple(Dialogue(tuple(row["turns"]), row["category"], row["language"]) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("the bundled dialogues cannot be read: reinstall unflinch") from error
    return found[:most]
