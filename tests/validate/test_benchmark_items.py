"""Which benchmark items are asked, and what is said where they cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_benchmarks import GSM8K, HELLASWAG, MMLU, write_items, write_rows

from unflinch.errors import ConfigError, InputError
from unflinch.options import BenchOptions
from unflinch.validate.benchmark_items import load_items, require_lm_eval

FEW_SHOTS = {"mmlu_shots": 2, "gsm8k_shots": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_items(tmp_path / "items")


def test_a_smaller_limit_asks_some_of_the_items_of_a_larger_one(data: Path) -> None:
    def asked(limit: int, seed: int = 0) -> list[Any]:
        options = BenchOptions(str(data), mmlu=limit, hellaswag=limit, gsm8k=limit, seed=seed, **FEW_SHOTS)
        return [list(items.rows) for items in load_items(options)]

    few, more = asked(3), asked(5)
    assert [len(rows) for rows in few] == [3, 3, 3]
    assert few == [rows[:3] for rows in more]
    assert asked(5, seed=1) != more


def test_a_benchmark_with_limit_zero_needs_no_file(data: Path) -> None:
    (data / "gsm8k_test.jsonl").unlink()
    options = BenchOptions(str(data), gsm8k=0, **FEW_SHOTS)
    assert [items.benchmark for items in load_items(options)] == ["mmlu", "hellaswag"]


def test_training_questions_are_the_examples_where_they_are_at_hand(data: Path) -> None:
    write_rows(data / "gsm8k_train.jsonl", [{"question": "Train?", "answer": "#### 1"}] * 2)
    (items,) = load_items(BenchOptions(str(data), mmlu=0, hellaswag=0, gsm8k=100, gsm8k_shots=2))
    assert {row["question"] for row in items.examples} == {"Train?"}
    assert len(items.rows) == len(GSM8K)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("mmlu_test.jsonl", None, "--mmlu 0"),
        ("gsm8k_test.jsonl", None, "--gsm8k 0"),
        ("hellaswag_val.jsonl", "", "holds no item"),
        ("hellaswag_val.jsonl", "{", "line 1, is not JSON"),
        ("hellaswag_val.jsonl", "[1]", "row 1"),
        ("hellaswag_val.jsonl", '{"ctx": "a", "endings": ["b", "c", "d", "e"], "label": 4}', "answer 4 of 4"),
        ("gsm8k_test.jsonl", '{"question": "a", "answer": "b"}', "####"),
        ("mmlu_test.jsonl", '{"subject": "x", "question": 1, "choices": ["", "", "", ""], "answer": 0}', "no text"),
        ("mmlu_dev.jsonl", '{"subject": "x", "question": "q", "choices": ["", "", "", ""], "answer": 0}', "0 examples"),
    ],
)
def test_unusable_files_are_told_in_one_sentence(data: Path, file: str, text: str | None, said: str) -> None:
    (data / file).unlink()
    if text is not None:
        (data / file).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load_items(BenchOptions(str(data), **FEW_SHOTS))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("wrong", [{"mmlu": -1}, {"gsm8k_tokens": 0}, {"mmlu": 0, "hellaswag": 0, "gsm8k": 0}])
def test_impossible_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        BenchOptions(**wrong)


def test_rows_of_the_hub_are_read_in_their_own_layout(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    parts = {"activity_label": "Cooking", "ctx_a": "A man cooks.", "ctx_b": "he"}
    sets = {
        ("cais/mmlu", "all", "test"): MMLU,
        ("cais/mmlu", "all", "dev"): MMLU,
        ("Rowan/hellaswag", None, "validation"): [
            {**parts, "endings": HELLASWAG[0]["endings"], "label": "2"},
        ],
        ("openai/gsm8k", "main", "test"): GSM8K,
        ("openai/gsm8k", "main", "train"): GSM8K[:2],
    }
    module = ModuleType("datasets")
    module.load_dataset = lambda name, configuration, split: sets[name, configuration, split]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    mmlu, hellaswag, gsm8k = load_items(BenchOptions(mmlu=12, **FEW_SHOTS))
    assert hellaswag.rows[0]["context"] == "Cooking: A man cooks. He"
    assert hellaswag.rows[0]["label"] == 2
    assert (len(mmlu.rows), len(gsm8k.rows), len(gsm8k.examples)) == (12, len(GSM8K), 2)


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    module = ModuleType("datasets")
    module.load_dataset = unreachable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(InputError, match=r"no route to host.*--data FOLDER with mmlu_test.jsonl"):
        load_items(BenchOptions())


def test_without_lm_eval_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'unflinch\[bench\]'"):
        require_lm_eval()
