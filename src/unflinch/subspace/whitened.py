"""The direction that separates two groups best once their common spread is taken out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def whitened_direction(
    positive: Float[Tensor, "positives layers width"],
    negative: Float[Tensor, "negatives layers width"],
    shrinkage: float,
) -> Float[Tensor, "layers 1 width"]:
    """Return the unit discriminant direction at every layer.

    Formula: w_l ∝ C_l⁻¹ (mean_+ - mean_-), with C_l the pooled within-group covariance shrunk to
    (1 - s) C + s tr(C)/width I. Source: Fisher's discriminant; the whitening is that of LEACE (arXiv 2306.03819).

    Args:
        positive: states of the first group.
        negative: states of the second group.
        shrinkage: s in (0, 1].
    """
    difference = positive.mean(0) - negative.mean(0)
    centred = torch.cat([positive - positive.mean(0), negative - negative.mean(0)]).transpose(0, 1)
    count, width = centred.shape[1], centred.shape[2]
    covariance = centred.transpose(1, 2) @ centred / count
    scale = covariance.diagonal(dim1=1, dim2=2).mean(1)
    identity = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
    shrunk = (1 - shrinkage) * covariance + shrinkage * scale[:, None, None] * identity
    factors = torch.linalg.cholesky(shrunk)
    direction = torch.stack(
        [torch.cholesky_solve(d[:, None], f)[:, 0] for d, f in zip(difference, factors, strict=True)]
    )
    return torch.nn.functional.normalize(direction, dim=-1).unsqueeze(1)
