"""Low-rank updates measured by what they cost: truncation and addition in the KL metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unflinch.artifacts import LowRankFactors, ModuleMetric


def whiten(
    values: Float[Tensor, "*any features"], factor: Float[Tensor, "features features"]
) -> Float[Tensor, "*any features"]:
    """Return L⁻¹ v for every vector, with `factor` = L: inner products become those of the inverse metric (L Lᵀ)⁻¹."""
    flat = values.reshape(-1, values.shape[-1])
    white: Tensor = torch.linalg.solve_triangular(factor, flat.T, upper=False).T
    return white.reshape(values.shape)


def from_whitened(
    b_white: Float[Tensor, "output rank"], a_white: Float[Tensor, "rank input"], metric: ModuleMetric
) -> LowRankFactors:
    """Return the factors of dW = L_S⁻ᵀ (b_white a_white) L_C⁻¹.

    In these coordinates KL ≈ ½ ‖b_white a_white‖²_F.
    """
    b = torch.linalg.solve_triangular(metric.output_factor.T, b_white, upper=True)
    a = torch.linalg.solve_triangular(metric.input_factor.T, a_white.T, upper=True).T
    return LowRankFactors(a.contiguous(), b.contiguous())


def to_whitened(factors: LowRankFactors, metric: ModuleMetric) -> tuple[Tensor, Tensor]:
    """Return (b_white, a_white) of `from_whitened`."""
    return metric.output_factor.T @ factors.b, factors.a @ metric.input_factor


def truncated(
    b_white: Float[Tensor, "output many"], a_white: Float[Tensor, "many input"], rank: int
) -> tuple[Float[Tensor, "output rank"], Float[Tensor, "rank input"]]:
    """Return the best rank-`rank` factors of b_white @ a_white (Eckart-Young in the whitened, that is KL, norm)."""
    if b_white.shape[1] >= min(len(b_white), a_white.shape[1]):
        product = b_white @ a_white
        flip = product.shape[0] > product.shape[1]
        m = product.T if flip else product
        _, vectors = torch.linalg.eigh(m @ m.T)
        u = vectors[:, -rank:].flip(1)
        projected = u.T @ m
        root = projected.norm(dim=1).clamp(min=1e-30).sqrt()
        left, right = u * root, projected / root[:, None]
        return (right.T, left.T) if flip else (left, right)
    q_b, r_b = torch.linalg.qr(b_white)
    q_a, r_a = torch.linalg.qr(a_white.T)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T)
    root = s[:rank].sqrt()
    return q_b @ (u[:, :rank] * root), (root[:, None] * vt[:rank]) @ q_a.T


def added(
    updates: Sequence[Mapping[str, LowRankFactors]], metrics: Mapping[str, ModuleMetric], rank: int
) -> dict[str, LowRankFactors]:
    """Return the sum of several updates, truncated to `rank` a module in the KL metric."""
    total = {}
    for name, metric in metrics.items():
        pairs = [to_whitened(update[name], metric) for update in updates if name in update]
        b, a = torch.cat([p[0] for p in pairs], 1), torch.cat([p[1] for p in pairs])
        total[name] = from_whitened(*truncated(b, a, rank), metric)
    return total


def scaled(factors: Mapping[str, LowRankFactors], strength: float) -> dict[str, LowRankFactors]:
    """Return the update times `strength`."""
    return {name: LowRankFactors(f.a, f.b * strength) for name, f in factors.items()}
