"""Results of two runs, compared number by number."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from documents import ROOT, script

UNLIKE = script(ROOT / "tools" / "soak.py").UNLIKE
ROUNDING = {"rel_tol": 1e-2, "abs_tol": 1e-4}
"""Adam carries rounding of small gradients into the factors; figures of a run with two workers differed by 0.15 %."""
WORST = ".kl.worst."
"""Place of the prompts that changed most."""


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


def by_prompt(results: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return results with the worst prompts by their text, for rounding swaps prompts that are as bad.

    Their KL must fall in the order in which they stand, but for rounding. One that the other results do not name is
    left out if it is as bad as their last, so that rounding put that one before it.
    """
    prompts, wanted = worst_prompts(results), worst_prompts(other)
    figures = [worst_kl(row) for row in prompts]
    assert all(high >= low or same(high, low) for high, low in pairwise(figures)), figures
    texts, last = {row["text"] for row in wanted}, worst_kl(wanted[-1])
    kept = {row["text"]: row for row in prompts if row["text"] in texts or not same(worst_kl(row), last)}
    rest = {place: value for place, value in results.items() if not place.startswith(WORST)}
    return rest | numbers({WORST.strip("."): kept}) | {f"{WORST}n": len(prompts)}


def worst_kl(row: dict[str, Any]) -> float:
    return max(row["first_token"], row["sequence_mean"])


def worst_prompts(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the worst prompts of `comparable` results."""
    rows: dict[int, dict[str, Any]] = {}
    for place, value in results.items():
        if place.startswith(WORST):
            number, field = place.removeprefix(WORST).split(".")
            rows.setdefault(int(number), {})[field] = value
    return [rows[number] for number in sorted(rows)]


def differences(one: dict[str, Any], two: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what is not the same in both, by its place; numbers that are not whole may differ by rounding."""
    one, two = by_prompt(one, two), by_prompt(two, one)
    pairs = {place: (one.get(place), two.get(place)) for place in one.keys() | two.keys()}
    return {place: pair for place, pair in pairs.items() if not same(*pair)}


def same(one: Any, two: Any) -> bool:
    return math.isclose(one, two, **ROUNDING) if isinstance(one, float) and isinstance(two, float) else one == two
