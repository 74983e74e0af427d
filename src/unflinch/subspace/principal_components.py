"""Principal directions of paired differences, layer by layer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def paired_principal_components(
    differences: Float[Tensor, "pairs layers width"], rank: int
) -> Float[Tensor, "layers rank width"]:
    """Return the leading right singular vectors of the paired differences at every layer, orthonormal rows.

    Formula: D_l = U S Vᵀ over pairs, basis = first `rank` rows of Vᵀ, each signed so that the mean difference projects
    positively on it. The differences are not centred: their mean is the signal.
    Source: Zou et al. 2023 (representation engineering), with SVD in place of PCA.

    Args:
        differences: positive minus negative state of every pair.
        rank: number of directions, at most `min(pairs, width)`.
    """
    by_layer = differences.transpose(0, 1)
    _, _, vectors = torch.linalg.svd(by_layer, full_matrices=False)
    basis = vectors[:, :rank]
    signs = torch.sign(torch.einsum("lrw,lw->lr", basis, by_layer.mean(1)))
    signed: Tensor = basis * torch.where(signs == 0, torch.ones_like(signs), signs).unsqueeze(-1)
    return signed
