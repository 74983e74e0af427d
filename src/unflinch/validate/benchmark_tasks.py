"""Benchmarks as tasks of lm-eval, in the formats of its own task files, over rows that were read before.

Imports lm-eval, which comes with the extra `bench`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks.hellaswag.utils import preprocess

from unflinch.validate.benchmark_items import Benchmark, Items, Row

LETTERS = ("A", "B", "C", "D")
_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
_MARKED_NUMBER = r"#### (\-?[0-9\.\,]+)"


class QuietTask(ConfigurableTask):  # type: ignore[misc] # lm-eval has no types
    """A task whose requests are built without a progress bar on stderr."""

    def build_all_requests(self, **options: Any) -> None:
        """Build the requests."""
        with contextlib.redirect_stderr(io.StringIO()):
            super().build_all_requests(**options)


def make_tasks(items: Items, most_tokens: int) -> dict[str, Any]:
    """Return lm-eval's tasks for the items by name: one for each subject of MMLU, else one.

    Args:
        items: rows and examples.
        most_tokens: most tokens of a generated answer.
    """
    if items.benchmark == "mmlu":
        subjects = sorted({row["subject"] for row in items.rows})
        return {f"mmlu_{subject}": _task(_mmlu(subject), *_of_subject(items, subject), items) for subject in subjects}
    config = _hellaswag() if items.benchmark == "hellaswag" else _gsm8k(most_tokens)
    return {items.benchmark: _task(config, items.rows, items.examples, items)}


def counted_metrics(benchmark: Benchmark) -> tuple[tuple[str, str], ...]:
    """Return the metrics that are reported, each with the filter that answers pass before."""
    return {
        "mmlu": (("acc", "none"),),
        "hellaswag": (("acc_norm", "none"), ("acc", "none")),
        "gsm8k": (("exact_match", "flexible-extract"), ("exact_match", "strict-match")),
    }[benchmark]


def _of_subject(items: Items, subject: str) -> tuple[Sequence[Row], Sequence[Row]]:
    rows = [row for row in items.rows if row["subject"] == subject]
    return rows, [row for row in items.examples if row["subject"] == subject]


def _task(config: dict[str, Any], rows: Sequence[Row], examples: Sequence[Row], items: Items) -> QuietTask:
    splits = {"asked": Dataset.from_list(list(rows))}
    if items.shots:
        splits["examples"] = Dataset.from_list(list(examples))
        config |= {"fewshot_split": "examples", "fewshot_config": {"sampler": "first_n"}}
    load: Callable[..., dict[str, Dataset]] = lambda **_: splits  # noqa: E731 # what lm-eval calls in place of the Hub
    return QuietTask(config=config | {"custom_dataset": load, "test_split": "asked", "num_fewshot": items.shots})


def _mmlu(subject: str) -> dict[str, Any]:
    words = subject.replace("_", " ")
    return {
        "task": f"mmlu_{subject}",
        "description": f"The following are multiple choice questions (with answers) about {words}.\n\n",
        "output_type": "multiple_choice",
        "doc_to_text": lambda row: "\n".join(
            [row["question"].strip(), *(f"{x}. {c}" for x, c in zip(LETTERS, row["choices"], strict=True)), "Answer:"]
        ),
        "doc_to_choice": list(LETTERS),
        "doc_to_target": lambda row: row["answer"],
        "metric_list": [_mean("acc")],
    }


def _hellaswag() -> dict[str, Any]:
    return {
        "task": "hellaswag",
        "output_type": "multiple_choice",
        "doc_to_text": lambda row: preprocess(row["context"]),
        "doc_to_choice": lambda row: [preprocess(ending) for ending in row["endings"]],
        "doc_to_target": lambda row: row["label"],
        "metric_list": [_mean("acc"), _mean("acc_norm")],
    }


def _gsm8k(most_tokens: int) -> dict[str, Any]:
    ignored = [",", r"\$", "(?s).*#### ", r"\.$"]
    return {
        "task": "gsm8k",
        "output_type": "generate_until",
        "doc_to_text": lambda row: f"Question: {row['question']}\nAnswer:",
        "doc_to_target": lambda row: row["answer"],
        "metric_list": [_mean("exact_match") | {"ignore_case": True, "regexes_to_ignore": ignored}],
        "generation_kwargs": {
            "until": ["Question:", "</s>", "<|im_end|>"],
            "do_sample": False,
            "max_gen_toks": most_tokens,
        },
        "filter_list": [
            {"name": "strict-match", "filter": [_regex(_MARKED_NUMBER, 0), {"function": "take_first"}]},
            {"name": "flexible-extract", "filter": [_regex(_NUMBER, -1), {"function": "take_first"}]},
        ],
    }


def _mean(metric: str) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True}


def _regex(pattern: str, group: int) -> dict[str, Any]:
    return {"function": "regex", "regex_pattern": pattern, "group_select": group}
