"""`unflinch bench` on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.fake_pipeline import TinyModel, Unflinch
from tiny_benchmarks import write_items
from tiny_models import save_model, tiny_model

FEW = "--mmlu 4 --hellaswag 5 --gsm8k 2 --mmlu-shots 0 --gsm8k-shots 1 --gsm8k-tokens 3 --dtype float32 --device cpu"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_items(tmp_path / "items")


def test_both_scores_are_shown_and_the_same_command_again_shows_them_too(
    unflinch: Unflinch, tiny: TinyModel, data: Path
) -> None:
    command = ("bench", tiny.folder, tiny.patch_folder, "--data", data, "--out", "bench", *FEW.split())
    first, second = unflinch(*command), unflinch(*command)
    assert (first.code, second.code) == (0, 0)
    assert first.out == second.out
    for shown in ("MMLU acc", "HellaSwag acc_norm", "GSM8K strict-match", "\N{PLUS-MINUS SIGN}", "results in"):
        assert shown in first.out
    assert max(map(len, first.out.splitlines()[:-1])) <= 80


def test_json_holds_the_settings_and_what_the_results_file_holds(
    unflinch: Unflinch, tiny: TinyModel, data: Path
) -> None:
    answer = unflinch("bench", tiny.folder, tiny.patch_folder, "--data", data, "--out", "bench", "--json", *FEW.split())
    shown = json.loads(answer.out)
    written = json.loads((Path(shown["folder"]) / "benchmarks.json").read_text(encoding="utf-8"))
    assert {key: value for key, value in shown.items() if key != "folder"} == written
    assert shown["settings"]["bench"]["mmlu"] == 4


def test_a_mistake_is_told_before_a_model_is_loaded(unflinch: Unflinch, tiny: TinyModel, data: Path) -> None:
    (data / "hellaswag_val.jsonl").unlink()
    answer = unflinch("bench", "no/model", tiny.patch_folder, "--data", data, *FEW.split())
    assert (answer.code, answer.out) == (2, "")
    assert "hellaswag_val.jsonl" in answer.err
    answer = unflinch("bench", "no/model", tiny.patch_folder, "--data", data, *FEW.split(), "--mmlu", "-3")
    assert answer.code == 2
    assert "bench.mmlu is -3" in answer.err


def test_a_patch_for_another_model_is_refused(unflinch: Unflinch, tiny: TinyModel, data: Path, tmp_path: Path) -> None:
    other = save_model(tiny_model("llama", seed=1), tmp_path / "other")
    answer = unflinch("bench", other, tiny.patch_folder, "--data", data, *FEW.split())
    assert answer.code == 2
    assert "made for base weights" in answer.err
