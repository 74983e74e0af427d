"""Results of two runs, compared number by number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from documents import ROOT, script

UNLIKE = script(ROOT / "tools" / "soak.py").UNLIKE
ROUNDING = {"rel_tol": 1e-2, "abs_tol": 1e-4}
"""Adam carries rounding of small gradients into the factors; figures of a run with two workers differed by 0.15 %."""


def numbers(value: Any, place: str = "") -> dict[str, Any]:
    """Return every leaf of nested results by its place."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in numbers(inner, f"{place}.{key}").items()}
    if isinstance(value, list):
        return {k: v for key, inner in enumerate(value) for k, v in numbers(inner, f"{place}.{key}").items()}
    return {place: value}


def comparable(folder: Path) -> dict[str, Any]:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return numbers({key: value for key, value in results.items() if key not in UNLIKE})


def differences(one: dict[str, Any], two: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what is not the same in both, by its place; numbers that are not whole may differ by rounding."""
    pairs = {place: (one.get(place), two.get(place)) for place in one.keys() | two.keys()}
    return {place: pair for place, pair in pairs.items() if not same(*pair)}


def same(one: Any, two: Any) -> bool:
    return math.isclose(one, two, **ROUNDING) if isinstance(one, float) and isinstance(two, float) else one == two
