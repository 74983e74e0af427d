"""Answers to be judged, one JSON object a line, and the same lines with what a judge says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, NoReturn

from unflinch.errors import PromptFileError
from unflinch.results import Judgement

MAX_FILE_BYTES: Final = 1024 * 1024 * 1024
_EXAMPLE: Final = '{"prompt": "...", "answer": "..."}'


@dataclass(frozen=True)
class AnswerLine:
    """One line of the input."""

    number: int
    """From 1, blank lines counted."""
    record: Mapping[str, Any]
    """All fields, in their order."""

    @property
    def prompt(self) -> str:
        """What was asked."""
        return str(self.record["prompt"])

    @property
    def answer(self) -> str:
        """What was answered."""
        return str(self.record["answer"])


def read_answers(content: bytes, name: str) -> list[AnswerLine]:
    """Return all lines that are not blank.

    Args:
        content: UTF-8 text.
        name: how errors call it.

    Raises:
        PromptFileError: for the first line that is no JSON object with the texts `prompt` and `answer`.
    """
    if len(content) > MAX_FILE_BYTES:
        raise PromptFileError(f"{name} is larger than {MAX_FILE_BYTES:,} bytes; split it")
    return list(_read(content.removeprefix(b"\xef\xbb\xbf"), name))


def _read(content: bytes, name: str) -> Iterator[AnswerLine]:
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if raw.strip():
            yield AnswerLine(number, _record(raw, f"{name}, line {number}"))


def _record(raw: bytes, place: str) -> Mapping[str, Any]:
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_not_json, parse_float=_finite)
    except UnicodeDecodeError:
        raise PromptFileError(f"{place}: is not UTF-8 text; save the file as UTF-8") from None
    except (ValueError, RecursionError):
        raise PromptFileError(f"{place}: is not JSON; expected one object a line like {_EXAMPLE}") from None
    if not isinstance(found, dict):
        raise PromptFileError(f"{place}: is a {_kind(found)}; expected an object like {_EXAMPLE}")
    for field in ("prompt", "answer"):
        if field not in found:
            raise PromptFileError(f'{place}: has no "{field}"; expected an object like {_EXAMPLE}')
        if not isinstance(found[field], str):
            raise PromptFileError(f'{place}: "{field}" is a {_kind(found[field])}; expected a text')
    return found


def judged(line: AnswerLine, judgements: Mapping[str, Judgement]) -> dict[str, Any]:
    """Return the fields of a line with `judgement` and `score` of the first judge, and all `judgements` of several.

    Fields of these names that the line had before are replaced.
    """
    every = {name: {"judgement": one.label, "score": round(one.score, 4)} for name, one in judgements.items()}
    return {**line.record, **next(iter(every.values())), **({"judgements": every} if len(every) > 1 else {})}


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"{digits} is too large")
    return value


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null")
