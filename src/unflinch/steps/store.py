"""Tensors of unfinished patches in the run folder, and the figures that are shown when a step ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unflinch.artifacts import FittedStage, LowRankFactors, Patch
from unflinch.run_folder import RunFolder
from unflinch.steps.mirror import mirror_step

_BASE = "base_hash"
"""Of the weights that the factors were fitted to, in the file's metadata."""


def save_factors(folder: RunFolder, name: str, patch: Patch) -> None:
    """Keep a patch as bare factors: not a PEFT folder, because nothing has passed the guard yet."""

    def write(path: Path) -> None:
        tensors = {}
        for module, factors in patch.factors.items():
            tensors[f"{module}|a"] = factors.a.contiguous()
            tensors[f"{module}|b"] = factors.b.contiguous()
        save_file(tensors, path, metadata={_BASE: patch.base_hash})

    folder.write_file(folder.step_file(name, ".safetensors"), write)


def load_factors(folder: RunFolder, name: str) -> Patch:
    """Return a patch kept by `save_factors`."""
    file = folder.step_file(name, ".safetensors")
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        base_hash = opened.metadata()[_BASE]
    modules = sorted({key.rpartition("|")[0] for key in tensors})
    return Patch({m: LowRankFactors(tensors[f"{m}|a"], tensors[f"{m}|b"]) for m in modules}, base_hash)


def checkpoints(folder: RunFolder) -> Callable[[str, Callable[[], FittedStage]], FittedStage]:
    """Return a function that computes a stage of the fit once and afterwards reads it from the run folder."""

    def checkpoint(stage: str, make: Callable[[], FittedStage]) -> FittedStage:
        name = f"fit_{stage}"
        file = folder.step_file(f"{name}_scores", ".safetensors")
        if not folder.step_file(name, ".safetensors").is_file():
            made = make()
            folder.write_file(file, lambda path: save_file({"scores": made.scores, "slack": made.slack}, path))
            save_factors(folder, name, made.patch)
            mirror_step(folder, name)
        return FittedStage(load_factors(folder, name), **load_file(file))

    return checkpoint


def baseline_headline(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown when the baseline ends."""
    rows = [row for part in ("fit", "select") for row in data[part]["targets"]]
    keeps = [row for part in ("fit", "select") for kind in ("keep", "guard") for row in data[part][kind]]
    return {
        "targets_refused": f"{sum(r['label'] == 'refuses' for r in rows)} of {len(rows)}",
        "keeps_refused": f"{sum(r['label'] == 'refuses' for r in keeps)} of {len(keeps)}",
    }


def scan_headline(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown when the scan ends."""
    layers = data["layers"]
    return {
        "separation": data["separation"],
        "method": data["method"].replace("_", " "),
        "layers": f"{layers[0]} to {layers[-1]} of {data['number_of_layers']}",
    }


def fit_headline(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown when the fit ends."""
    last = data["stages"][-1]
    return {
        "targets_left": f"{100 * last['targets_refused_share']:.0f} %",
        "keeps_lost": f"{100 * last['keep_lost_share']:.0f} %",
        "first_token_KL": last["kl_first_token_mean"],
    }


def mechanism_headline(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown when it is known how the model refuses."""
    last = data["ablations"][-1]
    return {
        "directions_taken_out": last["directions"],
        "refusals_left": f"{last['refused_in_answer']['count']} of {last['refused_in_answer']['n']}",
    }


def forms_headline(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown when every form is measured."""
    worst = max(data["forms"], key=lambda form: form["guard_lost"]["count"] - form["guard_lost_by_format"])
    lost = worst["guard_lost"]
    return {"forms": len(data["forms"]), "most_guard_lost": f"{lost['count']} of {lost['n']} ({worst['form']})"}


def stress_headline(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown when all conditions are measured."""
    guard = [one for one in data["results"] if one["kind"] == "guard"]
    lost, n = (sum(one["lost"][key] for one in guard) for key in ("count", "n"))
    return {"conditions": len(guard), "guard_lost": f"{lost} of {n}"}


def validate_headline(data: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown when the validation ends."""
    results = data["results"]
    targets, keep, guard = (results[kind] for kind in ("targets", "keep", "guard"))
    return {
        "targets_left": f"{targets['refused_after']} of {targets['n']}",
        "keeps_lost": f"{keep['refused_before'] - keep['refused_after']} of {keep['n']}",
        "guard_lost": f"{guard['refused_before'] - guard['refused_after']} of {guard['n']}",
    }
