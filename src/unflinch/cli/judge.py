"""`unflinch judge`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from unflinch.results import Judgement

Judge = Callable[[str, str], Judgement]

KEY_VARIABLE = "UNFLINCH_JUDGE_KEY"

File = Annotated[
    str, typer.Argument(metavar="FILE", help='.jsonl file of {"prompt": ..., "answer": ...} lines; - reads stdin.')
]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        metavar="JUDGE",
        help="bundled; rules; a text classifier as Hub id or folder; or the URL of an OpenAI-compatible endpoint, "
        "which then gets prompts and answers. Several may be given: the first one decides, and how far they agree "
        "is shown. [default: bundled]",
    ),
]
EndpointModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help=f"Model to ask at an endpoint. Its key, if it wants one, is read from ${KEY_VARIABLE}."
    ),
]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="Longest wait for one reply of an endpoint.")]
RefusalLabel = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL", help="Label of a classifier that means refusal, where its names do not tell."),
]
Reads = Annotated[
    Literal["turns", "answer"],
    typer.Option(metavar="WHAT", help="What a classifier reads: turns, prompt and answer marked as such, or answer."),
]


def judge(
    file: File,
    judge: Judges = None,
    endpoint_model: EndpointModel = None,
    timeout: Timeout = 60.0,
    refusal_label: RefusalLabel = None,
    classifier_reads: Reads = "turns",
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where a classifier runs.")] = "auto",
) -> None:
    """Say of every answer in FILE whether it is a refusal.

    The judgement is one of answers, partly, evades, refuses and degenerate; docs/JUDGE.md says what each means.
    Writes the same lines, in order and with all their fields, to stdout, with "judgement" and with "score", the
    confidence from 0 to 1 that the answer is a full or partial refusal. All lines are checked before any is judged.
    """
    from unflinch.cli import console, tables
    from unflinch.errors import InputError, JudgeError
    from unflinch.validate.answer_lines import judged, read_answers

    names = judge or ["bundled"]
    if len(set(names)) < len(names):
        raise InputError("--judge names the same judge twice; expected different ones")
    content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    lines = read_answers(content, "stdin" if file == "-" else file)
    labels = tuple(refusal_label or ())
    judges = {
        name: _endpoint(name, endpoint_model, timeout)
        if "://" in name
        else _local(name, labels, classifier_reads, device)
        for name in names
    }
    said = []
    for line in lines:
        try:
            judgements = {name: one(line.prompt, line.answer) for name, one in judges.items()}
        except JudgeError as error:
            raise JudgeError(f"line {line.number}: {error}") from error
        console.show_json_line(judged(line, judgements))
        said.append(judgements)
    if len(judges) > 1 and said:
        from unflinch.validate.agreement import agreements

        pairs = agreements({name: [judgements[name].label for judgements in said] for name in names})
        console.show_beside(tables.agreement_table(pairs))


def _endpoint(url: str, model: str | None, timeout: float) -> Judge:
    from unflinch.chat_endpoint import ChatEndpoint
    from unflinch.errors import InputError
    from unflinch.validate.endpoint_judge import EndpointJudge

    if not model:
        raise InputError("--judge is an endpoint, but no model was named; give --endpoint-model NAME")
    return EndpointJudge(ChatEndpoint(url, model, key=os.environ.get(KEY_VARIABLE, ""), timeout=timeout))


def _local(name: str, refusal_labels: tuple[str, ...], reads: Literal["turns", "answer"], device: str) -> Judge:
    if name == "bundled":
        from unflinch.validate.bundled_judge import BundledJudge

        return BundledJudge()
    if name == "rules":
        from unflinch.validate.judges import RuleJudge

        return RuleJudge()
    from unflinch.validate.classifier_judge import ClassifierJudge

    return ClassifierJudge(name, refusal_labels=refusal_labels, reads=reads, device=device)
