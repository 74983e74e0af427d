"""Directions shared by all layers: low-rank models of the whole prompt x layer x width tensor.

One layer at a time is noisy with a few hundred prompts; a difference that persists in depth is told apart from one that
does not by decomposing the tensor of paired differences as a whole.
"""

from __future__ import annotations

import tensorly as tl
import torch
from jaxtyping import Float
from tensorly.decomposition import parafac, partial_tucker
from torch import Tensor


def _leading_signed(vectors: Tensor, by_layer_mean: Tensor) -> Float[Tensor, "layers rank width"]:
    """Return orthonormal rows a layer, led by the combination along which that layer's mean difference lies."""
    inside = torch.einsum("lw,rw->lr", by_layer_mean, vectors)
    result = torch.empty(by_layer_mean.shape[0], *vectors.shape, dtype=vectors.dtype)
    for layer, coordinates in enumerate(inside):
        frame = torch.eye(len(vectors), dtype=vectors.dtype)
        frame[:, 0] = coordinates
        rotation, upper = torch.linalg.qr(frame)
        rotation = rotation * torch.where(upper.diagonal() < 0, -1.0, 1.0)
        result[layer] = rotation.T @ vectors
    return result


def parafac_directions(
    differences: Float[Tensor, "pairs layers width"], rank: int, seed: int = 0
) -> Float[Tensor, "layers rank width"]:
    """Return, at every layer, the orthonormalised PARAFAC width factors, led by the layer's own combination of them.

    Formula: D[p, l, w] ≈ sum_r P[p, r] L[l, r] W[w, r] (alternating least squares); layer l's leading direction is
    along sum_r mean_p(P)[r] L[l, r] W[:, r]. Source: Kolda and Bader 2009; solver: `tensorly.decomposition.parafac`.

    Args:
        differences: positive minus negative state of every pair.
        rank: number of components.
        seed: of the random start.
    """
    with tl.backend_context("pytorch", local_threadsafe=True):
        weights, (prompts, layers, widths) = parafac(
            differences, rank=rank, init="svd", n_iter_max=60, tol=1e-5, random_state=seed, linesearch=False
        )
    mean = torch.einsum("r,r,lr,wr->lw", weights, prompts.mean(0), layers, widths)
    basis, _ = torch.linalg.qr(widths)
    return _leading_signed(basis.T.contiguous(), mean)


def tucker_directions(
    differences: Float[Tensor, "pairs layers width"], rank: int, layer_rank: int = 6
) -> Float[Tensor, "layers rank width"]:
    """Return, at every layer, the Tucker width factors, led by the projection of the layer's smoothed mean difference.

    Formula: D ≈ core x_layers L x_width W with orthonormal L (layers x layer_rank) and W (width x rank); the mean
    difference is projected on both. Source: Kolda and Bader 2009; solver: `tensorly.decomposition.partial_tucker`.

    Args:
        differences: positive minus negative state of every pair.
        rank: number of width directions.
        layer_rank: number of depth profiles.
    """
    layer_rank = min(layer_rank, differences.shape[1], len(differences) * rank)
    with tl.backend_context("pytorch", local_threadsafe=True):
        (_, (layers, widths)), _ = partial_tucker(
            differences, rank=[layer_rank, rank], modes=[1, 2], n_iter_max=30, tol=1e-4
        )
    mean = layers @ (layers.T @ differences.mean(0) @ widths) @ widths.T
    return _leading_signed(widths.T.contiguous(), mean)
