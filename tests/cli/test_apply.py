"""`unflinch apply` on a tiny random model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli.fake_pipeline import TinyModel, Unflinch
from tiny_models import own_logits
from transformers import AutoModelForCausalLM

from unflinch.models.load import load_model
from unflinch.patch.attach import attached

IDS = (5, 7, 11, 13, 17)
OPTIONS = ("--dtype", "float32", "--device", "cpu")


def test_the_copy_answers_as_the_patched_model(unflinch: Unflinch, tiny: TinyModel) -> None:
    assert unflinch("apply", tiny.folder, tiny.patch_folder, "copy", "--strength", "0.5", *OPTIONS).code == 0
    base = load_model(str(tiny.folder), dtype="float32", device="cpu").model
    with attached(base, tiny.patch, 0.5):
        expected = own_logits(base, IDS)
    copy = AutoModelForCausalLM.from_pretrained("copy")
    torch.testing.assert_close(own_logits(copy, IDS), expected, atol=1e-4, rtol=0)


def test_nothing_but_the_folder_is_printed(tiny: TinyModel, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unflinch", "apply", tiny.folder, tiny.patch_folder, "copy", *OPTIONS]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "copy\n", "")


def test_a_strength_beyond_the_validated_one_is_warned_about(unflinch: Unflinch, tiny: TinyModel) -> None:
    answer = unflinch("apply", tiny.folder, tiny.patch_folder, "copy", "--strength", "1.5", *OPTIONS)
    assert answer.code == 0
    assert "warning: strength 1.5 goes beyond" in answer.err


def test_the_current_folder_is_not_written_over(unflinch: Unflinch, tiny: TinyModel) -> None:
    answer = unflinch("apply", tiny.folder, tiny.patch_folder, ".")
    assert answer.code == 2
    assert ". is the current folder; give the name of a new one" in answer.err


@pytest.mark.parametrize("command", ["chat", "bench", "apply", "export"])
def test_a_strength_that_is_no_number_is_told_before_anything_is_loaded(
    unflinch: Unflinch, tiny: TinyModel, command: str
) -> None:
    out = ["out"] if command in ("apply", "export") else []
    answer = unflinch(command, "no/model", tiny.patch_folder, *out, "--strength", "nan")
    assert answer.code == 2
    assert "strength is nan; expected a number" in answer.err


def test_neither_a_folder_in_use_nor_the_model_itself_is_overwritten(unflinch: Unflinch, tiny: TinyModel) -> None:
    Path("full").mkdir()
    Path("full/own.txt").write_text("mine", encoding="utf-8")
    before = (tiny.folder / "model.safetensors").read_bytes()
    for out in ("full", tiny.folder):
        assert unflinch("apply", tiny.folder, tiny.patch_folder, out).code == 2
    assert [path.name for path in Path("full").iterdir()] == ["own.txt"]
    assert (tiny.folder / "model.safetensors").read_bytes() == before
