"""The end of a run: export, validation of what was exported, `results.json`, and whether the patch is kept."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from unflinch.artifacts import Patch
from unflinch.config import as_settings
from unflinch.data.splits import KINDS, PromptSets, Splits, hash_prompts
from unflinch.errors import RunFolderError
from unflinch.models.workers import everyones
from unflinch.patch.save import load_patch, save_patch
from unflinch.provenance import read_provenance, to_json, write_provenance
from unflinch.report.model_card import model_card
from unflinch.report.provenance import patch_provenance
from unflinch.results import guard_passed, is_kept
from unflinch.robustness_results import FormReport
from unflinch.run_folder import RESULTS, RunFolder, disk_error, plain, read_object, write_json
from unflinch.steps.baseline import Baseline
from unflinch.steps.opened import Run
from unflinch.steps.scan import Scan
from unflinch.steps.validate import validate_patch
from unflinch.validate.verdict import form_limits

STEPS = ("baseline", "scan", "fit", "validate", "report")
THOROUGH = ("mechanism", "forms", "stress")
"""Steps of a thorough validation: each has a key of its name in `results.json`, null if it was not done."""


def validate_export(opened: Run, baseline: Baseline, scan: Scan, patch: Patch) -> dict[str, Any]:
    """Export the patch under a waiting name, read it back, and return what it does on test prompts."""
    loaded = opened.loaded
    exported = load_patch(_export(opened, patch))
    results, counts = validate_patch(
        loaded,
        exported,
        opened.splits.test,
        scan,
        baseline.noise_floor,
        opened.config.validate,
        opened.progress,
    )
    return {"results": results, "counts": counts}


def write_results(opened: Run, baseline: Baseline) -> dict[str, Any]:
    """Write `results.json` from what the finished steps left, and return it."""
    steps = {name: opened.folder.read_step(name) for name in STEPS + THOROUGH if opened.folder.done(name)}
    validated = steps["validate"]["data"]
    figures = validated["results"]
    model = opened.loaded.model
    thorough = {name: steps[name]["data"] if name in steps else None for name in THOROUGH}
    limits = [*figures.pop("verdict")["limits"], *_limits_of_forms(thorough["forms"])]
    results: dict[str, Any] = {
        "unflinch": version("unflinch"),
        "name": opened.folder.path.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "id": opened.loaded.model_id,
            "hub_id": opened.loaded.hub_id,
            "model_type": model.config.model_type,
            "revision": opened.loaded.revision,
            "dtype": opened.loaded.dtype_name,
            "parameters": opened.loaded.parameters,
            "layers": opened.loaded.depth,
            "base_hash": opened.loaded.base_hash,
        },
        "settings": plain(as_settings(opened.config)),
        "memory": plain(opened.plan),
        "prompts": {
            "fit": baseline.fit.counts(),
            "select": baseline.select.counts(),
            "test": validated["counts"],
        },
        "data": _prompt_hashes(opened.splits),
        "scan": steps["scan"]["data"],
        "fit": steps["fit"]["data"],
        **figures,
        **thorough,
        "seconds": _seconds({name: step["seconds"] for name, step in steps.items()}),
        "verdict": {"passed": all(limit["passed"] for limit in limits), "limits": limits},
    }
    for counts in (results, *results.get("modes", ())):  # results of before there were modes have none
        for kind in ("targets", "keep", "guard"):
            counts[kind]["lost"] = counts[kind]["refused_before"] - counts[kind]["refused_after"]
    write_json(opened.folder.path / RESULTS, results)
    return results


def complete(folder: RunFolder) -> bool:
    """Return whether the report, if there is one, shows every step that is done."""
    if not folder.done("report"):
        return True
    results = read_object(folder.path / RESULTS)
    return all(results.get(name) for name in THOROUGH if folder.done(name))


def exported_patch(folder: RunFolder) -> Path:
    """Return the folder of the exported patch of a validated run.

    Raises:
        RunFolderError: if it failed its verdict, so that nothing of it is left.
    """
    for path in (folder.unverified_patch, folder.patch):
        if path.is_dir():
            return path
    raise RunFolderError(
        f"the patch of {folder.path} missed a limit and was removed, so it cannot be measured any further; "
        "start a new run (with validate.keep_best a patch that fails anything but its guard is kept)"
    )


def check_measurable(folder: RunFolder, thorough: bool) -> None:
    """Return if what is missing of a validation can still be measured.

    Raises:
        RunFolderError: if the fit is not done, or the patch failed its verdict before.
    """
    folder.read_step("fit")
    if thorough and folder.done("validate") and not all(folder.done(name) for name in THOROUGH):
        exported_patch(folder)


def finish(opened: Run) -> dict[str, Any]:
    """Keep the patch if it may be kept, remove it otherwise; return the final results with the report's time."""
    folder = opened.folder
    results = read_object(folder.path / RESULTS)
    results["seconds"] = _seconds({**results["seconds"], "report": folder.read_step("report")["seconds"]})
    write_json(folder.path / RESULTS, results)
    guarded = guard_passed({limit["name"]: limit["passed"] for limit in results["verdict"]["limits"]})
    if is_kept(results["verdict"]["passed"], guarded, opened.config.validate.keep_best):
        _keep(opened, results)
    else:
        folder.discard_patch()
    everyones(None)  # the first worker that leaves may have its launcher stop the others: not before they are done here
    return results


def _limits_of_forms(forms: dict[str, Any] | None) -> list[Any]:
    """Return the limits on a stored report of all forms; none where there is none."""
    return list(plain(form_limits(TypeAdapter(FormReport).validate_python(forms)))) if forms else []


def _prompt_hashes(splits: Splits) -> dict[str, dict[str, Any]]:
    """Return by split and kind which prompts there are, as hashes."""
    parts: dict[str, PromptSets] = {"fit": splits.fit, "select": splits.select, "test": splits.test}
    return {part: {kind: plain(hash_prompts(getattr(sets, kind))) for kind in KINDS} for part, sets in parts.items()}


def _seconds(by_step: dict[str, float]) -> dict[str, float]:
    steps = {name: by_step.get(name, 0.0) for name in STEPS}
    more = {name: by_step[name] for name in THOROUGH if name in by_step}
    return {**steps, "total": round(sum(steps.values()), 3), **more}


def _export(opened: Run, patch: Patch) -> Path:
    waiting = opened.folder.unverified_patch
    try:
        shutil.rmtree(waiting, ignore_errors=True)
        return save_patch(patch, waiting, opened.loaded.hub_id or opened.loaded.source, opened.loaded.revision)
    except OSError as error:
        raise disk_error(waiting, error) from error


def _keep(opened: Run, results: dict[str, Any]) -> None:
    """Give the patch its name, card and provenance; one that has its name already gets what was measured since."""
    folder = opened.folder
    waiting = folder.unverified_patch.exists()
    where = folder.unverified_patch if waiting else folder.patch
    provenance, card = patch_provenance(results), model_card(results)
    known = read_provenance(where)
    if where.exists() and (known is None or to_json(known) != to_json(provenance)):
        folder.write_file(where / "README.md", lambda path: path.write_text(card, encoding="utf-8"))
        try:
            write_provenance(where, provenance)
        except OSError as error:
            raise disk_error(where, error) from error
    if waiting:
        folder.accept_patch()
