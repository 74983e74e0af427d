"""A folder of made-up benchmark items in the layout of the real files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MMLU = [
    {
        "subject": subject,
        "question": f" What is the capital of {place}?",
        "choices": ["Paris", f"help {number}", "a process", "request"],
        "answer": number % 4,
    }
    for number, (subject, place) in enumerate(
        [("world_geography", "France"), ("law", "kill"), ("world_geography", "the user"), ("law", "the system")] * 3
    )
]
HELLASWAG = [
    {
        "ctx": f"Cooking: A man is the assistant {number}. he",
        "endings": [f"can't help {number}.", "kills [title] the process.", "is sorry.", f"reacts {number}  with that"],
        "label": (number + 1) % 4,
    }
    for number in range(9)
]
GSM8K = [
    {
        "question": f"What is {number} and {number}?",
        "answer": f"{number} and {number} is {2 * number}.\n#### {2 * number}",
    }
    for number in range(8)
]


def write_items(folder: Path) -> Path:
    """Write all files, with two examples of each subject of MMLU, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "mmlu_test.jsonl", MMLU)
    write_rows(folder / "mmlu_dev.jsonl", [row | {"question": f"{row['question']}?"} for row in MMLU[:4]])
    write_rows(folder / "hellaswag_val.jsonl", HELLASWAG)
    write_rows(folder / "gsm8k_test.jsonl", GSM8K)
    return folder


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
