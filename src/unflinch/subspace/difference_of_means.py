"""The direction between two groups' means, layer by layer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def difference_of_means(
    positive: Float[Tensor, "positives layers width"], negative: Float[Tensor, "negatives layers width"]
) -> Float[Tensor, "layers 1 width"]:
    """Return the unit vector from the negative to the positive mean at every layer.

    Formula: (mean(positive) - mean(negative)) / norm. Source: Arditi et al. 2024 (arXiv 2406.11717).
    """
    difference = positive.mean(0) - negative.mean(0)
    return torch.nn.functional.normalize(difference, dim=-1).unsqueeze(1)
