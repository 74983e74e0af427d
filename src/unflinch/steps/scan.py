"""Step 2: targeted activation sourcing. Where false refusals part from right ones, and where refusing is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from unflinch.activations.collect import collect_activations
from unflinch.artifacts import RefusalSubspace
from unflinch.metrics.refusal_score import RefusalOpenings
from unflinch.models.forward import last_logits
from unflinch.models.hooks import ablated_direction
from unflinch.models.load import LoadedModel
from unflinch.options import ScanOptions
from unflinch.results import LayerSeparation
from unflinch.run_folder import plain
from unflinch.steps.baseline import Asked, Baseline, BaselineSet
from unflinch.steps.openings import model_openings
from unflinch.steps.progress import Progress, counter
from unflinch.subspace.difference_of_means import difference_of_means
from unflinch.subspace.select import TwoGroups, select_subspace

_MOST = {"targets": 110, "keep": 110, "guard": 40}
"""Refused prompts of a split suffice to tell the two groups apart."""
_ANSWERED = 80
"""Answered prompts suffice for the mean of states that do not refuse."""
ABLATION_LAYERS = (0.42, 0.75)
"""Range of depth in which the single best refusal direction is looked for."""
_ABLATION_PROMPTS = 24


@dataclass(frozen=True)
class Scan:
    """What the scan found."""

    subspace: RefusalSubspace
    separations: tuple[LayerSeparation, ...]
    ablation_direction: Float[Tensor, " width"]
    """Unit direction whose removal from all residual writers lowers the refusal score of `select` targets most."""
    ablation_layer: int
    openings: RefusalOpenings

    def summary(self) -> dict[str, Any]:
        """Return the numbers, for the run folder and the report."""
        return {
            "separations": plain(self.separations),
            "method": self.subspace.method,
            "best_layer": self.subspace.best_layer,
            "layers": list(self.subspace.layers),
            "rank": self.subspace.basis.shape[1],
            "separation": self.subspace.separation,
            "number_of_layers": self.subspace.basis.shape[0],
            "ablation_layer": self.ablation_layer,
        }


def scan_model(loaded: LoadedModel, baseline: Baseline, options: ScanOptions, progress: Progress) -> Scan:
    """Return subspaces, chosen layers, the strongest single refusal direction, and the model's refusal openings."""
    groups = {}
    for name, sets in (("fit", baseline.fit), ("select", baseline.select)):
        groups[name] = TwoGroups(
            _states(loaded, _refused(sets, "targets"), f"scan: {name} targets", progress),
            _states(loaded, _refused(sets, "keep", "guard"), f"scan: {name} keeps", progress),
        )
    subspace, table = select_subspace(
        groups["fit"], groups["select"], twins(baseline.fit), options.rank, options.shrinkage
    )
    openings = model_openings(loaded, baseline.fit, options.decision_tokens, progress)
    answered = (baseline.fit.answered("targets") + baseline.fit.answered("ordinary"))[:_ANSWERED]
    answering = _states(loaded, answered, "scan: answered prompts", progress)
    directions = difference_of_means(groups["fit"].targets, answering)[:, 0]
    candidates = depth_range(loaded.depth, ABLATION_LAYERS)
    advance = counter(progress, "scan: directional ablation by layer", len(candidates))
    layer = strongest_layer(
        loaded, directions, candidates, baseline.select.refused("targets")[:_ABLATION_PROMPTS], openings, advance
    )
    return Scan(subspace, tuple(table), directions[layer], layer, openings)


def twins(sets: BaselineSet) -> list[int | None]:
    """Return for every refused target in use the row of its twin among the refused keeps and guards, asked alike."""
    keeps = _refused(sets, "keep", "guard")
    rows = {(a.prompt.contrast_of, a.prompt.thinking): row for row, a in enumerate(keeps) if a.prompt.contrast_of}
    return [rows.get((a.prompt.text, a.prompt.thinking)) for a in _refused(sets, "targets")]


def _refused(sets: BaselineSet, *kinds: str) -> list[Asked]:
    """Return the refused prompts that the scan looks at."""
    return [asked for kind in kinds for asked in sets.refused(kind)[: _MOST[kind]]]


def save_scan(scan: Scan, path: Path) -> None:
    """Write the scan's tensors; the numbers are in `Scan.summary`."""
    tensors = {
        "basis": scan.subspace.basis.contiguous(),
        "ablation_direction": scan.ablation_direction.contiguous(),
        "openings": scan.openings.weights,
    }
    save_file(tensors, path)


def load_scan(path: Path, summary: dict[str, Any]) -> Scan:
    """Return the scan of a run folder from its tensors and numbers."""
    tensors = load_file(path)
    subspace = RefusalSubspace(
        tensors["basis"], summary["method"], summary["best_layer"], tuple(summary["layers"]), summary["separation"]
    )
    rows = tuple(LayerSeparation(**row) for row in summary["separations"])
    openings = RefusalOpenings(tensors["openings"])
    return Scan(subspace, rows, tensors["ablation_direction"], summary["ablation_layer"], openings)


def _states(loaded: LoadedModel, asked: Sequence[Asked], what: str, progress: Progress) -> Tensor:
    sequences = [a.before_answer(loaded.tokenizer) for a in asked]
    advance = counter(progress, what, len(sequences))
    return collect_activations(loaded.model, loaded.architecture, sequences, advance=advance).states


def depth_range(depth: int, shares: tuple[float, float]) -> range:
    """Return the layers between two shares of the depth, at least one."""
    low, high = (round(share * depth) for share in shares)
    return range(min(low, depth - 1), max(high, low + 1))


@torch.inference_mode()
def strongest_layer(
    loaded: LoadedModel,
    directions: Float[Tensor, "layers width"],
    candidates: range,
    targets: Sequence[Asked],
    openings: RefusalOpenings,
    advance: Callable[[int], None],
) -> int:
    """Return the layer whose direction, removed from all residual writers, lowers the targets' mean score most.

    Args:
        loaded: the base model.
        directions: one a layer.
        candidates: layers that are tried.
        targets: refused prompts.
        openings: give the refusal score.
        advance: called after each layer.
    """
    sequences = [a.before_answer(loaded.tokenizer) for a in targets]
    scores = {}
    for layer in candidates:
        with ablated_direction(loaded.model, loaded.architecture, directions[layer].to(loaded.model.device)):
            found = [openings.score(logits) for logits in last_logits(loaded.model, sequences)]
        scores[layer] = float(torch.cat(found).mean())
        advance(1)
    return min(scores, key=lambda layer: scores[layer])
