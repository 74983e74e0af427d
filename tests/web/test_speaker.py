"""The model behind the page, on a tiny random one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_model, tiny_model
from tiny_patches import random_patch

from unflinch.data.prompts import Prompt
from unflinch.errors import PatchError
from unflinch.models.chat import encode
from unflinch.models.generate import generate
from unflinch.models.load import LoadedModel, load_model
from unflinch.patch.answer import Side
from unflinch.patch.attach import attached
from unflinch.patch.save import load_patch, save_patch
from unflinch.report.run_results import RunResults
from unflinch.web.runs import Runs
from unflinch.web.speaker import Speaker, SpeakerOptions

ASKED = "What is the capital"


@pytest.fixture(scope="module")
def loaded(root: Path) -> LoadedModel:
    return load_model(str(root.parent / "model"), dtype="float32", device="cpu")


def own_answer(loaded: LoadedModel, max_tokens: int = 6) -> str:
    """What `generate` of transformers answers."""
    ids = torch.tensor([encode(loaded.tokenizer, Prompt(ASKED))])
    output = loaded.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens, pad_token_id=0
    )
    return str(loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def said(speaker: Speaker, runs: Runs, side: Side, strength: float = 1.0, run: str = "demo") -> list[str]:
    turns = [{"role": "user", "content": ASKED}]
    return list(speaker.answers(runs.folder(run), runs.results(run), turns, side, strength))


@pytest.mark.parametrize("run", ["demo", "other"])
def test_each_side_answers_as_the_model_with_and_without_the_runs_patch(
    speaker: Speaker, runs: Runs, loaded: LoadedModel, run: str
) -> None:
    with attached(loaded.model, load_patch(runs.folder(run) / "patch"), 0.5):
        patched = own_answer(loaded)
    original = own_answer(loaded)
    assert patched != original
    assert said(speaker, runs, "original", 0.5, run)[-1] == original
    assert said(speaker, runs, "patched", 0.5, run)[-1] == patched
    assert said(speaker, runs, "patched", 0.0, run)[-1] == original
    assert speaker.ready(runs.folder(run))


def test_an_answer_grows(speaker: Speaker, runs: Runs) -> None:
    texts = said(speaker, runs, "patched")
    assert all(texts[-1].startswith(text) for text in texts)


def test_a_closed_answer_ends_early_and_the_next_one_begins(runs: Runs) -> None:
    long = Speaker(SpeakerOptions(max_tokens=100_000, device="cpu"))
    turns = [{"role": "user", "content": ASKED}]
    for _ in range(2):  # the second one has to wait for the thread of the first
        answer = long.answers(runs.folder("demo"), runs.results("demo"), turns, "patched", 1.0)
        next(answer)
        answer.close()
    long.close()


def test_closing_ends_an_answer_that_nobody_reads_any_more(runs: Runs) -> None:
    long = Speaker(SpeakerOptions(max_tokens=100_000, device="cpu"))
    turns = [{"role": "user", "content": ASKED}]
    answer = long.answers(runs.folder("demo"), runs.results("demo"), turns, "patched", 1.0)
    next(answer)
    long.close()  # returns only because the answer ends


def test_a_patch_for_other_weights_is_refused_and_then_nothing_is_open(tmp_path: Path, runs: Runs) -> None:
    other = save_model(tiny_model("llama", seed=1), tmp_path / "model")
    results = runs.results("demo")
    foreign = replace(results, model=replace(results.model, id=str(other)))
    speaker = Speaker(SpeakerOptions(max_tokens=6, device="cpu"))
    with pytest.raises(PatchError, match="made for base weights"):
        list(speaker.answers(runs.folder("demo"), foreign, [{"role": "user", "content": ASKED}], "original", 1.0))
    assert not speaker.ready(runs.folder("demo"))
    speaker.close()


def with_model_settings(runs: Runs, **changes: Any) -> RunResults:
    """Return the results of the demo run as if it had been made with other options of its model."""
    results = runs.results("demo")
    return replace(results, settings={**results.settings, "model": {**results.settings["model"], **changes}})


def test_prompts_are_asked_under_the_system_prompt_of_the_run(runs: Runs, loaded: LoadedModel) -> None:
    turns = [{"role": "user", "content": ASKED}]
    ids = encode(loaded.tokenizer, Prompt(ASKED, system="You answer in rhymes."))
    expected = loaded.tokenizer.decode(generate(loaded.model, loaded.tokenizer, [ids], 6)[0])
    speaker = Speaker(SpeakerOptions(max_tokens=6, device="cpu"))
    ruled = with_model_settings(runs, system_prompt="You answer in rhymes.")
    assert list(speaker.answers(runs.folder("demo"), ruled, turns, "original", 1.0))[-1] == expected.rstrip()
    assert expected.rstrip() != own_answer(loaded)
    speaker.close()


def test_a_run_on_quantised_weights_opens_with_the_same(tmp_path: Path, runs: Runs) -> None:
    pytest.importorskip("bitsandbytes")
    results = with_model_settings(runs, load_in="4bit")
    packed = load_model(results.model.id, dtype="float32", device="cpu", load_in="4bit")
    save_patch(random_patch(packed.model, base_hash=packed.base_hash), tmp_path / "patch", "tiny")
    turns = [{"role": "user", "content": ASKED}]
    for held, fits in ((results, True), (runs.results("demo"), False)):
        speaker = Speaker(SpeakerOptions(max_tokens=6, device="cpu"))
        with nullcontext() if fits else pytest.raises(PatchError, match="made for base weights"):
            assert list(speaker.answers(tmp_path, held, turns, "patched", 1.0))
        speaker.close()


def test_a_run_that_workers_shared_is_opened_by_the_page_alone(runs: Runs, loaded: LoadedModel) -> None:
    shared = with_model_settings(runs, spread="workers", max_memory=1e-6)
    speaker = Speaker(SpeakerOptions(max_tokens=6, device="cpu"))
    turns = [{"role": "user", "content": ASKED}]
    assert list(speaker.answers(runs.folder("demo"), shared, turns, "original", 1.0))[-1] == own_answer(loaded)
    speaker.close()
