"""All subspace methods on the same activations, scored where they were not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from torch import Tensor

from unflinch.artifacts import RefusalSubspace
from unflinch.results import LayerSeparation
from unflinch.subspace.difference_of_means import difference_of_means
from unflinch.subspace.principal_components import paired_principal_components
from unflinch.subspace.tensor_decomposition import parafac_directions, tucker_directions
from unflinch.subspace.whitened import whitened_direction

SEPARATING_SHARE = 1 / 3
"""Share of the layers, in one block, in which the two groups are told apart best."""
TOLERANCE = 0.005
"""Of blocks within this mean AUROC of the best one the earliest counts: the same effect costs less KL there."""


@dataclass(frozen=True)
class TwoGroups:
    """States of falsely refused targets and of rightly refused keeps."""

    targets: Float[Tensor, "targets layers width"]
    keeps: Float[Tensor, "keeps layers width"]


def pair_up(groups: TwoGroups, partners: Sequence[int | None]) -> Float[Tensor, "targets layers width"]:
    """Return target minus its partner keep, or minus the keeps' mean where a target has no harmful twin.

    Args:
        groups: the states.
        partners: for every target the row of its twin among the keeps, or None.
    """
    mean = groups.keeps.mean(0)
    others = torch.stack([mean if p is None else groups.keeps[p] for p in partners])
    return groups.targets - others


def find_subspaces(
    fit: TwoGroups, partners: Sequence[int | None], rank: int, shrinkage: float
) -> dict[str, Float[Tensor, "layers rank width"]]:
    """Return the subspace of every method, layer by layer, fitted on `fit` states only.

    Args:
        fit: states of both groups.
        partners: see `pair_up`.
        rank: most directions a layer for the methods that give several.
        shrinkage: of the whitened direction's covariance.
    """
    differences = pair_up(fit, partners)
    rank = min(rank, len(differences))
    return {
        "difference_of_means": difference_of_means(fit.targets, fit.keeps),
        "principal_components": paired_principal_components(differences, rank),
        "whitened": whitened_direction(fit.targets, fit.keeps, shrinkage),
        "parafac": parafac_directions(differences, rank),
        "tucker": tucker_directions(differences, rank),
    }


def separation(basis: Float[Tensor, "layers rank width"], fit: TwoGroups, held_out: TwoGroups) -> list[float]:
    """Return the held-out AUROC, targets against keeps, inside the subspace of every layer.

    Several directions are weighed by a linear discriminant fitted on `fit`; one is used as it is.
    """
    scores = []
    for layer, directions in enumerate(basis):
        train = [(g[:, layer] @ directions.T).numpy() for g in (fit.targets, fit.keeps)]
        test = [(g[:, layer] @ directions.T).numpy() for g in (held_out.targets, held_out.keeps)]
        labels = np.repeat([1, 0], [len(test[0]), len(test[1])])
        if basis.shape[1] == 1:
            values = np.concatenate(test)[:, 0]
        else:
            discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            discriminant.fit(np.concatenate(train), np.repeat([1, 0], [len(train[0]), len(train[1])]))
            values = discriminant.decision_function(np.concatenate(test))
        scores.append(float(roc_auc_score(labels, values)))
    return scores


def select_subspace(
    fit: TwoGroups, held_out: TwoGroups, partners: Sequence[int | None], rank: int, shrinkage: float
) -> tuple[RefusalSubspace, list[LayerSeparation]]:
    """Return the subspace with the best held-out separation and the whole table of separations.

    The layers to edit are as many as a block of `SEPARATING_SHARE` of the depth has, and end in the middle of the one
    with the highest mean AUROC, a mean that varies less from sample to sample than the AUROC of one layer; of nearly
    equal blocks the earliest. What is written there reaches the other half, and carries over to prompts of another make
    better; half as many layers cost more KL for the same effect: see LOG.

    Args:
        fit: states that directions are computed from.
        held_out: `select` states that methods, layers and rank are chosen on.
        partners: see `pair_up`.
        rank: most directions a layer.
        shrinkage: of the whitened direction's covariance.
    """
    bases = find_subspaces(fit, partners, rank, shrinkage)
    tables = {method: separation(basis, fit, held_out) for method, basis in bases.items()}
    table = [
        LayerSeparation(method, layer, auroc, bases[method].shape[1])
        for method, scores in tables.items()
        for layer, auroc in enumerate(scores)
    ]
    best = max(table, key=lambda row: (row.auroc, -row.rank))
    depth = fit.targets.shape[1]
    by_layer = [max(scores[layer] for scores in tables.values()) for layer in range(depth)]
    width = max(1, round(SEPARATING_SHARE * depth))
    means = [float(np.mean(by_layer[first : first + width])) for first in range(depth - width + 1)]
    first = next(first for first, mean in enumerate(means) if mean >= max(means) - TOLERANCE)
    end = first + (width + 1) // 2
    edited = tuple(range(max(0, end - width), end))
    subspace = RefusalSubspace(bases[best.method], best.method, best.layer, edited, best.auroc)
    return subspace, table
