"""unflinch beside other ways to answer false refusals: one model, the same test prompts, judge and KL code.

Run `python benchmarks/side_by_side.py --run runs/NAME --work FOLDER`: a finished run gives the patch, and what its
other steps found is what the other methods learn from; the folder has the adapters that `train_yardsticks.py` made.
Each is swept over its strength, so that they can be compared where all leave the same share of false refusals (10 and
25 %, interpolated). Results are written after every method, into a file of earlier ones if these were measured on the
same prompts; `--only` measures some methods. Only counts are kept; no answer is written anywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from yardsticks import (
    TRAINED,
    Material,
    Method,
    activation_steering,
    directional_ablation,
    norm_preserving_ablation,
    orthogonalised_direction,
    read_material,
    system_prompt,
    trained,
    unflinch,
)

from unflinch.metrics.intervals import rate
from unflinch.models.chat import encode
from unflinch.patch.save import check_base, load_patch
from unflinch.run_folder import RunFolder
from unflinch.steps.held_out_panel import KINDS, HeldOutPanel, refusal_counts
from unflinch.steps.prepare import load_splits
from unflinch.steps.progress import silent
from unflinch.validate.kl_distribution import AnsweredSequence, sequence_kl

RESULTS = Path(__file__).parent / "results"
EQUAL_SHARES = {"at_10_percent": 0.10, "at_25_percent": 0.25}
"""Shares of false refusals left at which the methods are compared."""
FIGURES = ("strength", "keep_lost", "guard_lost", "kl_first_token_mean", "kl_sequence_mean", "kl_sequence_p99")
METHODS: dict[str, Callable[[Material], Method]] = {
    "system prompt": lambda _: system_prompt(),
    "activation steering": activation_steering,
    "directional ablation": directional_ablation,
    "orthogonalised direction": orthogonalised_direction,
    "norm-preserving ablation": norm_preserving_ablation,
}
"""Methods that need no training; `TRAINED` come from their folder, and the patch from its run."""
ORDER = ("base", *METHODS, *TRAINED, "unflinch")
Point = dict[str, Any]


def measure(panel: HeldOutPanel, method: Method, strength: float) -> Point:
    """Return what a method does at a strength: shares with their intervals, and KL along the base model's answers."""
    loaded, change, rewrite = panel.loaded, method.change(strength), partial(method.rewrite, strength)
    outcomes = panel.outcomes(panel.after(change, method.name, rewrite))
    counts = {kind: refusal_counts(outcomes, kind) for kind in KINDS}
    bad = {kind: c.refused_after if kind == "target" else c.lost for kind, c in counts.items()}
    shares = {kind: rate(bad[kind], counts[kind].n) for kind in KINDS}
    ordinary = panel.ordinary
    rows = zip(ordinary.prompts, ordinary.answers, strict=True)
    sequences = [AnsweredSequence(encode(loaded.tokenizer, rewrite(p)), a.tokens) for p, a in rows]
    kl = sequence_kl(loaded.model, sequences, ordinary.base, change)
    positions = kl.positions[~kl.positions.isnan()]
    return {
        "strength": strength,
        "targets_refused": shares["target"].value,
        "keep_lost": shares["keep"].value,
        "guard_lost": shares["guard"].value,
        "kl_first_token_mean": float(np.mean(kl.first_token)),
        "kl_sequence_mean": float(np.mean(kl.sequence_mean)),
        "kl_sequence_p99": float(positions.quantile(0.99)),
        "counts": {kind: [s.count, s.n, s.interval.low, s.interval.high] for kind, s in shares.items()},
    }


def untouched() -> Point:
    """Return the base model: by the choice of prompts it refuses all of them."""
    return {"targets_refused": 1.0, **dict.fromkeys(FIGURES, 0.0)}


def at_equal_share(curve: Sequence[Point], share: float) -> tuple[Point | None, str | None]:
    """Return a curve where it leaves `share` of the targets, interpolated linearly, or None and why it never does.

    Every curve begins at the unchanged model; of several crossings the one at the smallest strength counts.
    """
    points = [untouched(), *sorted(curve, key=lambda point: point["strength"])]
    for before, after in pairwise(points):
        high, low = before["targets_refused"], after["targets_refused"]
        if low <= share < high:
            way = (high - share) / (high - low)
            found = {name: before[name] + way * (after[name] - before[name]) for name in FIGURES}
            return {"targets_refused": share, **found}, None
    least = min(point["targets_refused"] for point in points)
    return None, f"leaves at least {least:.0%} of the targets refused at every strength tried"


def compared(method: dict[str, Any]) -> dict[str, Any]:
    """Return a method's row with its curve at the equal shares, and why it gets no farther if one is not reached."""
    if method["name"] == "base":
        return {**method, **dict.fromkeys(EQUAL_SHARES)}
    found = {name: at_equal_share(method["curve"], share) for name, share in EQUAL_SHARES.items()}
    reason = next((why for _, why in found.values() if why), None)
    return {**method, **{name: at for name, (at, _) in found.items()}, "reason": reason}


def pareto_figure(methods: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw targets left against keeps lost, and against first-token KL, a line a method."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for method in methods:
        curve = sorted(method["curve"], key=lambda point: point["strength"])
        ours = method["name"] == "unflinch"
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 2.6 if ours else 1.2}
        if ours:
            style |= {"color": "black", "zorder": 3}
        left = [100 * point["targets_refused"] for point in curve]
        for axis, name, factor in ((axes[0], "keep_lost", 100.0), (axes[1], "kl_first_token_mean", 1.0)):
            axis.plot([factor * point[name] for point in curve], left, label=method["name"], **style)
    axes[0].set(xlabel="right refusals lost, %", ylabel="false refusals left, %")
    axes[1].set_xlabel("first-token KL on ordinary prompts, nats")
    axes[1].set_xscale("symlog", linthresh=0.01)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        for share in EQUAL_SHARES.values():
            axis.axhline(100 * share, color="0.6", linewidth=0.8, linestyle=":")
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def header(panel: HeldOutPanel, judged_tokens: int) -> dict[str, Any]:
    """Return what all methods share: model and prompts; figures under equal headers may be compared."""
    loaded, refused = panel.loaded, panel.refused
    keys = [p.key for prompts in (*(refused[kind].prompts for kind in KINDS), panel.ordinary.prompts) for p in prompts]
    return {
        "model": loaded.hub_id or loaded.model_id,
        "base_hash": loaded.base_hash,
        "judged_tokens": judged_tokens,
        "prompts": panel.counts(),
        "prompts_sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
    }


def merged(stored: dict[str, Any] | None, head: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return results with a method's row: beside the stored ones if they have the same header, else alone with base."""
    base = {"name": "base", "note": "the model as it comes", "curve": [untouched()]}
    same = stored is not None and all(stored.get(name) == value for name, value in head.items())
    before = stored["methods"] if stored is not None and same else []
    rows = {method["name"]: method for method in (base, *before, row)}
    known = [name for name in ORDER if name in rows]
    return {**head, "methods": [compared(rows[name]) for name in known]}


def sweep(panel: HeldOutPanel, method: Method) -> list[Point]:
    """Return a method's curve, a point a strength, telling each."""
    curve = []
    for strength in method.strengths:
        point = measure(panel, method, strength)
        curve.append(point)
        print(
            f"{method.name:26} {strength:4g}: left {point['targets_refused']:.1%}, lost {point['keep_lost']:.1%}, "
            f"guard {point['guard_lost']:.1%}, KL {point['kl_first_token_mean']:.4f} / {point['kl_sequence_mean']:.4f}",
            flush=True,
        )
    return curve


def arguments() -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--run", type=Path, required=True, help="a run folder; --only of others than ours needs no patch"
    )
    parser.add_argument("--work", type=Path, help="adapters of train_yardsticks.py; without it they are left out")
    parser.add_argument("--only", nargs="+", choices=ORDER[1:], help="measure these, keep the others' results")
    parser.add_argument("--targets", type=int, default=160, help="most test targets, before asking the model")
    parser.add_argument("--keeps", type=int, default=200, help="most test keeps")
    parser.add_argument("--ordinary", type=int, default=100, help="most ordinary test prompts")
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of an answer that the judge sees")
    parser.add_argument("--out", type=Path, default=RESULTS / "side_by_side.json")
    options = parser.parse_args()
    stored = [name for name, folder in TRAINED.items() if options.work and (options.work / folder).is_dir()]
    if missing := sorted({name for name in options.only or () if name in TRAINED} - set(stored)):
        parser.error(f"nothing trained for {', '.join(missing)} in --work; run train_yardsticks.py first")
    options.only = options.only or [*METHODS, *stored, "unflinch"]
    return options


def main() -> None:
    """Measure, print, and write results and figure."""
    options = arguments()
    config, material = read_material(options.run)
    limits = {"targets": options.targets, "keep": options.keeps, "ordinary": options.ordinary}
    test = load_splits(replace(config.prompts, **{f"max_{kind}_test": most for kind, most in limits.items()})).test
    keys = {p.key for prompts in (test.targets, test.keep, test.guard, test.ordinary) for p in prompts}
    made: dict[str, Callable[[Material], Method]] = {**METHODS}
    made |= {name: partial(trained, name, work=options.work, test=keys) for name in TRAINED}
    if "unflinch" in options.only:
        patch = load_patch(RunFolder(options.run).patch)
        check_base(patch, material.loaded.base_hash, config.model.model)
        made["unflinch"] = lambda material: unflinch(material, patch)

    panel = HeldOutPanel(material.loaded, test, replace(config.validate, answer_tokens=options.tokens), silent)
    head = header(panel, options.tokens)
    document = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else None
    for name in options.only:
        method = made[name](material)
        row = {"name": name, "note": method.note, "curve": sweep(panel, method)}
        document = merged(document, head, row)
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        pareto_figure([m for m in document["methods"] if m["name"] != "base"], options.out.with_suffix(".svg"))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
