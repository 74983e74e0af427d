"""The story of a run: baseline, scan, fit, validate, report. One call a step; each can be resumed.

Nothing is computed here. A step that has finished is read back from the run folder, so that an interrupted run goes on
where it stopped and ends with the same result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unflinch.config import RunConfig
from unflinch.data.mine import MinedPrompts
from unflinch.data.prompts import Prompt
from unflinch.patch.save import load_patch
from unflinch.report.build import build_report
from unflinch.run_folder import RunFolder
from unflinch.steps import baseline as baseline_step
from unflinch.steps import edit_cost as edit_cost_step
from unflinch.steps import fit as fit_step
from unflinch.steps import forms as forms_step
from unflinch.steps import mechanism as mechanism_step
from unflinch.steps import mine as mine_step
from unflinch.steps import results as results_step
from unflinch.steps import scan as scan_step
from unflinch.steps import store
from unflinch.steps import stress as stress_step
from unflinch.steps.baseline import Baseline
from unflinch.steps.opened import Run, StepDone, load_from, start_run
from unflinch.steps.progress import Progress, silent
from unflinch.steps.scan import Scan


def run(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    thorough: bool = False,
    progress: Progress | None = None,
    step_done: StepDone | None = None,
) -> dict[str, Any]:
    """Run every step and return the content of `results.json`.

    The patch is written to `folder/patch` if its verdict passes (or with `validate.keep_best`, if its guard does).

    Args:
        config: all options.
        folder: the run folder, made if missing.
        resume: go on with what is there.
        thorough: measure every form of the patch, stress, and how the model refuses, too.
        progress: called while a step works.
        step_done: called when a step ends.

    Raises:
        InputError: for anything that the user can put right; see `errors`.
    """
    opened = start_run(config, folder, resume, progress, step_done)
    baseline = measure_baseline(opened)
    scan = scan_model(opened, baseline)
    fit_patch(opened, baseline, scan)
    validate_patch(opened, baseline, scan)
    if thorough:
        describe_mechanism(opened, baseline, scan)
        validate_forms(opened)
        stress_patch(opened)
    return report_run(opened, baseline)


def run_scan(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    step_done: StepDone | None = None,
) -> dict[str, Any]:
    """Run baseline and scan only; return what the scan found: also how the model refuses, and what a patch will cost.

    Arguments as for `run`, which goes on from there with `resume`.
    """
    opened = start_run(config, folder, resume, progress, step_done)
    baseline = measure_baseline(opened)
    scan = scan_model(opened, baseline)
    mechanism, cost = describe_mechanism(opened, baseline, scan), estimate_cost(opened, baseline, scan)
    return {**scan.summary(), "mechanism": mechanism, "edit_cost": cost}


def run_fit(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    step_done: StepDone | None = None,
) -> dict[str, Any]:
    """Run baseline, scan and fit only; return the stages of the fit. Arguments as for `run`."""
    opened = start_run(config, folder, resume, progress, step_done)
    baseline = measure_baseline(opened)
    fit_patch(opened, baseline, scan_model(opened, baseline))
    return dict(opened.folder.read_step("fit")["data"])


def run_validate(
    config: RunConfig,
    folder: Path,
    *,
    thorough: bool = True,
    progress: Progress | None = None,
    step_done: StepDone | None = None,
) -> dict[str, Any]:
    """Validate and report a run whose fit is done; return the content of `results.json`. Arguments as for `run`."""
    results_step.check_measurable(RunFolder(folder), thorough)
    return run(config, folder, resume=True, thorough=thorough, progress=progress, step_done=step_done)


def mine(config: RunConfig, candidates: tuple[Prompt, ...], *, progress: Progress | None = None) -> MinedPrompts:
    """Return the candidates that the model really refuses, with warnings about their breadth."""
    return mine_step.mine_prompts(load_from(config.model), candidates, config.scan, progress or silent)


def measure_baseline(opened: Run) -> Baseline:
    """Step 1: who refuses what."""
    fit, select = opened.splits.fit, opened.splits.select

    def work() -> dict[str, Any]:
        found = baseline_step.measure_baseline(opened.loaded, fit, select, opened.config.scan, opened.progress)
        return baseline_step.to_json(found)

    stored = opened.step("baseline", work, store.baseline_headline)
    found = baseline_step.from_json(stored, fit, select)
    fitted = opened.folder.done("scan") and opened.folder.done("fit")
    return found if fitted else baseline_step.with_thoughts(opened.loaded, found, opened.config.scan)


def scan_model(opened: Run, baseline: Baseline) -> Scan:
    """Step 2: where false refusals part from right ones."""
    tensors = opened.folder.step_file("scan", ".safetensors")

    def work() -> dict[str, Any]:
        found = scan_step.scan_model(opened.loaded, baseline, opened.config.scan, opened.progress)
        opened.folder.write_file(tensors, lambda path: scan_step.save_scan(found, path))
        return found.summary()

    summary = opened.step("scan", work, store.scan_headline)
    return scan_step.load_scan(tensors, summary)


def fit_patch(opened: Run, baseline: Baseline, scan: Scan) -> None:
    """Step 3: the patch, stage by stage; its factors wait in the run folder."""

    def work() -> dict[str, Any]:
        checkpoint = store.checkpoints(opened.folder)
        with opened.workspace() as space:
            patch, stages, summary = fit_step.fit_patch(
                opened.loaded, baseline, scan, opened.config.fit, opened.progress, checkpoint, space
            )
        store.save_factors(opened.folder, "fit", patch)
        return {"stages": stages, "patch": summary}

    opened.step("fit", work, store.fit_headline)


def validate_patch(opened: Run, baseline: Baseline, scan: Scan) -> None:
    """Step 4: the exported patch on test prompts."""

    def work() -> dict[str, Any]:
        patch = store.load_factors(opened.folder, "fit")
        return results_step.validate_export(opened, baseline, scan, patch)

    opened.step("validate", work, store.validate_headline)


def describe_mechanism(opened: Run, baseline: Baseline, scan: Scan) -> dict[str, Any]:
    """Thorough: how the base model refuses, by one mechanism or several."""

    def work() -> Any:
        known = baseline_step.with_thoughts(opened.loaded, baseline, opened.config.scan)
        return mechanism_step.describe_mechanism(opened.loaded, known, scan, opened.progress)

    return dict(opened.step("mechanism", work, store.mechanism_headline))


def estimate_cost(opened: Run, baseline: Baseline, scan: Scan) -> dict[str, Any]:
    """Scan only: what every module is worth to a patch, and the least KL that one will cost."""

    def work() -> Any:
        known = baseline_step.with_thoughts(opened.loaded, baseline, opened.config.scan)
        return edit_cost_step.edit_cost(opened.loaded, known, scan, opened.config.fit, opened.progress)

    return dict(opened.step("edit_cost", work, store.edit_cost_headline))


def validate_forms(opened: Run) -> None:
    """Thorough: the patch in every form in which people run it."""

    def work() -> Any:
        patch, test = load_patch(results_step.exported_patch(opened.folder)), opened.splits.test
        return forms_step.validate_forms(opened.loaded, patch, test, opened.config.validate, opened.progress)

    opened.step("forms", work, store.forms_headline)


def stress_patch(opened: Run) -> None:
    """Thorough: refusals under other words, system prompts, an insisting user, and sampling."""

    def work() -> Any:
        patch, test = load_patch(results_step.exported_patch(opened.folder)), opened.splits.test
        return stress_step.stress_patch(opened.loaded, patch, test, opened.config.validate, opened.progress)

    opened.step("stress", work, store.stress_headline)


def report_run(opened: Run, baseline: Baseline) -> dict[str, Any]:
    """Step 5: results and report; the patch is kept if it passed and removed if it did not."""
    if not results_step.complete(opened.folder):
        opened.folder.forget_step("report")

    def work() -> dict[str, Any]:
        results_step.write_results(opened, baseline)
        return {"report": str(build_report(opened.folder.path))}

    opened.step("report", work, dict)
    return results_step.finish(opened)
