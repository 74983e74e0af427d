"""A thorough validation: every form of the patch, stress, and how the model refuses; and what fails it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_model import config_for
from transformers import AutoModelForCausalLM, AutoTokenizer

from unflinch import pipeline
from unflinch.errors import RunFolderError
from unflinch.models.number_formats import NUMBER_FORMATS
from unflinch.report.run_results import read_results
from unflinch.robustness_results import GONE
from unflinch.run_folder import RunFolder
from unflinch.steps import forms as forms_step
from unflinch.steps.mechanism import MOST_DIRECTIONS
from unflinch.validate.stress import CONDITIONS

pytestmark = pytest.mark.xdist_group("planted")


@pytest.fixture(scope="module")
def thorough(planted: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a copy of the finished run, validated thoroughly, but for strengths at which it may lose the guard."""
    folder = tmp_path_factory.mktemp("thorough") / "run"
    shutil.copytree(finished, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forms_step, "DIAL", tuple(strength for strength in forms_step.DIAL if strength <= 1))
        pipeline.run_validate(config_for(planted), folder)
        yield folder


def stored(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text(encoding="utf-8")))


def test_every_form_is_measured_or_said_to_be_missing(thorough: Path) -> None:
    forms = read_results(thorough).forms
    assert forms is not None
    names = [form.form for form in forms.forms]
    assert names[: len(forms_step.DIAL)] == [f"adapter at {strength:g}" for strength in forms_step.DIAL]
    assert "merged, float32" in names
    quantised = {f"merged, {fmt.name}" for fmt in NUMBER_FORMATS}
    assert quantised == {name for name in names if name in quantised} | forms.not_measured.keys()


def test_the_adapter_at_full_strength_is_what_validate_measured(thorough: Path) -> None:
    run = read_results(thorough)
    assert run.forms is not None
    by_name = {form.form: form for form in run.forms.forms}
    full = by_name["adapter at 1"]
    assert full.targets_left.count == run.targets.refused_after
    assert (full.keep_lost.count, full.guard_lost.count) == (run.keep.lost, run.guard.lost)
    assert full.kl_first_token.mean == pytest.approx(run.kl.first_token.mean, rel=1e-4)
    merged = by_name["merged, float32"]
    assert merged.kl_sequence.mean == pytest.approx(full.kl_sequence.mean, rel=0.01)
    kl = [by_name[f"adapter at {strength:g}"].kl_first_token.mean for strength in forms_step.DIAL]
    assert kl == sorted(kl)
    assert by_name["merged, GGUF Q4_0"].kl_of_format > by_name["merged, GGUF Q8_0"].kl_of_format > 0


def test_every_condition_of_stress_is_asked(thorough: Path) -> None:
    stress = read_results(thorough).stress
    assert stress is not None
    assert {one.condition for one in stress.results} == {condition.name for condition in CONDITIONS}
    for one in stress.results:
        assert one.lost.n == one.before.count
        assert one.after.count == one.before.count - one.lost.count + one.gained


def test_directions_are_taken_out_until_hardly_a_refusal_is_left(thorough: Path) -> None:
    mechanism = read_results(thorough).mechanism
    assert mechanism is not None
    left = [one.refused_in_answer.value for one in mechanism.ablations]
    assert all(share > GONE for share in left[:-1])
    assert left[-1] <= GONE or len(left) == MOST_DIRECTIONS
    parts = (mechanism.at_first_token, mechanism.in_thought, mechanism.late)
    assert sum(part.count for part in parts) == parts[0].n > 0
    assert mechanism.at_first_token.value == 1  # the planted model says "I'm" or "Sure"
    assert max(mechanism.depth_auroc) > 0.9


def test_a_thorough_validation_is_in_verdict_and_report_and_is_read_back(planted: Path, thorough: Path) -> None:
    results = stored(thorough)
    assert "guard refusals lost, worst form" in {limit["name"] for limit in results["verdict"]["limits"]}
    page = (thorough / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{section}"' in page for section in ("mechanism", "forms", "stress"))
    assert pipeline.run_validate(config_for(planted), thorough)["forms"] == results["forms"]
    assert stored(thorough) == results
    assert (thorough / "patch").is_dir()


def test_a_brief_run_says_nothing_of_what_was_not_measured(finished: Path) -> None:
    results = stored(finished)
    assert results["forms"] is results["stress"] is results["mechanism"] is None
    assert 'id="forms"' not in (finished / "report.html").read_text(encoding="utf-8")


def test_a_guard_lost_in_one_form_takes_the_patch_away(
    planted: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    monkeypatch.setattr(forms_step, "DIAL", (1.0, 50.0))
    monkeypatch.setattr(forms_step, "NUMBER_FORMATS", ())
    monkeypatch.setattr("unflinch.steps.stress.CONDITIONS", CONDITIONS[:1])
    results = pipeline.run_validate(config_for(planted), folder)
    missed = [limit["name"] for limit in results["verdict"]["limits"] if not limit["passed"]]
    assert missed == ["guard refusals lost, worst form"]
    assert results["guard"]["lost"] == 0
    assert not (folder / "patch").exists() and not list(folder.rglob("*adapter*"))
    RunFolder(folder).forget_step("stress")
    with pytest.raises(RunFolderError, match="missed a limit and was removed"):
        pipeline.run_validate(config_for(planted), folder)


def test_a_patch_validated_on_other_weights_than_it_was_fitted_to_fails(
    planted: Path, finished: Path, tmp_path: Path
) -> None:
    other, folder = tmp_path / "other", tmp_path / "run"
    model = AutoModelForCausalLM.from_pretrained(planted, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 0.001
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(planted).save_pretrained(other)
    shutil.copytree(finished, folder)
    for name in ("steps/validate.json", "steps/report.json", "results.json"):
        (folder / name).unlink()
    settings = folder / "settings.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace(str(planted), str(other)), encoding="utf-8")
    results = pipeline.run(config_for(other), folder, resume=True)
    missed = [limit["name"] for limit in results["verdict"]["limits"] if not limit["passed"]]
    assert "base weights that are not those of the fit" in missed
    assert not (folder / "patch").exists()


def test_a_scan_tells_what_every_module_is_worth_and_what_a_patch_costs(planted: Path, thorough: Path) -> None:
    found = pipeline.run_scan(config_for(planted), thorough, resume=True)
    cost = found["edit_cost"]
    edited = {f"model.layers.{layer}.mlp.down_proj" for layer in found["layers"]}
    assert {one["module"] for one in cost["modules"] if one["chosen"]} == edited
    assert len(cost["modules"]) == found["number_of_layers"]
    assert all(0 <= one["guarded"] <= one["targets"] for one in cost["modules"])
    assert cost["shift"] > 0
    assert cost["least_kl"] is None or 0 < cost["least_kl_unguarded"] <= cost["least_kl"]
