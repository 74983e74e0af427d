"""Planned against measured peak memory, and seconds, step by step, of a fit: is the memory plan right?

Run `python benchmarks/memory.py --models demo FILE.gguf random:2b`. Every model is a process of its own. Each step runs
as in a run, but on a given number of prompts, and what the model answered is overwritten so that it counts as refusing
just the prompts that it should: memory and time hardly depend on it, and so any model can be measured, also one of
random weights. Measured is the largest resident memory of the process while a step runs, looked at every few
milliseconds, without pages of files such as the weights'; on CUDA, what torch had allocated. The validation is left
out: what it does, the baseline does as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from random_models import SHAPES, name_or_folder

from unflinch.activations.scratch_space import workspace
from unflinch.config import RunConfig, make_config
from unflinch.data.splits import KINDS, LIMITED_KINDS, PromptSets, Splits
from unflinch.models.load import LoadedModel, pick_device
from unflinch.models.memory import give_back_memory
from unflinch.steps.baseline import Asked, Baseline, BaselineSet
from unflinch.steps.fit import fit_patch
from unflinch.steps.memory import plan_run
from unflinch.steps.opened import describe_from, load_from
from unflinch.steps.prepare import load_splits
from unflinch.steps.scan import Scan, scan_model
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import ask

OUT = Path(__file__).parent / "results" / "memory.json"
_EVERY = 0.005
_BELONGS = {
    "baseline": "baseline",
    "scan": "scan",
    "fit: what a change costs": "fit: what a change costs",
    "fit: layers below the patch": "fit: closed form",
    "fit: closed form": "fit: closed form",
    "fit: constrained": "fit: closed form",
    "fit: fine-tuning": "fit: fine-tuning",
    "fit: strength": "fit: strength",
}
"""From how a step's progress begins to its name in the plan."""
_HELD = ("dtype", "device", "spread", "max_memory")
"""Options of how a model is held."""
_GUARD = 8
"""Guard prompts of a split: no figure here says anything about what is refused."""


class Peaks:
    """The largest memory in use while each step was running; a thread looks often."""

    def __init__(self, device: torch.device) -> None:
        """Begin to look."""
        self.by_step: defaultdict[str, int] = defaultdict(int)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._entered = time.perf_counter()
        self._cuda = device.type == "cuda"
        self._process = psutil.Process()
        self._files_before = _of_files(self._process.memory_info())
        self._step = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def enter(self, step: str) -> None:
        """Count from here on for `step`."""
        self._leave()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        self._step = step

    def end(self) -> None:
        """Stop looking."""
        self._leave()
        self._ended.set()
        self._thread.join()

    def _leave(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        self._look()
        now = time.perf_counter()
        self.seconds[self._step] += now - self._entered
        self._entered = now

    def on_progress(self, what: str, _done: int, _total: int) -> None:
        """Take the planned step that what is being done belongs to."""
        step = next(name for beginning, name in _BELONGS.items() if what.startswith(beginning))
        if step != self._step:
            self.enter(step)

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self._look()

    def _own(self) -> int:
        """Return resident bytes without pages of files read since the beginning: the system takes those back."""
        used = self._process.memory_info()
        return int(used.rss) - (_of_files(used) - self._files_before)

    def _look(self) -> None:
        used = torch.cuda.max_memory_allocated() if self._cuda else self._own()
        self.by_step[self._step] = max(self.by_step[self._step], used)


def _of_files(used: Any) -> int:
    return int(getattr(used, "shared", 0))  # Linux tells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["demo"], help=f"Hub ids, folders, .gguf files, demo, or {', '.join(SHAPES)}"
    )
    parser.add_argument("--prompts", type=int, default=32, help="fit targets, and as many keeps and ordinary prompts")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--spread", choices=("devices",), help="fetch the layers that do not fit")
    parser.add_argument("--max-memory", type=float, help="GiB that may be used; what is free if not given")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        with name_or_folder(given.models[0]) as model:
            held = {name: getattr(given, name) for name in _HELD if getattr(given, name) is not None}
            print(json.dumps(measured(few_prompts(model, given.prompts, held))))
        return
    rows = []
    for model in given.models:
        named = {name: getattr(given, name) for name in ("prompts", *_HELD)}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in named.items() if value is not None]
        command = [sys.executable, __file__, "--measure", "--models", model, *options]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append({"model": Path(model).name, **json.loads(found.splitlines()[-1])})
        steps = ", ".join(f"{step} {figures['seconds']:.1f} s" for step, figures in rows[-1]["steps"].items())
        print(f"{rows[-1]['model']}: planned over measured peak {rows[-1]['peak']['ratio']:.2f}; {steps}")
        given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def few_prompts(model: str, prompts: int, held: dict[str, Any]) -> RunConfig:
    """Return a run on few prompts: two rounds and two steps of fine-tuning."""
    some = max(4, prompts // 4)
    limits = {
        f"max_{kind}_{part}": prompts if part == "fit" else some
        for kind in LIMITED_KINDS
        for part in ("fit", "select", "test")
    }
    return make_config(
        {
            "model": {"model": model, **held},
            "prompts": limits,
            "fit": {"fine_tune_steps": 2},
        }
    )


def measured(config: RunConfig) -> dict[str, Any]:
    """Return planned and measured bytes of every step but the validation, and of the largest."""
    splits = load_splits(config.prompts)
    fit, select, test = (replace(s, guard=s.guard[:_GUARD]) for s in (splits.fit, splits.select, splits.test))
    plan = plan_run(config, Splits(fit, select, test), describe_from(config.model))
    peaks = Peaks(pick_device(config.model.device))
    peaks.enter("loading")
    loaded = load_from(config.model, beside=plan.beside_weights)
    peaks.enter("baseline")
    asked = {name: _asked(loaded, sets, config, peaks) for name, sets in (("fit", fit), ("select", select))}
    give_back_memory()  # as between the steps of a run
    baseline = Baseline(asked["fit"], asked["select"], 0.0)
    scan = _with_planned_layers(scan_model(loaded, baseline, config.scan, peaks.on_progress))
    give_back_memory()
    with tempfile.TemporaryDirectory() as scratch, workspace(Path(scratch), **asdict(plan.allowed)) as space:
        fit_patch(loaded, baseline, scan, config.fit, peaks.on_progress, lambda _, make: make(), space)
    peaks.end()
    found = peaks.by_step
    steps = {
        step: {**_compared(planned, found[step]), "seconds": round(peaks.seconds[step], 3)}
        for step, planned in plan.steps.items()
        if step in found
    }
    whole = _compared(max(plan.steps[step] for step in steps), max(found[step] for step in steps))
    held = {"device": plan.device, "dtype": loaded.dtype_name}
    held |= {"fetched": plan.fetched} if plan.fetched else {}
    return {**held, "prompts": fit_size(fit), "peak": whole, "steps": steps}


def fit_size(fit: PromptSets) -> int:
    """Return how many prompts are fitted on."""
    return sum(len(getattr(fit, kind)) for kind in KINDS)


def _compared(planned: int, measured: int) -> dict[str, float]:
    return {"planned": planned, "measured": measured, "ratio": round(planned / measured, 3)}


def _asked(loaded: LoadedModel, sets: PromptSets, config: RunConfig, peaks: Peaks) -> BaselineSet:
    """Return what the model answers to all prompts, with the labels of a model that refuses just what is to be."""
    kinds: dict[str, tuple[Asked, ...]] = {}
    judge = BundledJudge()
    for kind in KINDS:
        prompts = getattr(sets, kind)
        peaks.on_progress(f"baseline: {kind}", 0, len(prompts))
        answers = ask(loaded.model, loaded.tokenizer, prompts, judge, config.scan.decision_tokens)
        label = "answers" if kind == "ordinary" else "refuses"
        enough = tuple(range(3, 3 + config.fit.answer_tokens))  # of an answer that ended at once
        kinds[kind] = tuple(
            Asked(p, label, a.tokens if len(a.tokens) >= len(enough) else enough)
            for p, a in zip(prompts, answers, strict=True)
        )
    return BaselineSet(**kinds)


def _with_planned_layers(scan: Scan) -> Scan:
    """Return the scan with the layers of a model that refuses: from a third of the depth on; see the plan."""
    depth = scan.subspace.basis.shape[0]
    layers = tuple(range(depth // 3, depth // 3 + len(scan.subspace.layers)))
    return replace(scan, subspace=replace(scan.subspace, layers=layers))


if __name__ == "__main__":
    main()
