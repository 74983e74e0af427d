"""What lowering the mean refusal score of some prompts costs at least, known before anything is solved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from unflinch.artifacts import PromptGradients
from unflinch.edit.closed_form import gram_matrix


@dataclass(frozen=True)
class Leverage:
    """Inner products of two mean gradients, in the inverse KL metric; those of several modules add up."""

    targets: float
    """kappa = <F, S⁻¹ F C⁻¹> of the targets' mean gradient F, in squared units of logits a nat."""
    both: float
    """The same between F and the keeps' mean gradient G."""
    keeps: float
    """The same of G."""

    @property
    def guarded(self) -> float:
        """Return what is left of kappa when the keeps' mean score must not fall.

        Formula: kappa - max(0, <F, G>)² / <G, G>: the part of F that is orthogonal to G, where G points the same way.
        """
        if self.both <= 0 or self.keeps <= 0:
            return self.targets
        return max(0.0, self.targets - self.both**2 / self.keeps)

    def least_kl(self, shift: float) -> float:
        """Return the least quadratic cost, in nats, of an update that lowers the targets' mean score by `shift`.

        Formula: shift² / (2 kappa_guarded); infinite where no update does it. Whatever moves every target by its own
        amount and holds every keep costs at least as much, as it moves the means too. Source: METHOD, module choice.
        """
        if shift <= 0:
            return 0.0
        return shift**2 / (2 * self.guarded) if self.guarded > 0 else float("inf")


def leverages(
    whitened: PromptGradients, targets: Bool[Tensor, " prompts"], keeps: Bool[Tensor, " prompts"]
) -> Mapping[str, Leverage]:
    """Return the leverage of every module.

    Args:
        whitened: gradients in whitened coordinates.
        targets: which prompts are to be answered.
        keeps: which refusals must not become less sure.
    """
    found = {}
    for name, x in whitened.inputs.items():
        gram = gram_matrix(PromptGradients(whitened.scores, {name: x}, {name: whitened.outputs[name]}))
        blocks = ((targets, targets), (targets, keeps), (keeps, keeps))
        found[name] = Leverage(*(_mean(gram[left][:, right]) for left, right in blocks))
    return found


def _mean(block: Tensor) -> float:
    """Return the mean of all entries; 0 of none, as where a model refuses nothing rightly."""
    return float(block.mean()) if block.numel() else 0.0


def together(parts: Mapping[str, Leverage]) -> Leverage:
    """Return the leverage of several modules that are changed at once."""
    return Leverage(*(sum(getattr(one, key) for one in parts.values()) for key in ("targets", "both", "keeps")))
