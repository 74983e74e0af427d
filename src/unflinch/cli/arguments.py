"""Arguments and options that several commands share; `job.py` says where in the config each goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from unflinch.options import FitOptions, PromptOptions

_MODEL = "Hub id, model folder, .gguf file, or 'demo'."
_PROMPTS = "a .jsonl or .csv file, or hub:owner/name:split:column."

Model = Annotated[str | None, typer.Argument(metavar="MODEL", help=f"{_MODEL} May come from --config.")]
BaseModel = Annotated[str, typer.Argument(metavar="MODEL", help=f"{_MODEL} The one that the patch was made for.")]
PatchFolder = Annotated[
    Path, typer.Argument(metavar="PATCH", help="Folder of the patch, or the run folder that holds it.")
]
FinishedRun = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of the run, such as runs/demo.")]

Targets = Annotated[
    str | None,
    typer.Option(metavar="FILE", help=f"Harmless prompts to be answered: {_PROMPTS} The bundled ones if not given."),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Requests whose refusal is right, in place of the bundled ones. The guard prompts stay on in any case.",
    ),
]
Ordinary = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Harmless prompts whose answers must not change, in place of the bundled ones."),
]
MaxTargets = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Most targets in each of fit, select and test. [default: "
        f"{PromptOptions.max_targets_fit}, {PromptOptions.max_targets_select} and {PromptOptions.max_targets_test}; "
        "fewer in the demo]",
    ),
]

Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the run folder. [default: model, date and time]")
]
Runs = Annotated[Path, typer.Option(metavar="DIR", help="Where run folders are kept.")]
Config = Annotated[
    Path | None,
    typer.Option(metavar="TOML", help="File with any option of any step; options given here win over it."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run called --name, or the newest one, with its own settings.")
]
Thorough = Annotated[
    bool,
    typer.Option(
        "--thorough/--brief",
        help="Measure every form of the patch (dial, merged, quantised), stress, and how the model refuses, too.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout, and nothing else there.")]

DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(
        metavar="TYPE",
        help="auto, float32, bfloat16 or float16. [default: auto, bfloat16 where the device computes in it]",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps. [default: auto, the fastest there is]"),
]
Revision = Annotated[
    str | None, typer.Option(metavar="REV", help="Branch, tag or commit of a Hub model. [default: main]")
]
TrustRemoteCode = Annotated[
    bool | None,
    typer.Option("--trust-remote-code", help="Run code that comes with the model: only if you trust its maker."),
]
Layers = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Where an unknown family keeps its decoder layers, such as model.layers."),
]
Writer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Linear module of a layer to be changed, such as mlp.down_proj; may be repeated."
    ),
]
LoadIn = Annotated[
    Literal["8bit", "4bit"] | None,
    typer.Option(
        metavar="BITS",
        help="8bit or 4bit: hold the weights so, by bitsandbytes (extra 'formats'). A patch belongs to the form it was "
        "made for.",
    ),
]
Spread = Annotated[
    Literal["devices", "workers"] | None,
    typer.Option(
        metavar="OVER",
        help="devices or workers: spread weights that one device does not hold over all GPUs, the CPU's memory and "
        "the disk, or over the workers that torchrun has started.",
    ),
]
MaxMemory = Annotated[
    float | None,
    typer.Option(metavar="GIB", help="Most memory to use where the model is. [default: what is free there]"),
]
Thinking = Annotated[
    Literal["auto", "on", "off", "both"] | None,
    typer.Option(
        metavar="MODE",
        help="Whether MODEL thinks before it answers: on, off, both or auto. [default: auto, both if it can]",
    ),
]
SystemPrompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="System prompt of all prompts that have none. [default: that of the chat template]"
    ),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help=f"Of sampling and fitting. [default: {FitOptions.seed}]")]
KLBudget = Annotated[
    float | None,
    typer.Option(
        metavar="NATS",
        help=f"Most mean first-token KL on ordinary prompts while fitting. [default: {FitOptions.kl_budget}]",
    ),
]
KeepBest = Annotated[
    bool | None,
    typer.Option(
        "--keep-best",
        help="Write a patch that misses a limit, marked as failed. One that fails the guard is never written.",
    ),
]
MaxTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Most tokens of an answer.")]
Strength = Annotated[float, typer.Option(metavar="X", help="0 is the base model, 1 the patch as it was validated.")]
