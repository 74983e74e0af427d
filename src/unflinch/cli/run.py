"""`unflinch run`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from unflinch.cli import arguments as arg


def run(
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
    thorough: arg.Thorough = False,
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
    """Make a patch for MODEL, measure it, and write it if it passes.

    Finds the false refusals, fits the patch, and measures it on test prompts that nothing before has seen. The run
    folder gets report.html, results.json and the patch, a LoRA that plain `peft` loads.

    Exit code: 0 the patch passed, 1 it did not, 2 bad input, 130 stopped with Ctrl-C.
    """
    given = locals()  # every parameter by name

    from unflinch.cli.job import carry_out, new_job
    from unflinch.cli.outcome import end_with

    job = new_job(f"unflinch run --resume{' --thorough' if thorough else ''}", given)

    from unflinch.pipeline import run as run_pipeline  # only now: a mistake above is told at once

    end_with(carry_out(partial(run_pipeline, resume=job.resume, thorough=thorough), job), job.folder, json)
