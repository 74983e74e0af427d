"""`unflinch scan`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

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
    max_memory: arg.MaxMemory = None,
    json: arg.Json = False,
) -> None:
    """Show how MODEL refuses, and where that can be told apart.

    Where false and right refusals part, and whether refusing is one mechanism or several. `run --resume` with the same
    options goes on from there.
    """
    given = locals()  # every parameter by name

    from pydantic import TypeAdapter

    from unflinch.cli import console, tables
    from unflinch.cli.job import carry_out, new_job
    from unflinch.report.run_results import ScanFacts
    from unflinch.robustness_results import Mechanism
    from unflinch.run_folder import plain

    job = new_job("unflinch scan --resume", given)

    from unflinch.pipeline import run_scan  # only now: a mistake above is told at once

    found = plain(carry_out(partial(run_scan, resume=job.resume), job))
    if json:
        console.show_json(found)
    else:
        console.show(tables.scan_summary(TypeAdapter(ScanFacts).validate_python(found)))
        console.show(tables.mechanism_summary(TypeAdapter(Mechanism).validate_python(found["mechanism"])))
