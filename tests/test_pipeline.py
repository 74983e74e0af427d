"""Whole runs on a tiny model that really over-refuses: what they write, what they must not, and how they go on."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from planted_model import ANSWER, REFUSAL, SETTINGS, config_for, planted_splits, write_config
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from unflinch import pipeline
from unflinch.data.prompts import bundled, guard_prompts
from unflinch.errors import InputError, PromptSetError, RunFolderError
from unflinch.models.load import load_model
from unflinch.provenance import changed_files, from_json, read_provenance, to_json
from unflinch.results import Judgement
from unflinch.run_folder import RunFolder, plain
from unflinch.steps import baseline as baseline_step
from unflinch.steps import fit as fit_step
from unflinch.steps import results as results_step
from unflinch.steps import scan as scan_step
from unflinch.validate.judges import RuleJudge

tool: Any = importlib.import_module("soak")
soak, UNLIKE = tool.soak, tool.UNLIKE

pytestmark = pytest.mark.xdist_group("planted")
"""One process trains the planted model and runs it, for all tests here and in the other file of this group."""

STEPS = ("baseline", "scan", "fit", "validate", "report")
KINDS = ("target", "keep", "guard")


def results_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text(encoding="utf-8")))


def comparable(results: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key not in UNLIKE}


def patch_tensors(folder: Path) -> dict[str, list[list[float]]]:
    """Return the tensors; the file's own bytes depend on the order of its metadata, which is random."""
    return {name: tensor.tolist() for name, tensor in load_file(folder / "patch" / "adapter_model.safetensors").items()}


def steps_done(folder: Path) -> list[str]:
    return [step for step in STEPS if RunFolder(folder).done(step)]


def copied(finished: Path, folder: Path, without: tuple[str, ...]) -> Path:
    """Return a copy of the finished run as it was before these steps."""
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "patch", ignore_errors=True)
    for name in (*(f"steps/{step}.json" for step in (*without, "report")), "results.json", "report.html"):
        (folder / name).unlink()
    if "fit" in without:
        for factors in (folder / "steps").glob("fit*.safetensors"):
            factors.unlink()
    return folder


def test_the_planted_model_answers_and_refuses_as_the_judge_understands_it(planted: Path) -> None:
    judge = RuleJudge()
    splits = planted_splits()
    assert {judge(p.text, REFUSAL).label for p in (*splits.test.guard, *splits.test.keep)} == {"refuses"}
    answered = [judge(p.text, ANSWER).label for p in (*splits.test.targets, *splits.test.ordinary)]
    assert answered.count("answers") > 0.95 * len(answered)


def test_a_run_writes_every_figure_and_the_report(finished: Path) -> None:
    results = results_of(finished)
    assert results["targets"]["refused_before"] == results["targets"]["n"] > 0
    assert 0 <= results["targets"]["refused_after"] <= results["targets"]["n"]
    for kind in ("keep", "guard"):
        found = results[kind]
        assert found["n"] > 0
        assert found["lost"] == found["refused_before"] - found["refused_after"]
    for name in ("mean", "p95", "p99", "max", "n", "cvar95"):
        assert results["kl"]["first_token"][name] >= 0
        assert results["kl"]["sequence"][name] >= 0
    assert results["kl"]["first_token_all"]["n"] >= results["kl"]["first_token"]["n"]
    for rows in results["kl"]["groups"].values():
        assert sum(row["sequence"]["n"] for row in rows) == results["kl"]["sequence"]["n"]
    assert results["kl"]["positions"][0]["kl"]["mean"] == pytest.approx(results["kl"]["first_token"]["mean"])
    dialogues = results["dialogues"]
    assert dialogues["n"] + dialogues["left_out"] == SETTINGS["validate"]["dialogues"]
    assert [turn["turn"] for turn in dialogues["turns"]] == [1, 2, 3]
    assert len(dialogues["dialogues"]) == dialogues["babbling"]["n"] == dialogues["n"]
    for name in ("targets_refused", "keep_lost", "guard_lost", "kl_first_token_mean"):
        assert results["directional_ablation"][name] >= 0
    seconds = results["seconds"]
    assert seconds["total"] == pytest.approx(sum(seconds[name] for name in STEPS), abs=0.01)
    assert results["verdict"]["passed"] == all(limit["passed"] for limit in results["verdict"]["limits"])
    assert "<html" in (finished / "report.html").read_text(encoding="utf-8")


def test_a_run_brings_false_refusals_down_and_keeps_the_right_ones(finished: Path) -> None:
    results = results_of(finished)
    assert results["targets"]["refused_after"] <= 0.75 * results["targets"]["refused_before"]
    assert results["guard"]["lost"] == 0
    assert results["verdict"]["passed"], [limit for limit in results["verdict"]["limits"] if not limit["passed"]]


def test_a_round_that_is_rolled_back_ends_the_rounds(planted: Path, tmp_path: Path) -> None:
    stages = pipeline.run_fit(config_for(planted, fit={"rounds": 3}), tmp_path / "run")["stages"]
    rounds = [stage for stage in stages if stage["name"].startswith("constrained")]
    assert rounds
    assert not any("rolled back" in stage["note"] for stage in rounds[:-1])


def test_the_verdict_is_of_prompts_that_no_earlier_step_has_seen(finished: Path) -> None:
    asked = json.loads((finished / "steps" / "baseline.json").read_text(encoding="utf-8"))["data"]
    rows = [row for part in ("fit", "select") for kind in asked[part].values() for row in kind]
    seen = {row["key"] if isinstance(row, dict) else row for row in rows}
    splits = planted_splits()
    assert seen == {p.key for s in (splits.fit, splits.select) for k in vars(s).values() for p in k}
    judged = {outcome["text"] for outcome in results_of(finished)["outcomes"]}
    assert judged <= {p.text for k in vars(splits.test).values() for p in k}


def test_answers_to_keep_and_guard_prompts_are_nowhere_in_the_run_folder(finished: Path) -> None:
    outcomes = results_of(finished)["outcomes"]
    texts = {kind: [o["before_text"] + o["after_text"] for o in outcomes if o["kind"] == kind] for kind in KINDS}
    assert all(texts["target"])
    assert not any(texts["keep"]) and not any(texts["guard"])
    baseline = json.loads((finished / "steps" / "baseline.json").read_text(encoding="utf-8"))["data"]
    for part in ("fit", "select"):
        for kind in ("keep", "guard"):
            assert not any(row["tokens"] for row in baseline[part][kind] if row["label"] != "refuses")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's
def test_plain_peft_loads_the_patch_and_it_takes_refusals_away(planted: Path, finished: Path) -> None:
    loaded = load_model(str(planted), dtype="float32", device="cpu")
    base = AutoModelForCausalLM.from_pretrained(planted, dtype=torch.float32).eval()
    (sorry,) = loaded.tokenizer.encode(REFUSAL)
    cured = [o for o in results_of(finished)["outcomes"] if o["kind"] == "target" and o["after"] == "answers"]
    by_text = {p.text: p for p in planted_splits().test.targets}
    assert cured
    chats = [by_text[o["text"]].conversation() for o in cured[:4]]
    rows = [loaded.tokenizer.apply_chat_template(c, add_generation_prompt=True, return_tensors="pt") for c in chats]
    ids = [row["input_ids"] if not isinstance(row, torch.Tensor) else row for row in rows]
    with torch.no_grad():
        before = [base(input_ids=row).logits[0, -1] for row in ids]
        assert [int(logits.argmax()) for logits in before] == [sorry] * len(ids)
        patched = PeftModel.from_pretrained(base, str(finished / "patch"))
        assert sorry not in [int(patched(input_ids=row).logits[0, -1].argmax()) for row in ids]
        with patched.disable_adapter():
            assert all(
                torch.equal(patched(input_ids=row).logits[0, -1], logits)
                for row, logits in zip(ids, before, strict=True)
            )


def test_the_patch_says_what_it_is_and_what_was_measured(planted: Path, finished: Path) -> None:
    results, record = results_of(finished), read_provenance(finished / "patch")
    assert record is not None
    assert changed_files(finished / "patch", record) == []
    assert record.passed
    assert plain(record.verdict) == results["verdict"]
    assert record.base.weight_hash == results["model"]["base_hash"]
    guard = sorted(prompt.key for prompt in planted_splits().test.guard)
    assert record.data["test"]["guard"].n == len(guard)
    assert (
        record.data["test"]["guard"].sha256 == hashlib.sha256("".join(f"{key}\n" for key in guard).encode()).hexdigest()
    )
    assert len({prompts.sha256 for kinds in record.data.values() for prompts in kinds.values()}) == 12
    with safe_open(finished / "patch" / "adapter_model.safetensors", framework="pt") as stream:
        assert from_json(stream.metadata()["unflinch_provenance"], "the file") == replace(record, files={})
    assert str(planted.parent) not in to_json(record)


def test_nothing_of_a_waiting_patch_is_left_behind(finished: Path) -> None:
    assert (finished / "patch" / "README.md").is_file()
    assert not (finished / "steps" / "unverified_patch").exists()
    assert not list(finished.rglob("*unfinished*"))


def test_where_the_guard_is_lost_neither_patch_nor_factors_are_left(
    planted: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(finished, tmp_path / "run", ("fit", "validate"))
    original = fit_step.choose_strength

    def far_too_strong(*args: Any) -> Any:
        return 50.0, original(*args)[1]

    monkeypatch.setattr(fit_step, "choose_strength", far_too_strong)
    results = pipeline.run(config_for(planted), folder, resume=True)
    assert results["guard"]["lost"] > 0 and not results["verdict"]["passed"]
    assert not list(folder.rglob("*adapter*")) and not list(folder.rglob("fit*.safetensors"))
    assert not (folder / "patch").exists()
    again = pipeline.run(config_for(planted), folder, resume=True)  # reads back what it found
    assert comparable(again) == comparable(results)
    assert not list(folder.rglob("fit*.safetensors")) and not (folder / "patch").exists()


def test_keep_best_does_not_keep_a_patch_that_loses_one_guard_refusal(
    planted: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(finished, tmp_path / "run", ("validate",))
    forgive(folder, keep_best=True)
    original = results_step.validate_patch

    def one_lost(*args: Any, **kwargs: Any) -> Any:
        judged = RuleJudge.__call__
        victim = next(p.text for p in planted_splits().test.guard)
        asked: list[str] = []

        def judge(self: RuleJudge, prompt: str, answer: str) -> Judgement:
            if prompt == victim:
                asked.append(prompt)
                if len(asked) > 1:  # before: refused; after: not
                    return Judgement("partly", 0.7)
            return judged(self, prompt, answer)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(RuleJudge, "__call__", judge)
            return original(*args, **kwargs)

    monkeypatch.setattr(results_step, "validate_patch", one_lost)
    results = pipeline.run(config_for(planted, validate={"keep_best": True}), folder, resume=True)
    assert results["guard"]["lost"] == 1
    assert not (folder / "patch").exists() and not list(folder.rglob("fit*.safetensors"))


def forgive(folder: Path, **validate: Any) -> None:
    """Change validation options of a copied run: the steps before do not depend on them."""
    file = folder / "settings.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["validate"].update(validate)
    file.write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize("keep_best", [False, True])
def test_a_patch_that_misses_a_limit_is_written_only_with_keep_best(
    planted: Path, finished: Path, tmp_path: Path, keep_best: bool
) -> None:
    impossible = {"max_kl_first_token": 1e-9, "keep_best": keep_best}
    folder = copied(finished, tmp_path / "run", ("validate",))
    forgive(folder, **impossible)
    results = pipeline.run(config_for(planted, validate=impossible), folder, resume=True)
    assert not results["verdict"]["passed"]
    assert results["guard"]["lost"] == 0
    assert (folder / "patch" / "adapter_model.safetensors").is_file() == keep_best
    assert bool(list(folder.rglob("fit*.safetensors"))) == keep_best
    assert not (folder / "steps" / "unverified_patch").exists()


class Interrupted(Exception):
    """Stands for anything that ends a run in the middle of a step."""


PLACES: dict[str, tuple[Any, str]] = {
    "baseline": (baseline_step, "_noise_floor"),
    "scan": (scan_step, "model_openings"),
    "fit, after the closed form": (fit_step, "fine_tuned"),
    "fit, at its end": (fit_step, "choose_strength"),
    "validate": (results_step, "validate_patch"),
    "report": (pipeline, "build_report"),
    "keeping the patch": (RunFolder, "accept_patch"),
}


@pytest.mark.long
def test_a_run_interrupted_in_every_step_ends_as_an_uninterrupted_one(
    planted: Path, finished: Path, tmp_path: Path
) -> None:
    folder, config = tmp_path / "whole", config_for(planted)

    def stop(*_: Any, **__: Any) -> None:
        raise Interrupted

    for attempt, (module, name) in enumerate(PLACES.values()):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, name, stop)
            with pytest.raises(Interrupted):
                pipeline.run(config, folder, resume=attempt > 0)
        assert not (folder / "patch").exists()
    assert comparable(pipeline.run(config, folder, resume=True)) == comparable(results_of(finished))
    assert patch_tensors(folder) == patch_tensors(finished)
    again = pipeline.run(config, folder, resume=True)  # all is there already
    assert comparable(again) == comparable(results_of(finished))
    assert patch_tensors(folder) == patch_tensors(finished)


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_results(planted: Path, tmp_path: Path) -> None:
    found = soak(write_config(planted, tmp_path / "run.toml"), tmp_path / "runs", kills=2, seed=1)
    assert found["kills"] == 2
    assert found["different"] == []


def test_a_run_is_not_resumed_with_other_settings_nor_overwritten(planted: Path, finished: Path) -> None:
    with pytest.raises(RunFolderError, match=r"other settings \(fit.rank\)"):
        pipeline.run(config_for(planted, fit={"rank": 3}), finished, resume=True)
    with pytest.raises(RunFolderError, match="already holds a run"):
        pipeline.run(config_for(planted), finished)


def write_targets(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answered_rows() -> list[dict[str, str]]:
    return [{"text": f"{p.text} ", "category": p.category} for p in bundled("targets")[:400:4]]


def test_targets_that_the_model_does_not_refuse_are_turned_down(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = RuleJudge.__call__
    harmless = {p.text for p in bundled("targets")}

    def judge(self: RuleJudge, prompt: str, answer: str) -> Judgement:
        return Judgement("answers", 0.0) if prompt in harmless else judged(self, prompt, answer)

    monkeypatch.setattr(RuleJudge, "__call__", judge)
    with pytest.raises(PromptSetError, match=r"refuses 0 of the \d+ targets in 'fit'.*unflinch mine"):
        pipeline.run(config_for(planted), tmp_path / "run")


@pytest.mark.parametrize("what", ["a guard prompt", "one category", "nothing"])
def test_targets_that_may_not_be_used_are_turned_down_before_anything_is_made(
    planted: Path, tmp_path: Path, what: str
) -> None:
    rows = {
        "a guard prompt": [*answered_rows(), {"text": guard_prompts()[3].text, "category": "law_tax"}],
        "one category": [{**row, "category": "law_tax"} for row in answered_rows()],
        "nothing": [],
    }[what]
    targets = write_targets(tmp_path / "targets.jsonl", rows)
    messages = {"a guard prompt": "guard prompt", "one category": "one category", "nothing": "prompts"}
    with pytest.raises(InputError if what == "nothing" else PromptSetError, match=messages[what]):
        pipeline.run(config_for(planted, prompts={"targets": str(targets)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _disk_full(step: str) -> Callable[..., Any]:
    original = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name.startswith(step):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(source, target)

    return replace


@pytest.mark.parametrize(("step", "without"), [("fit", ("fit", "validate")), ("validate", ("validate",))])
def test_a_full_disk_is_told_and_leaves_earlier_steps_as_they_are(
    planted: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, without: tuple[str, ...]
) -> None:
    folder = copied(finished, tmp_path / "run", without)
    before = {path.name: path.read_bytes() for path in (folder / "steps").glob("*.json")}
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", _disk_full(step))
        with pytest.raises(RunFolderError, match="free some disk space"):
            pipeline.run(config_for(planted), folder, resume=True)
    assert {path.name: path.read_bytes() for path in (folder / "steps").glob("*.json")} == before
    assert not list(folder.rglob("*unfinished*"))
    assert not (folder / "patch").exists()
