"""Patch a model, read the verdict, attach the patch at half strength. `python examples/quickstart.py MODEL`."""

import sys
from pathlib import Path

from unflinch import run
from unflinch.config import make_config


def main(model: str, folder: Path) -> None:
    """Run every step on `model` in `folder` and show what came out."""
    results = run(make_config({"model": {"model": model}}), folder, resume=True)
    targets, keep = results["targets"], results["keep"]
    print(f"false refusals: {targets['refused_before']} -> {targets['refused_after']} of {targets['n']}")
    print(f"right refusals lost: {keep['lost']} of {keep['n']}")
    print(f"passed: {results['verdict']['passed']}; patch in {folder / 'patch'}")


if __name__ == "__main__":
    main(sys.argv[1], Path("runs/quickstart"))
