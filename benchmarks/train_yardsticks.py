"""Train the yardsticks that take long, once: their adapters are kept, and `side_by_side.py --work` measures them.

Run `python benchmarks/train_yardsticks.py --run runs/NAME --work FOLDER`, the first two steps of the run being done,
with `pip install trl==1.16.0 pexpect`. Heretic runs as a program of its own: `--heretic` is its executable, in an
environment with `heretic-llm==1.4.0`. No answer is written anywhere, only adapters, and the keys of the prompts that
they learnt from.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from heretic_yardstick import search
from lora_yardsticks import preference_pairs, train_dpo, train_sft
from yardsticks import TRAINED, read_material

_BY_TRL = {"sft": ("SFT LoRA", train_sft), "dpo": ("DPO LoRA", train_dpo)}


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="a run folder whose baseline and scan are done")
    parser.add_argument("--work", type=Path, required=True, help="where the adapters go")
    parser.add_argument("--only", nargs="+", choices=(*_BY_TRL, "heretic"), default=(*_BY_TRL, "heretic"))
    parser.add_argument("--pairs", type=int, default=200, help="most targets that SFT and DPO learn from")
    parser.add_argument("--heretic", type=Path, help="its executable; it is left out if none is given")
    parser.add_argument("--heretic-trials", type=int, default=24, help="how many Heretic searches")
    options = parser.parse_args()
    _, material = read_material(options.run)
    options.work.mkdir(parents=True, exist_ok=True)
    if "heretic" in options.only and options.heretic:
        started = time.perf_counter()
        search(material, options.heretic, options.heretic_trials, options.work)
        print(f"Heretic: {time.perf_counter() - started:.0f} s", flush=True)
    by_trl = [name for name in _BY_TRL if name in options.only]
    if by_trl:
        started = time.perf_counter()
        pairs = preference_pairs(material, options.pairs)
        print(f"{len(pairs)} answers: {time.perf_counter() - started:.0f} s", flush=True)
    for short in by_trl:
        name, train = _BY_TRL[short]
        started = time.perf_counter()
        train(material, pairs, options.work / TRAINED[name])
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
