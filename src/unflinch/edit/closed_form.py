"""The smallest update, in the KL metric, that moves every refusal score where it belongs.

With G_i the gradient of prompt i's refusal score, an update dW changes the score by <G_i, dW>. Among all updates that
bring targets down to a goal and leave keeps up, the one of least KL is dW = -S⁻¹ (sum_i nu_i G_i) C⁻¹, and nu solves a
quadratic programme with as many unknowns as prompts. It is a support vector machine on the gradients, with a margin of
its own for every prompt: prompts that are where they belong get nu = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from torch import Tensor

from unflinch.artifacts import LowRankFactors, ModuleMetric, PromptGradients
from unflinch.edit.low_rank import from_whitened, truncated, whiten

_GRAM_ROWS = 512
"""Prompts whose products with all others are held at once."""
_WHITENED_ROWS = 1024
"""Prompts whose gradients are whitened at once."""


@dataclass(frozen=True)
class ScoreBounds:
    """Where each refusal score should end: `lower <= score <= upper`, infinite where free."""

    lower: Float[Tensor, " prompts"]
    upper: Float[Tensor, " prompts"]

    def finite(self) -> Bool[Tensor, " prompts"]:
        """Return which scores are bounded at all."""
        return self.lower.isfinite() | self.upper.isfinite()

    def rows(self, chosen: Bool[Tensor, " prompts"]) -> ScoreBounds:
        """Return the bounds of some prompts."""
        return ScoreBounds(self.lower[chosen], self.upper[chosen])


def whiten_in_place(
    gradients: PromptGradients, metrics: Mapping[str, ModuleMetric], chosen: Bool[Tensor, " prompts"]
) -> PromptGradients:
    """Return the gradients of some prompts in whitened coordinates, where inner products are those of S⁻¹ and C⁻¹.

    `gradients` are used up: the result takes their place in memory, module by module and some prompts at a time.
    """

    def whitened(values: Tensor, factor: Tensor) -> Tensor:
        kept = 0
        for rows in chosen.nonzero()[:, 0].split(_WHITENED_ROWS):  # a row never moves behind one still to be read
            values[kept : kept + len(rows)] = whiten(values[rows], factor)
            kept += len(rows)
        return values[:kept]

    return PromptGradients(
        gradients.scores[chosen],
        {name: whitened(x, metrics[name].input_factor) for name, x in gradients.inputs.items()},
        {name: whitened(g, metrics[name].output_factor) for name, g in gradients.outputs.items()},
    )


def gram_matrix(whitened: PromptGradients) -> Float[Tensor, "prompts prompts"]:
    """Return K_ij = sum over modules of <G_i, S⁻¹ G_j C⁻¹>, in float64, from whitened gradients.

    With rank-one terms, <g xᵀ, h yᵀ> = (g·h)(x·y): no weight-sized matrix is formed. K is symmetric, so that only the
    blocks on and right of its diagonal are computed.
    """
    count = len(whitened.scores)
    total = torch.zeros(count, count, dtype=torch.float64)
    for start in range(0, count, _GRAM_ROWS):
        rows = slice(start, start + _GRAM_ROWS)
        for name, every_x in whitened.inputs.items():
            x, g = every_x[rows], whitened.outputs[name][rows]
            y, h = every_x[start:], whitened.outputs[name][start:]
            product = (x.flatten(0, 1) @ y.flatten(0, 1).T) * (g.flatten(0, 1) @ h.flatten(0, 1).T)
            total[rows, start:] += product.reshape(len(x), x.shape[1], len(y), y.shape[1]).double().sum((1, 3))
    return total.triu() + total.triu(1).T


def solve_multipliers(
    gram: Float[Tensor, "prompts prompts"],
    scores: Float[Tensor, " prompts"],
    bounds: ScoreBounds,
    stiffness: Float[Tensor, " prompts"],
) -> Float[Tensor, " prompts"]:
    """Return nu minimising ½ nuᵀ K nu + sum_i stiffness_i violation_i, where the new scores are s - K nu.

    Formula: the dual is a box-constrained quadratic programme, max cᵀ l - ½ lᵀ Q l with 0 <= l <= stiffness, one
    multiplier a finite bound, solved by L-BFGS-B. K is scaled to mean diagonal 1, which `stiffness` refers to.
    Source: METHOD, per-prompt form; soft margins as in Cortes and Vapnik 1995.

    Args:
        gram: K, symmetric positive semidefinite.
        scores: current scores s.
        bounds: wanted range of every score; an infinite bound is no constraint.
        stiffness: price of missing a bound, per prompt.
    """
    k = gram.double().numpy()
    scale = float(np.mean(np.diag(k)))
    k = k / scale
    s = scores.double().numpy()
    upper, lower = bounds.upper.double().numpy(), bounds.lower.double().numpy()
    rows = np.concatenate([np.flatnonzero(np.isfinite(upper)), np.flatnonzero(np.isfinite(lower))])
    signs = np.concatenate([np.ones(np.isfinite(upper).sum()), -np.ones(np.isfinite(lower).sum())])
    wanted = np.concatenate([(s - upper)[np.isfinite(upper)], (lower - s)[np.isfinite(lower)]])
    q = signs[:, None] * k[np.ix_(rows, rows)] * signs[None, :]

    def objective(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        product = q @ multipliers
        return float(0.5 * multipliers @ product - wanted @ multipliers), product - wanted

    price = stiffness.double().numpy()[rows]
    solution = minimize(
        objective,
        np.zeros(len(rows)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, p) for p in price],
        options={"maxiter": 4000, "ftol": 1e-12, "gtol": 1e-7},
    )
    nu = np.zeros(len(s))
    np.add.at(nu, rows, signs * solution.x)
    return torch.from_numpy(nu / scale)


def closed_form_update(
    whitened: PromptGradients,
    multipliers: Float[Tensor, " prompts"],
    metrics: Mapping[str, ModuleMetric],
    rank: int,
) -> dict[str, LowRankFactors]:
    """Return dW = -S⁻¹ (sum_i nu_i G_i) C⁻¹ of every module, truncated to `rank` where it costs least KL.

    Args:
        whitened: gradients in whitened coordinates.
        multipliers: nu of `solve_multipliers`.
        metrics: of the same modules.
        rank: kept a module.
    """
    active = multipliers.abs() > 0
    nu = multipliers[active].float()
    update = {}
    for name, metric in metrics.items():
        x = whitened.inputs[name][active].flatten(0, 1)
        g = (whitened.outputs[name][active] * -nu[:, None, None]).flatten(0, 1)
        b, a = truncated(g.T, x, rank)
        update[name] = from_whitened(b, a, metric)
    return update
