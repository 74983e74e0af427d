"""How settings of the closed form carry over to prompts that were not fitted on, seconds a setting.

    python benchmarks/cross_validate.py --run runs/demo goal=-3 goal=-4,keep_margin=3 guard_margin=5

Takes the gradients of a run's fit prompts once (they are kept beside the run's steps), then solves the quadratic
programme on four fifths of the prompts and predicts the refusal scores of the rest by the linear model, for each
setting given. Prints, at the strength that leaves so many false refusals, the shares of held-out right and guard
refusals lost, of answered harmless prompts newly refused, and the quadratic KL relative to the first setting. The
linear model errs: the figures compare settings, they do not foretell a run. Test prompts are not touched.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from yardsticks import read_material

from unflinch.activations.gradients import refusal_gradients
from unflinch.activations.scratch_space import in_memory
from unflinch.config import make_config
from unflinch.edit.closed_form import gram_matrix, solve_multipliers, whiten_in_place
from unflinch.options import FitOptions
from unflinch.run_folder import SETTINGS, RunFolder, read_json
from unflinch.steps.fit import STIFFNESS
from unflinch.steps.fit_inputs import FitInputs, Kind, prepare_fit, score_bounds
from unflinch.steps.progress import silent

FOLDS = 5
LEFT = (0.15, 0.2, 0.25)
"""Shares of false refusals left at which settings are compared."""
STRENGTHS = np.arange(0.2, 1.51, 0.05)


@dataclass(frozen=True)
class Material:
    """What is taken from the model once."""

    inputs: FitInputs
    scores: Tensor
    gram: Tensor


def gathered(run: Path) -> tuple[FitOptions, Material]:
    """Return a run's fit options, with scores and inner products of all its fit prompts, kept if they are there."""
    kept = RunFolder(run).step_file("gram", ".safetensors")
    if not kept.is_file():
        config, found = read_material(run)
        loaded, score = found.loaded, found.scan.openings.decision_scores
        inputs = prepare_fit(loaded, found.baseline, found.scan, in_memory(), config.fit, silent)
        gradients = refusal_gradients(loaded.model, loaded.architecture, list(inputs.metrics), inputs.decisions, score)
        every = torch.ones(len(inputs.decisions), dtype=torch.bool)
        whitened = whiten_in_place(gradients, inputs.metrics, every)
        gram = gram_matrix(whitened)
        bounded = {"kinds": inputs.kinds, "unasked": inputs.unasked}
        save_file({**bounded, "scores": gradients.scores, "gram": gram}, kept)
    tensors = load_file(kept)
    inputs = FitInputs({}, [], tensors["kinds"], tensors["unasked"], [])
    return make_config(read_json(run / SETTINGS)).fit, Material(inputs, tensors["scores"], tensors["gram"])


def held_out_changes(material: Material, options: FitOptions, seed: int) -> tuple[np.ndarray, float]:
    """Return the change of every prompt's score by a fit that has not seen it, and the mean quadratic KL."""
    bounds = score_bounds(material.inputs, material.scores, options)
    bounded = bounds.finite().nonzero()[:, 0]
    fold = torch.from_numpy(np.random.default_rng(seed).integers(0, FOLDS, len(material.scores)))
    changes, costs = np.zeros(len(fold)), []
    for number in range(FOLDS):
        train, held_out = bounded[fold[bounded] != number], (fold == number).nonzero()[:, 0]
        gram = material.gram[train][:, train]
        some = bounds.rows(train)
        nu = solve_multipliers(gram, material.scores[train], some, torch.full((len(train),), STIFFNESS))
        changes[held_out.numpy()] = -(material.gram[held_out][:, train] @ nu).numpy()
        costs.append(0.5 * float(nu @ gram @ nu))
    return changes, float(np.mean(costs))


def compared(material: Material, options: FitOptions, seed: int) -> dict[float, dict[str, float]]:
    """Return what is lost where so many targets are left, interpolated over the strength."""
    kinds, base = material.inputs.kinds.numpy(), material.scores.numpy()
    changes, cost = held_out_changes(material, options, seed)
    refused, harmless = base > 0, np.isin(kinds, (Kind.TARGET, Kind.ORDINARY))
    rows: dict[str, list[float]] = {name: [] for name in ("left", "keeps", "guard", "ordinary", "kl")}
    for strength in STRENGTHS:
        after = base + strength * changes
        rows["left"].append(float((after > 0)[refused & (kinds == Kind.TARGET)].mean()))
        rows["keeps"].append(float((after <= 0)[refused & (kinds == Kind.KEEP)].mean()))
        rows["guard"].append(float((after <= 0)[refused & (kinds == Kind.GUARD)].mean()))
        rows["ordinary"].append(float((after > 0)[~refused & harmless].mean()))
        rows["kl"].append(cost * float(strength) ** 2)
    order = np.argsort(rows["left"])
    left = np.array(rows.pop("left"))[order]
    return {
        share: {name: float(np.interp(share, left, np.array(row)[order])) for name, row in rows.items()}
        for share in LEFT
        if left[0] <= share
    }


def settings_of(text: str, base: FitOptions) -> FitOptions:
    """Return the options with what `goal=-3,keep_margin=2` says."""
    pairs = dict(pair.split("=") for pair in text.split(",") if pair)
    return replace(base, **{name: float(value) for name, value in pairs.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", default=[""], help="fit options such as goal=-3,keep_margin=2")
    parser.add_argument("--run", type=Path, required=True, help="a run folder with finished baseline and scan")
    parser.add_argument("--seeds", type=int, default=2, help="ways of cutting the prompts into fifths")
    given = parser.parse_args()
    fit, material = gathered(given.run)
    first: dict[float, float] = {}
    for text in given.settings:
        options = settings_of(text, fit)
        every = [compared(material, options, seed) for seed in range(given.seeds)]
        print(text or "as the run")
        for share in LEFT:
            found = [one[share] for one in every if share in one]
            if not found:
                print(f"  {share:.0%} left: never")
                continue
            mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
            relative = mean["kl"] / first.setdefault(share, mean["kl"])
            print(
                f"  {share:.0%} left: keeps lost {mean['keeps']:.1%}, guard lost {mean['guard']:.1%}, ordinary newly "
                f"refused {mean['ordinary']:.1%}, quadratic KL {relative:.2f}"
            )


if __name__ == "__main__":
    main()
