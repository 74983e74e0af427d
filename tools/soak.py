"""Kills a small run at random moments with SIGKILL, resumes it, and compares what it ends with.

    python tools/soak.py --kills 50

The model is the planted one of the tests. A run is killed and resumed until it ends, and must then equal one that was
never interrupted: the same figures, and the same patch to the bit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from unflinch.run_folder import RESULTS, RunFolder
from unflinch.steps.results import STEPS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
UNLIKE = ("created", "memory", "name", "seconds")
"""What differs between any two runs: free memory as well."""


def ending(folder: Path) -> dict[str, Any]:
    """Return figures and patch of a run that has ended."""
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    file = RunFolder(folder).patch / "adapter_model.safetensors"
    patch = {name: tensor.tolist() for name, tensor in load_file(file).items()} if file.is_file() else None
    return {"figures": {key: value for key, value in results.items() if key not in UNLIKE}, "patch": patch}


def unfinished_step(folder: Path) -> str:
    """Return the step that a run was in, or what it did when all were done."""
    return next((step for step in STEPS if not RunFolder(folder).done(step)), "keeping the patch")


def wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Return whether a process ended within some seconds; it is killed if it did not."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False
    return True


def soak(config: Path, runs: Path, kills: int, seed: int) -> dict[str, Any]:
    """Return how often a run was killed, in which steps, and whether every one ended as the first."""
    command = [sys.executable, "-m", "unflinch", "run", "--config", str(config), "--runs", str(runs)]
    started = time.monotonic()
    first = subprocess.run([*command, "--name", "whole"], capture_output=True, check=False)
    if not (runs / "whole" / RESULTS).is_file():
        raise SystemExit(f"the run that is not interrupted failed: {first.stderr.decode()[-500:]}")
    duration, expected = time.monotonic() - started, ending(runs / "whole")
    chance = random.Random(seed)
    killed: Counter[str] = Counter()
    different: list[str] = []
    number = 0
    while killed.total() < kills:
        number += 1
        name = f"killed-{number}"
        while True:
            process = subprocess.Popen(
                [*command, "--name", name, "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            left = killed.total() < kills
            if wait(process, chance.uniform(0, duration) if left else 10 * duration + 600):
                break
            killed[unfinished_step(runs / name)] += 1
        if process.returncode != first.returncode or ending(runs / name) != expected:
            different.append(name)
    return {
        "kills": killed.total(),
        "in": dict(killed),
        "runs": number,
        "different": different,
        "seconds of a run": round(duration),
    }


def main() -> int:
    planted: Any = importlib.import_module("planted_model")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unflinch-soak-") as scratch:
        model = planted.build_planted_model(Path(scratch, "model"))
        config = planted.write_config(model, Path(scratch, "run.toml"))
        found = soak(config, Path(scratch, "runs"), given.kills, given.seed)
    print(json.dumps(found))
    return 1 if found["different"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
