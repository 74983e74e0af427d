"""Items of public benchmarks, from local files or the Hub, and which of them are asked."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unflinch.errors import InputError, PromptFileError
from unflinch.options import BenchOptions

Benchmark = Literal["mmlu", "hellaswag", "gsm8k"]
Row = dict[str, Any]
_CHOICES = 4


@dataclass(frozen=True)
class Items:
    """What is asked of one benchmark."""

    benchmark: Benchmark
    rows: tuple[Row, ...]
    examples: tuple[Row, ...]
    """Rows with answers to put before the question: for MMLU those of all subjects."""
    shots: int


@dataclass(frozen=True)
class _Source:
    file: str
    """In the folder of local files."""
    hub: tuple[str, str | None, str]
    """Name, configuration and split on the Hub."""


_SOURCES = {
    "mmlu": _Source("mmlu_test.jsonl", ("cais/mmlu", "all", "test")),
    "mmlu examples": _Source("mmlu_dev.jsonl", ("cais/mmlu", "all", "dev")),
    "hellaswag": _Source("hellaswag_val.jsonl", ("Rowan/hellaswag", None, "validation")),
    "gsm8k": _Source("gsm8k_test.jsonl", ("openai/gsm8k", "main", "test")),
    "gsm8k examples": _Source("gsm8k_train.jsonl", ("openai/gsm8k", "main", "train")),
}


def require_lm_eval() -> None:
    """Raise `InputError` if lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("benchmarks need lm-eval, which is not installed: pip install 'unflinch[bench]'")


def load_items(options: BenchOptions) -> tuple[Items, ...]:
    """Return the chosen items of every benchmark that is not left out, in random but reproducible order.

    Raises:
        InputError: if a file or data set cannot be read, does not hold such items, or not enough of them.
    """
    loaders: dict[Benchmark, Callable[[BenchOptions], Items]] = {
        "mmlu": _mmlu,
        "hellaswag": _hellaswag,
        "gsm8k": _gsm8k,
    }
    return tuple(load(options) for name, load in loaders.items() if getattr(options, name))


def _mmlu(options: BenchOptions) -> Items:
    rows = _chosen(_rows("mmlu", options, _mmlu_row), options.mmlu, options.seed)
    examples = _rows("mmlu examples", options, _mmlu_row) if options.mmlu_shots else []
    for subject in sorted({row["subject"] for row in rows}):
        found = sum(row["subject"] == subject for row in examples)
        if found < options.mmlu_shots:
            raise InputError(
                f"MMLU has {found} examples of {subject}, {options.mmlu_shots} were asked for; give fewer --mmlu-shots"
            )
    return Items("mmlu", rows, tuple(examples), options.mmlu_shots)


def _hellaswag(options: BenchOptions) -> Items:
    rows = _rows("hellaswag", options, _hellaswag_row)
    return Items("hellaswag", _chosen(rows, options.hellaswag, options.seed), (), 0)


def _gsm8k(options: BenchOptions) -> Items:
    """Return the items; where no training questions are at hand, the examples are test questions that are not asked."""
    rows = _rows("gsm8k", options, _gsm8k_row)
    if not options.gsm8k_shots:
        return Items("gsm8k", _chosen(rows, options.gsm8k, options.seed), (), 0)
    if options.data is None or (Path(options.data) / _SOURCES["gsm8k examples"].file).is_file():
        examples = _rows("gsm8k examples", options, _gsm8k_row)[: options.gsm8k_shots]
    else:
        examples, rows = rows[: options.gsm8k_shots], rows[options.gsm8k_shots :]
    if len(examples) < options.gsm8k_shots or not rows:
        raise InputError(f"GSM8K has too few questions for {options.gsm8k_shots} examples; give fewer --gsm8k-shots")
    return Items("gsm8k", _chosen(rows, options.gsm8k, options.seed), tuple(examples), options.gsm8k_shots)


def _chosen(rows: Sequence[Row], limit: int, seed: int) -> tuple[Row, ...]:
    """Return the first `limit` rows of a shuffled copy, so that a smaller limit asks some of a larger one's items."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    return tuple(shuffled[:limit])


def _rows(name: str, options: BenchOptions, check: Callable[[Mapping[str, Any]], Row]) -> list[Row]:
    source = _SOURCES[name]
    if options.data is None:
        return _checked(_hub_rows(source), "hub:" + source.hub[0], check)
    path = Path(options.data) / source.file
    if not path.is_file():
        benchmark = name.partition(" ")[0]
        raise PromptFileError(
            f"{path} does not exist; --data is a folder with {source.file} in it, or leave {benchmark} out with "
            f"--{benchmark} 0"
        )
    return _checked(_file_rows(path), str(path), check)


def _checked(records: Iterable[object], place: str, check: Callable[[Mapping[str, Any]], Row]) -> list[Row]:
    rows = []
    for number, record in enumerate(records, start=1):
        try:
            if not isinstance(record, Mapping):
                raise TypeError("no object with named fields")
            rows.append(check(record))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PromptFileError(
                f"{place}, row {number}, is no item of this benchmark ({type(error).__name__}: {error}); "
                "expected the fields of the original data set: fetch it again"
            ) from error
    if not rows:
        raise PromptFileError(f"{place} holds no item; fetch it again")
    return rows


def _file_rows(path: Path) -> Iterable[object]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptFileError(f"{path} cannot be read ({error}); expected JSON lines in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise PromptFileError(f"{path}, line {number}, is not JSON ({error}); fetch the file again") from error


def _hub_rows(source: _Source) -> Iterable[object]:
    name, configuration, split = source.hub
    try:
        from datasets import load_dataset

        return list(load_dataset(name, configuration, split=split))
    except Exception as error:  # the network, the Hub, or the data set's own files: any class
        reason = " ".join(str(error).split())
        raise PromptFileError(
            f"{name} cannot be loaded from the Hub ({type(error).__name__}: {reason:.300}); check the network, or give "
            f"--data FOLDER with {source.file} in it"
        ) from error


def _mmlu_row(record: Mapping[str, Any]) -> Row:
    choices, answer = [_text(choice) for choice in record["choices"]], int(record["answer"])
    _check_choice(len(choices), answer)
    return {
        "subject": _text(record["subject"]),
        "question": _text(record["question"]),
        "choices": choices,
        "answer": answer,
    }


def _hellaswag_row(record: Mapping[str, Any]) -> Row:
    if "activity_label" in record:  # as on the Hub; a local file has the parts joined
        context = f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}"
    else:
        context = _text(record["ctx"])
    endings, label = [_text(ending) for ending in record["endings"]], int(record["label"])
    _check_choice(len(endings), label)
    return {"context": context, "endings": endings, "label": label}


def _gsm8k_row(record: Mapping[str, Any]) -> Row:
    question, answer = _text(record["question"]), _text(record["answer"])
    if "#### " not in answer:
        raise ValueError("the answer does not end with '#### ' and a number")
    return {"question": question, "answer": answer}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _check_choice(choices: int, answer: int) -> None:
    if choices != _CHOICES or not 0 <= answer < choices:
        raise ValueError(f"answer {answer} of {choices} choices; expected one of {_CHOICES}")
