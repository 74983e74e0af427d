"""What a run would cost on models and machines that nobody here has: computed from formulas, not measured.

Run `python benchmarks/scale.py` to print the tables of docs/SCALE.md, which explains the formulas: first what was
measured (`results/speed.json`), then what is computed. The number of prompts is that of two measured runs,
`results/demo.json` and `results/full.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unflinch.data.splits import KINDS

RESULTS = Path(__file__).parent / "results"

PROMPT_TOKENS = 50
ANSWER_TOKENS = 12
WRITTEN_TOGETHER = 128
"""Answers; one step of all of them reads the weights once."""
READ_TOKENS = 2048
"""Of a batch that is only read."""
GRADIENT_TOKENS = 1536
"""Of a batch whose gradients are taken."""
ABOVE_FIRST_EDIT = 2 / 3
"""Share of the layers through which gradients pass."""
MODULES = 8
"""Edited."""
KEPT = 2
"""Rank that is kept of each prompt's gradient."""
SECOND_ROUND = 0.5
"""Share of the first round's prompts that the second one sees."""
UTILISATION = {"bfloat16": 0.3, "8-bit": 0.2, "4-bit": 0.15}
"""Share of the peak that batches of two thousand tokens reach: assumed."""
BYTES = {"bfloat16": 2.0, "8-bit": 1.1, "4-bit": 0.6}
"""A weight, with scales and the parts that stay in 16 bits."""
CPU_FLOPS = 1e12
"""Of the server that the GPUs are in, for the part of the fit that is done there."""


@dataclass(frozen=True)
class Model:
    """The shape of a model."""

    name: str
    parameters: float
    active: float
    """Parameters that one token passes: all, or those of the experts that it is sent to."""
    layers: int
    width: int
    feed_forward: int
    """Inputs of an edited module."""
    key_value: int
    """Width of keys, and of values, of a layer."""


@dataclass(frozen=True)
class Machine:
    """One GPU or several, and how they share the work."""

    name: str
    gpus: int
    gib: float
    """Memory of one."""
    flops: float
    """Peak of one in bfloat16, dense."""
    bandwidth: float
    """Bytes a second of one."""
    workers: int
    """Copies of the model that read prompts at the same time; the GPUs of one copy take turns, layer by layer."""
    link: float = 0
    """Bytes a second by which weights arrive that a GPU does not hold: from the CPU's memory, or other workers."""
    shares: bool = False
    """Whether the workers hold one model together, each its share of every layer."""


@dataclass(frozen=True)
class Work:
    """How many prompts a run reads, answers, and takes gradients of."""

    reads: int
    answers: int
    gradients: int


LLAMA_8B = Model("8B dense", 8.0e9, 8.0e9, 32, 4096, 14336, 1024)
LLAMA_70B = Model("70B dense", 70.6e9, 70.6e9, 80, 8192, 28672, 1024)
LLAMA_405B = Model("405B dense", 405.9e9, 405.9e9, 126, 16384, 53248, 1024)
MOE_1T = Model("1T, 32B active", 1040e9, 32e9, 61, 7168, 18432, 576)

RTX_4060_FETCHES = Machine("RTX 4060, layers fetched", 1, 8, 60e12, 272e9, 1, link=12e9)
RTX_4070 = Machine("RTX 4070", 1, 12, 58e12, 504e9, 1)
RTX_4090 = Machine("RTX 4090", 1, 24, 165e12, 1008e9, 1)
H100 = Machine("H100", 1, 80, 989e12, 3350e9, 1)
H100_8_WORKERS = Machine("8 × H100, 8 workers", 8, 80, 989e12, 3350e9, 8)
H100_8_LAYERS = Machine("8 × H100, layers spread", 8, 80, 989e12, 3350e9, 1)
H200_8_LAYERS = Machine("8 × H200, layers spread", 8, 141, 989e12, 4800e9, 1)
H100_8_SHARE = Machine("8 × H100, layers shared", 8, 80, 989e12, 3350e9, 8, link=300e9, shares=True)

CASES = (
    (LLAMA_8B, "bfloat16", RTX_4060_FETCHES),
    (LLAMA_8B, "4-bit", RTX_4070),
    (LLAMA_8B, "bfloat16", RTX_4090),
    (LLAMA_8B, "bfloat16", H100),
    (LLAMA_8B, "bfloat16", H100_8_WORKERS),
    (LLAMA_70B, "4-bit", H100),
    (LLAMA_70B, "4-bit", H100_8_WORKERS),
    (LLAMA_70B, "bfloat16", H100_8_LAYERS),
    (LLAMA_70B, "bfloat16", H100_8_SHARE),
    (LLAMA_405B, "4-bit", H100_8_LAYERS),
    (LLAMA_405B, "bfloat16", H200_8_LAYERS),
    (MOE_1T, "4-bit", H200_8_LAYERS),
)


def work_of(prompts: dict[str, dict[str, int]]) -> Work:
    """Return what a run with these counts of prompts does, from the counts in its results."""
    asked = sum(prompts[part][kind] for part in prompts for kind in KINDS)
    refused = {part: sum(prompts[part].get(f"{kind}_refused", 0) for kind in KINDS[:3]) for part in prompts}
    unasked = sum(prompts["fit"].get(f"{kind}_unasked", 0) for kind in KINDS)
    select, test = prompts["select"]["ordinary"], prompts["test"]["ordinary"]
    # Asked once; test prompts again with the patch and with ablation; select prompts at about two strengths.
    answers = asked + 2 * refused["test"] + 2 * refused["select"]
    # States of the scan, three stages measured by refusal scores, KL of base model, patch and ablation.
    reads = refused["fit"] + refused["select"] + 3 * (refused["select"] + select) + 3 * test
    bounded = refused["fit"] + prompts["fit"]["ordinary"] + unasked
    return Work(reads, answers, round((1 + SECOND_ROUND) * bounded))


def seconds(model: Model, weights: str, machine: Machine, work: Work) -> float:
    """Return the seconds of a run: arithmetic, weights read for every written token and sent to where they are not.

    And the solving on the CPU. Weights that are not held arrive once a batch, and once more on the way back.
    """
    read = work.reads + work.answers + work.gradients
    flops = 2 * model.active * (PROMPT_TOKENS * read + ANSWER_TOKENS * work.answers)
    flops += 2 * model.active * ABOVE_FIRST_EDIT * PROMPT_TOKENS * work.gradients
    steps = ANSWER_TOKENS * work.answers / WRITTEN_TOGETHER
    arithmetic = flops / (machine.flops * UTILISATION[weights])
    writing = steps * model.parameters * BYTES[weights] / machine.bandwidth
    batches = (work.reads + work.answers) * PROMPT_TOKENS / READ_TOKENS
    batches += (1 + ABOVE_FIRST_EDIT) * work.gradients * PROMPT_TOKENS / GRADIENT_TOKENS
    missing = missing_bytes(model, weights, machine)
    arriving = (steps + batches) * missing / machine.link if missing else 0.0
    return (arithmetic + writing + arriving) / machine.workers + solving_flops(model, work.gradients) / CPU_FLOPS


def solving_flops(model: Model, gradients: int) -> float:
    """Return the operations of whitening every gradient and of the products of all with all."""
    rows = KEPT * gradients
    whitening = rows * (model.feed_forward**2 + model.width**2)
    first = KEPT * gradients / (1 + SECOND_ROUND)
    products = 2 * first**2 * (1 + SECOND_ROUND**2) * (model.feed_forward + model.width)
    return MODULES * (whitening + products)


def beside_weights(model: Model) -> float:
    """Return the bytes of what a copy of the model needs besides: the larger of gradients' graph and caches."""
    kept = GRADIENT_TOKENS * 2 * (12 * model.width + 4 * model.feed_forward) * model.layers * ABOVE_FIRST_EDIT
    caches = WRITTEN_TOGETHER * (PROMPT_TOKENS + ANSWER_TOKENS) * 2 * 2 * model.key_value * model.layers
    return max(kept, caches)


def missing_bytes(model: Model, weights: str, machine: Machine) -> float:
    """Return how many bytes of weights a worker does not hold: of a shared model nearly all, else what does not fit."""
    whole = model.parameters * BYTES[weights]
    if machine.shares:
        return whole * (1 - 1 / machine.workers)
    room = (machine.gib - 1) * 2**30 - beside_weights(model) - whole / model.layers
    return max(0.0, whole - room) if machine.link else 0.0


def gpu_gib(model: Model, weights: str, machine: Machine) -> float:
    """Return the memory that one GPU needs: its part of the weights, what is beside them, one layer that arrives."""
    whole, beside = model.parameters * BYTES[weights], beside_weights(model)
    each = 1 if machine.shares else machine.gpus / machine.workers
    missing = missing_bytes(model, weights, machine)
    arriving = whole / model.layers if missing else 0.0
    return float((whole - missing + beside + arriving) / each / 2**30 + 1)


def cpu_gib(model: Model, weights: str, machine: Machine, work: Work) -> float:
    """Return the memory on the CPU: metrics of edited modules, gradients plain and whitened, a copy a worker.

    And the weights that no GPU holds.
    """
    metrics = model.feed_forward**2 + model.width**2
    gradients = 2 * KEPT * work.gradients / (1 + SECOND_ROUND) * (model.feed_forward + model.width)
    fetched = 0.0 if machine.shares else missing_bytes(model, weights, machine)
    return float((machine.workers * MODULES * 4 * (metrics + gradients) + fetched) / 2**30)


def read(name: str) -> Any:
    """Return committed results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def measured() -> str:
    """Return the Markdown table of the lines through measured seconds over prompts."""
    lines = [
        "| model | part | seconds a prompt | R² of the line | peak memory, few to many prompts |",
        "|---|---|---|---|---|",
    ]
    for model in read("speed"):
        peaks = [row["peak_gib"] for row in model["rows"]]
        for part, line in model["growth"].items():
            figures = (
                f"{line['seconds_a_prompt']:.3f} | {line['r_squared']:.3f} | {peaks[0]:.1f} to {peaks[-1]:.1f} GiB"
            )
            lines.append(f"| {model['model'].partition('.')[0]} | {part} | {figures} |")
    return "\n".join(lines)


def computed() -> str:
    """Return the Markdown table of all cases."""
    runs = {name: work_of(read(name)["prompts"]) for name in ("demo", "full")}
    lines = [
        "| model | weights | machine | GPU memory, needed of each | CPU memory | demo-sized run | full run |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, weights, machine in CASES:
        minutes = [f"{seconds(model, weights, machine, work) / 60:,.0f} min" for work in runs.values()]
        memory = f"{gpu_gib(model, weights, machine):.0f} of {machine.gib:.0f} GiB"
        cpu = f"{cpu_gib(model, weights, machine, runs['full']):.0f} GiB"
        lines.append(f"| {model.name} | {weights} | {machine.name} | {memory} | {cpu} | {' | '.join(minutes)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(measured(), computed(), sep="\n\n")
