"""Benchmarks through lm-eval on a tiny random model, against scores computed without lm-eval."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_benchmarks import GSM8K, write_items
from tiny_models import own_logits, save_model, tiny_model
from tiny_patches import random_patch

from unflinch.artifacts import Patch
from unflinch.benchmark_results import BenchmarkResults
from unflinch.errors import RunFolderError
from unflinch.models.load import LoadedModel, load_model
from unflinch.options import BenchOptions
from unflinch.patch.attach import attached
from unflinch.validate.answer_log import AnswerLog
from unflinch.validate.benchmark_items import Row, load_items
from unflinch.validate.benchmark_model import BenchmarkModel
from unflinch.validate.benchmarks import Comparison, measure

ALL = {"mmlu": 10, "hellaswag": 7, "gsm8k": 3, "mmlu_shots": 2, "gsm8k_shots": 2, "gsm8k_tokens": 4}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = save_model(tiny_model("qwen2", max_position_embeddings=4096), tmp_path_factory.mktemp("tiny") / "model")
    return load_model(str(folder), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def patch(loaded: LoadedModel) -> Patch:
    return random_patch(loaded.model)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_items(tmp_path_factory.mktemp("items")))


@pytest.fixture(scope="module")
def whole(loaded: LoadedModel, patch: Patch, data: str, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkResults:
    """What an uninterrupted measurement finds."""
    options = BenchOptions(data=data, **ALL)
    return measure(Comparison(loaded, patch, options), load_items(options), tmp_path_factory.mktemp("bench") / "whole")


def log_probability(loaded: LoadedModel, context: str, continuation: str) -> float:
    start, all_ids = loaded.tokenizer.encode(context), loaded.tokenizer.encode(context + continuation)
    assert all_ids[: len(start)] == start
    rows = own_logits(loaded.model, tuple(all_ids)).log_softmax(-1)[len(start) - 1 : -1]
    return sum(float(row[token]) for row, token in zip(rows, all_ids[len(start) :], strict=True))


def mmlu_prompt(row: Row, examples: Sequence[Row]) -> str:
    def question(one: Row) -> str:
        choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", one["choices"], strict=True))
        return f"{one['question'].strip()}\n{choices}Answer:"

    shown = [f"{question(one)} {'ABCD'[one['answer']]}\n\n" for one in examples if one["subject"] == row["subject"]]
    subject = row["subject"].replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return head + "".join(shown[:2]) + question(row)


def best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=lambda place: scores[place])


def by_hand(loaded: LoadedModel, data: str) -> dict[str, float]:
    """Share of right answers of the model as it stands, without lm-eval and one row at a time."""
    mmlu, hellaswag, _ = load_items(BenchOptions(data=data, **ALL))
    right = []
    for row in mmlu.rows:
        prompt = mmlu_prompt(row, mmlu.examples)
        right.append(best([log_probability(loaded, prompt, f" {letter}") for letter in "ABCD"]) == row["answer"])
    found = {"acc": sum(right) / len(right)}
    right = []
    for row in hellaswag.rows:
        endings = [re.sub(r"\[.*?\]", "", e.replace(" [title]", ". ")).replace("  ", " ") for e in row["endings"]]
        scores = [log_probability(loaded, row["context"], f" {ending}") / len(ending) for ending in endings]
        right.append(best(scores) == row["label"])
    return found | {"acc_norm": sum(right) / len(right)}


def test_scores_are_those_computed_without_lm_eval(
    whole: BenchmarkResults, loaded: LoadedModel, patch: Patch, data: str
) -> None:
    base = by_hand(loaded, data)
    with attached(loaded.model, patch):
        patched = by_hand(loaded, data)
    found = {one.metric: one for one in whole.scores if (one.benchmark, one.metric) != ("hellaswag", "acc")}
    for metric in ("acc", "acc_norm"):
        assert found[metric].base == pytest.approx(base[metric])
        assert found[metric].patched == pytest.approx(patched[metric])
    assert base != patched


def test_log_likelihoods_are_those_computed_without_lm_eval(loaded: LoadedModel) -> None:
    pairs = [(f"The user is {n}. " * n + "A", f" request {n}, sorry") for n in range(1, 7)]
    pairs += [(pairs[0][0], " Paris"), (pairs[0][0] + " ", "Paris")]
    requests: Any = [type("Request", (), {"args": pair}) for pair in pairs]
    found = [score for score, _ in BenchmarkModel(loaded.model, loaded.tokenizer).loglikelihood(requests)]
    expected = [log_probability(loaded, context.rstrip(), context[len(context.rstrip()) :] + c) for context, c in pairs]
    assert found == pytest.approx(expected, abs=1e-3)


def test_every_benchmark_is_reported_with_its_items(whole: BenchmarkResults) -> None:
    assert [(one.benchmark, one.metric, one.n) for one in whole.scores] == [
        ("mmlu", "acc", 10),
        ("hellaswag", "acc_norm", 7),
        ("hellaswag", "acc", 7),
        ("gsm8k", "exact_match, flexible-extract", 3),
        ("gsm8k", "exact_match, strict-match", 3),
    ]


def test_the_base_is_measured_with_the_patch_off(
    whole: BenchmarkResults, loaded: LoadedModel, patch: Patch, data: str, tmp_path: Path
) -> None:
    options = BenchOptions(data=data, **ALL)
    none = measure(Comparison(loaded, patch, options, strength=0.0), load_items(options), tmp_path / "none")
    assert all((one.lost, one.gained) == (0, 0) for one in none.scores)
    assert [one.base for one in none.scores] == [one.base for one in whole.scores]


def test_written_answers_are_the_models_own_up_to_the_stop(loaded: LoadedModel) -> None:
    prompts = ["What is the capital of France?", "How do I kill a process that", "user assistant"]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([loaded.tokenizer.encode(prompt)])
        out = loaded.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0
        )
        expected.append(str(loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)))
    stop = expected[0][2:4]
    options = {"until": [stop], "max_gen_toks": 8}
    requests: Any = [type("Request", (), {"args": (prompt, options)}) for prompt in prompts]
    found = BenchmarkModel(loaded.model, loaded.tokenizer).generate_until(requests)
    assert found == [text.split(stop)[0] for text in expected]


def test_numbers_are_taken_from_answers_strictly_and_flexibly(
    loaded: LoadedModel, patch: Patch, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BenchOptions(data=data, **ALL | {"mmlu": 0, "hellaswag": 0, "gsm8k": 4})
    (items,) = load_items(options)
    numbers = [row["answer"].rpartition("#### ")[2] for row in items.rows]
    texts = [
        f" So far.\n#### {numbers[0]}",
        f" The answer is {numbers[1]}.",
        f" {numbers[2]} is not it, 1,999 is.",
        " I don't know.",
    ]
    answers = {row["question"]: text for row, text in zip(items.rows, texts, strict=True)}

    def written(_: BenchmarkModel, batch: Sequence[Sequence[int]], stops: Sequence[str], most: int) -> list[str]:
        prompts = [str(loaded.tokenizer.decode(list(ids))) for ids in batch]
        return [answers[prompt.rpartition("Question: ")[2].removesuffix("\nAnswer:")] for prompt in prompts]

    monkeypatch.setattr(BenchmarkModel, "_written", written)
    flexible, strict = measure(Comparison(loaded, patch, options), [items], tmp_path / "gsm8k").scores
    assert (flexible.base, strict.base) == (0.5, 0.25)


def test_examples_of_gsm8k_are_never_asked(data: str) -> None:
    (items,) = load_items(BenchOptions(data=data, mmlu=0, hellaswag=0, gsm8k=100, gsm8k_shots=2))
    assert [row["question"] for row in items.examples] == [row["question"] for row in GSM8K[:2]]
    assert {row["question"] for row in items.rows} == {row["question"] for row in GSM8K[2:]}


def interrupted_after(calls: int) -> Callable[[str, int, int], None]:
    left = calls

    def progress(_what: str, _done: int, _total: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("calls", [2, 5, 9])
def test_an_interrupted_measurement_goes_on_with_the_same_figures(
    whole: BenchmarkResults, loaded: LoadedModel, patch: Patch, data: str, tmp_path: Path, calls: int
) -> None:
    options = BenchOptions(data=data, **ALL)
    comparison, items = Comparison(loaded, patch, options), load_items(options)
    with pytest.raises(KeyboardInterrupt):
        measure(comparison, items, tmp_path / "bench", interrupted_after(calls))
    assert list((tmp_path / "bench" / "answers").iterdir())
    assert measure(comparison, items, tmp_path / "bench").scores == whole.scores


def test_nothing_is_asked_twice(
    whole: BenchmarkResults,
    loaded: LoadedModel,
    patch: Patch,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = BenchOptions(data=data, **ALL)
    comparison, items = Comparison(loaded, patch, options), load_items(options)
    measure(comparison, items, tmp_path / "bench")
    for name in ("likelihoods", "generate"):
        monkeypatch.setattr(f"unflinch.validate.benchmark_model.{name}", None)
    assert measure(comparison, items, tmp_path / "bench").scores == whole.scores


def test_other_settings_are_not_mixed_in(loaded: LoadedModel, patch: Patch, data: str, tmp_path: Path) -> None:
    options = BenchOptions(data=data, **ALL | {"mmlu": 0, "gsm8k": 0})
    items = load_items(options)
    half, full = (Comparison(loaded, patch, options, strength) for strength in (0.5, 1.0))
    measure(half, items, tmp_path / "bench")
    assert half.name != full.name
    with pytest.raises(RunFolderError, match="strength"):
        measure(full, items, tmp_path / "bench")


def test_a_line_that_was_cut_off_counts_as_missing_and_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    log = AnswerLog(file)
    log.add(["first"], [1.5])
    log.add(["second"], ["line\u2028break"])
    file.write_bytes(file.read_bytes()[:-4])
    torn = AnswerLog(file)
    assert (torn.get(["first"]), torn.get(["second"])) == ([1.5], None)
    torn.add(["third"], [True])
    again = AnswerLog(file)
    assert (again.get(["first"]), again.get(["second"]), again.get(["third"])) == ([1.5], None, [True])


def test_the_model_leaves_as_it_came(loaded: LoadedModel, whole: BenchmarkResults, patch: Patch) -> None:
    fresh = load_model(loaded.source, dtype="float32", device="cpu").model
    ids = (5, 7, 11, 13)
    assert torch.equal(own_logits(loaded.model, ids), own_logits(fresh, ids))


def test_questions_can_go_through_the_chat_template(
    loaded: LoadedModel, patch: Patch, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    encode = BenchmarkModel.tok_encode

    def noting(self: BenchmarkModel, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        seen.append(string)
        return encode(self, string, add_special_tokens)

    monkeypatch.setattr(BenchmarkModel, "tok_encode", noting)
    options = BenchOptions(data=data, chat=True, **ALL | {"mmlu": 2, "hellaswag": 0, "gsm8k": 1})
    measure(Comparison(loaded, patch, options), load_items(options), tmp_path / "chat")
    assert all(text.startswith("<|im_start|>") and "<|im_start|>assistant\n" in text for text in seen)
    assert {text.count("<|im_start|>user") for text in seen} == {3}
