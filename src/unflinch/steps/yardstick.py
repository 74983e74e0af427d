"""What the patch is compared with: directional ablation, turned down until it leaves as many false refusals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch

from unflinch.metrics.kl import kl_distribution
from unflinch.models.forward import last_logits
from unflinch.models.hooks import ablated_direction
from unflinch.models.workers import by_first
from unflinch.results import Yardstick
from unflinch.steps.held_out_panel import HeldOutPanel, refusal_counts
from unflinch.steps.scan import Scan

_STRENGTH_STEP = 1 / 32
_DIALLED = 64
"""Targets on which the yardstick's strength is found."""


def yardstick(panel: HeldOutPanel, scan: Scan, share: float) -> Yardstick:
    """Return directional ablation (one direction out of every residual writer) where it leaves as many targets.

    Its strength is found on the first tokens of answers, of the targets whose refusals those decide; its answers are
    read as the base model's are: plain ones for a glance only.

    Args:
        panel: the prompts, and what the base model does with them.
        scan: the direction, and how refusals begin.
        share: of the test targets that the patch leaves refused.
    """
    loaded, refused = panel.loaded, panel.refused["target"]
    direction = scan.ablation_direction.to(loaded.model.device)
    pairs = zip(refused.prompts, refused.answers, strict=True)
    opened = [panel.before_answer(p, a) for p, a in pairs if scan.openings.tokens[a.tokens[0]]][:_DIALLED]

    def ablated(strength: float) -> AbstractContextManager[object]:
        return ablated_direction(loaded.model, loaded.architecture, direction, strength)

    @torch.inference_mode()
    def left(strength: float) -> float:
        with ablated(strength):
            refuses = [scan.openings.score(logits) > 0 for logits in last_logits(loaded.model, opened)]
        return by_first(lambda: float(torch.cat(refuses).float().mean()))

    strength = equal_strength(left, share) if opened else 1.0
    what, change = "directional ablation", partial(ablated, strength)
    outcomes = panel.outcomes(panel.after(change, what, glance=True))
    kl = panel.kl(change, what)
    return Yardstick(
        strength,
        refusal_counts(outcomes, "target").refused_after,
        refusal_counts(outcomes, "keep").lost,
        refusal_counts(outcomes, "guard").lost,
        kl_distribution(kl.first_token).mean,
        kl_distribution(kl.sequence_mean).mean,
    )


def equal_strength(left: Callable[[float], float], share: float) -> float:
    """Return the strength in (0, 1], to 1/32, from which on a change leaves at most `share`; 1 if it never does.

    Args:
        left: the share of targets left at a strength, falling.
        share: what is to be left.
    """
    low, high = 0.0, 1.0
    if left(high) > share:
        return high
    while high - low > _STRENGTH_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) > share else (low, middle)
    return high
