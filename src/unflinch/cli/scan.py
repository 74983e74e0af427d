"""`unflinch scan`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from unflinch.cli import arguments as arg


def scan(
    model: arg.Model = None,
    targets: arg.Targets = None,
    keep: arg.Keep = None,
    ordinary: arg.Ordinary = None,
    max_targets: arg.MaxTargets = None,
    name: arg.Name = None,
    runs: arg.Runs = Path("runs"),
    config: arg.Config = None,
    resume: arg.Resume = False,
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
    fit: Annotated[bool, typer.Option("--fit", help="Go on and make the patch, as `run` does.")] = False,
    json: arg.Json = False,
) -> None:
    """Show how and where MODEL refuses, and what a patch costs.

    Where in depth false and right refusals part, whether refusing is one mechanism or several, which modules a patch is
    worth most in, and how much KL it will cost at least. With --fit the patch itself follows, as by `run`; without,
    `run --resume` goes on from there.
    """
    given = locals()  # every parameter by name

    from pydantic import TypeAdapter

    from unflinch.cli import console, tables
    from unflinch.cli.job import carry_out, new_job
    from unflinch.cli.outcome import end_with
    from unflinch.report.run_results import ScanFacts
    from unflinch.robustness_results import EditCost, Mechanism
    from unflinch.run_folder import plain

    job = new_job(f"unflinch scan --resume{' --fit' if fit else ''}", given)

    from unflinch.pipeline import run, run_scan  # only now: a mistake above is told at once

    found = plain(carry_out(partial(run_scan, resume=job.resume), job))
    if not json:
        console.show(tables.scan_summary(TypeAdapter(ScanFacts).validate_python(found)))
        console.show(tables.mechanism_summary(TypeAdapter(Mechanism).validate_python(found["mechanism"])))
        console.show(tables.edit_cost_summary(TypeAdapter(EditCost).validate_python(found["edit_cost"])))
    if fit:
        end_with(carry_out(partial(run, resume=True), job), job.folder, json)
    elif json:
        console.show_json(found)
