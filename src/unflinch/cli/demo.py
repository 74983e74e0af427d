"""`unflinch demo`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from unflinch.cli import arguments as arg

SLOW = "this processor does not compute in bfloat16, as the one of the README does: expect several times its 11 minutes"


def demo(
    again: Annotated[bool, typer.Option("--again", help="Run anew, in a new folder: demo-2, demo-3, ...")] = False,
    large: Annotated[bool, typer.Option("--large", help="The 1.5B model, on all prompts.")] = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run folder. [default: demo, or demo-large]")
    ] = None,
    runs: arg.Runs = Path("runs"),
    max_targets: arg.MaxTargets = None,
    seed: arg.Seed = None,
    dtype: arg.DType = None,
    device: arg.Device = None,
    load_in: arg.LoadIn = None,
    spread: arg.Spread = None,
    max_memory: arg.MaxMemory = None,
    json: arg.Json = False,
) -> None:
    """Patch the demo model, from nothing to the report.

    A demo that was interrupted goes on where it stopped. It needs no network and no GPU, but its model, which
    `pip install 'unflinch[demo]'` brings ('unflinch[demo-large]' the large one). Exit code as for `run`.
    """
    given = locals()  # every parameter by name

    from unflinch.cli import console
    from unflinch.cli.job import carry_out, finished, free_name, new_job
    from unflinch.cli.outcome import end_with
    from unflinch.config import DEMO_LARGE_SETTINGS, DEMO_SETTINGS
    from unflinch.run_folder import RESULTS, read_object

    command, settings = ("unflinch demo --large", DEMO_LARGE_SETTINGS) if large else ("unflinch demo", DEMO_SETTINGS)
    name = name or settings["model"]["model"]
    name = free_name(runs, name) if again else name
    folder = runs / name
    if finished(folder):
        console.note(f"{folder} is finished, these are its results; to run anew: {command} --again")
        end_with(read_object(folder / RESULTS), folder, json)

    job = new_job(command, {**given, "name": name, "resume": True}, settings)

    from unflinch.models.load import computes_in_bfloat16, pick_device  # only now: a mistake above is told at once
    from unflinch.pipeline import run as run_pipeline

    if not computes_in_bfloat16(pick_device(device or "auto")):
        console.note(SLOW)
    end_with(carry_out(partial(run_pipeline, resume=job.resume), job), job.folder, json)
