"""`unflinch fit`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from unflinch.cli import arguments as arg


def fit(
    model: arg.Model = None,
    targets: arg.Targets = None,
    keep: arg.Keep = None,
    ordinary: arg.Ordinary = None,
    max_targets: arg.MaxTargets = None,
    name: arg.Name = None,
    runs: arg.Runs = Path("runs"),
    config: arg.Config = None,
    resume: arg.Resume = False,
    kl_budget: arg.KLBudget = None,
    keep_best: arg.KeepBest = None,
    seed: arg.Seed = None,
    thinking: arg.Thinking = None,
    system_prompt: arg.SystemPrompt = None,
    dtype: arg.DType = None,
    device: arg.Device = None,
    revision: arg.Revision = None,
    trust_remote_code: arg.TrustRemoteCode = None,
    layers: arg.Layers = None,
    writer: arg.Writer = None,
    load_in: arg.LoadIn = None,
    spread: arg.Spread = None,
    max_memory: arg.MaxMemory = None,
    json: arg.Json = False,
) -> None:
    """Fit a patch for MODEL, without measuring it on test prompts.

    `validate RUN_FOLDER` measures it, and writes the report and, if it passes, the patch.
    """
    given = locals()  # every parameter by name

    from pydantic import TypeAdapter

    from unflinch.cli import console, tables
    from unflinch.cli.job import carry_out, new_job
    from unflinch.report.run_results import FitFacts
    from unflinch.run_folder import plain

    job = new_job("unflinch fit --resume", given)

    from unflinch.pipeline import run_fit  # only now: a mistake above is told at once

    found = plain(carry_out(partial(run_fit, resume=job.resume), job))
    if json:
        console.show_json(found)
        return
    console.show(tables.fit_summary(TypeAdapter(FitFacts).validate_python(found)))
    console.note(f"not measured on test prompts yet: unflinch validate {job.folder}")
