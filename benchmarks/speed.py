"""What the parts of a run cost: seconds a prompt, tokens per second and peak memory, by model and number of prompts.

Run `python benchmarks/speed.py --models demo random:2b`. Every measurement is a process of its own, so that its peak
memory is its own. `random:2b` is a model of that shape with random weights: speed and memory do not depend on them. A
line is fitted through the seconds over the numbers of prompts; its R² shows whether time is linear in prompts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_models import SHAPES, name_or_folder

from unflinch.activations.gradients import fisher_metrics, refusal_gradients
from unflinch.data.prompts import bundled
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.models.chat import encode_all
from unflinch.models.forward import last_logits
from unflinch.models.generate import generate
from unflinch.models.load import LoadedModel, load_model
from unflinch.models.writers import choose_writers

OUT = Path(__file__).parent / "results" / "speed.json"
_WRITTEN = 12
_SCORED = 4


def load(model: str) -> LoadedModel:
    """Return a model by name, or one of random weights."""
    with name_or_folder(model) as source:
        return load_model(source)


def parts(loaded: LoadedModel, prompts: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return the parts of a run over that many prompts, each with the number of tokens it reads or writes."""
    chosen = [p for p in bundled("targets") if p.language == "en"][:prompts]
    sequences = encode_all(loaded.tokenizer, chosen)
    read = sum(map(len, sequences))
    middle = loaded.depth // 2
    modules = choose_writers(loaded.model, loaded.architecture, range(middle - 2, middle + 2), "feed_forward").modules
    weights = torch.zeros(loaded.model.get_output_embeddings().weight.shape[0])
    weights[40] = 1.0
    score = RefusalOpenings(weights).decision_scores
    decisions = [Decision(tuple(s), ()) for s in sequences]

    def refusal_scores() -> None:
        with torch.inference_mode():
            for _ in last_logits(loaded.model, sequences):
                pass

    def metrics() -> None:
        shrink = {"input_shrinkage": 0.05, "output_shrinkage": 0.1}
        fisher_metrics(loaded.model, loaded.architecture, modules, sequences, _SCORED, seed=0, **shrink)

    return {
        "reading": (read, refusal_scores),
        "reading and writing": (
            read + _WRITTEN * prompts,
            lambda: generate(loaded.model, loaded.tokenizer, sequences, _WRITTEN),
        ),
        "gradients": (read, lambda: refusal_gradients(loaded.model, loaded.architecture, modules, decisions, score)),
        "metrics": (read, metrics),
    }


def measure(model: str, prompts: int) -> dict[str, Any]:
    """Return what each part costs in this process."""
    loaded = load(model)
    cuda = loaded.model.device.type == "cuda"
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    with torch.inference_mode():
        for _ in last_logits(loaded.model, encode_all(loaded.tokenizer, bundled("targets")[:8])):
            pass
    rows = {}
    for name, (tokens, work) in parts(loaded, prompts).items():
        started = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        rows[name] = {"seconds": round(seconds, 3), "tokens_per_second": round(tokens / seconds, 1)}
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "model": Path(model).name,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "dtype": loaded.dtype_name,
        "prompts": prompts,
        "parts": rows,
        "weights_gib": round(weights / 2**30, 3),
        "peak_gib": round(peak / 2**30, 3),
    }


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for every part the line through seconds over prompts: seconds a prompt, seconds at none, R²."""
    lines = {}
    prompts = np.array([row["prompts"] for row in rows], dtype=float)
    for name in rows[0]["parts"]:
        seconds = np.array([row["parts"][name]["seconds"] for row in rows])
        slope, start = np.polyfit(prompts, seconds, 1)
        r = np.corrcoef(prompts, seconds)[0, 1]
        lines[name] = {
            "seconds_a_prompt": round(float(slope), 5),
            "seconds_at_none": round(float(start), 3),
            "r_squared": round(float(r * r), 4),
        }
    return lines


def main() -> None:
    """Measure all models, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=["demo"], help=f"as for unflinch run, or {', '.join(SHAPES)}")
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "PROMPTS"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    document = []
    for model in options.models:
        rows = []
        for prompts in options.prompts:
            command = [sys.executable, __file__, "--one", model, str(prompts)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            figures = ", ".join(f"{name} {part['seconds']:.1f} s" for name, part in rows[-1]["parts"].items())
            print(f"{model} {prompts:5}: {figures}; peak {rows[-1]['peak_gib']:.2f} GiB", flush=True)
        document.append({"model": Path(model).name, "rows": rows, "growth": growth(rows) if len(rows) > 1 else {}})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
