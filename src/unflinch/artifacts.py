"""Tensors that steps hand to each other, frozen.

Axis names used in shapes throughout the package:

- `prompts`: one row a prompt; `rows`: rows of a batch; `tokens`: positions of a padded batch
- `scored`: positions of a row at which logits are taken; `vocab`: vocabulary
- `layers`: decoder layers, index 0 is the output of the first; `width`: residual stream
- `input`, `output`: input and output features of a linear module; `rank`: columns of a low-rank factor
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Activations:
    """Residual-stream states of prompts at their decision position (the last token before the answer)."""

    states: Float[Tensor, "prompts layers width"]


@dataclass(frozen=True)
class RefusalSubspace:
    """Orthonormal directions in which false refusals leave the answered prompts, with how they were chosen."""

    basis: Float[Tensor, "layers rank width"]
    """Per layer, orthonormal rows; the first is the leading direction, pointing from right refusals to false ones."""
    method: str
    best_layer: int
    """Layer with the highest held-out separation."""
    layers: tuple[int, ...]
    """Layers chosen for editing, ascending."""
    separation: float
    """Held-out AUROC at `best_layer`."""


@dataclass(frozen=True)
class LowRankFactors:
    """One module's update dW = b @ a."""

    a: Float[Tensor, "rank input"]
    b: Float[Tensor, "output rank"]


@dataclass(frozen=True)
class Patch:
    """A low-rank weight update of a base model, by module name, at strength 1."""

    factors: Mapping[str, LowRankFactors]
    base_hash: str
    """Hash of the base weights that the patch was made for; see `models.fingerprint`."""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of values in all factors."""
        return sum(f.a.numel() + f.b.numel() for f in self.factors.values())


@dataclass(frozen=True)
class FittedStage:
    """What one stage of the fit leaves behind."""

    patch: Patch
    scores: Float[Tensor, " prompts"] = field(default_factory=lambda: torch.empty(0))
    """Refusal scores before the stage, of all prompts of the fit in its order; empty where it did not need them."""
    slack: Float[Tensor, " prompts"] = field(default_factory=lambda: torch.empty(0))
    """How far inside its bound each score should be after the stage."""


@dataclass(frozen=True)
class ModuleMetric:
    """What an update of one module costs: KL ≈ ½ tr(dWᵀ S dW C), as Cholesky factors of C and S.

    C is the second moment of the module's inputs, S that of the gradient of the log-likelihood at its outputs (Fisher),
    both over tokens of ordinary prompts and their answers, shrunk towards the scaled identity.
    """

    input_factor: Float[Tensor, "input input"]
    """Lower triangular L with C = L Lᵀ."""
    output_factor: Float[Tensor, "output output"]
    """Lower triangular L with S = L Lᵀ."""


@dataclass(frozen=True)
class PromptGradients:
    """Gradient of every prompt's refusal score with respect to modules' weights, as low-rank factors.

    For prompt p and a module: gradient ≈ sum_r outputs[p, r]ᵀ inputs[p, r], a matrix `(output, input)`.
    """

    scores: Float[Tensor, " prompts"]
    """The refusal scores themselves, in units of logits: see `RefusalOpenings.decision_scores`."""
    inputs: Mapping[str, Float[Tensor, "prompts rank input"]]
    outputs: Mapping[str, Float[Tensor, "prompts rank output"]]
