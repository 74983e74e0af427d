"""The figures of `validate` with thinking off and on."""

from __future__ import annotations

from collections.abc import Sequence

from unflinch.metrics.intervals import rate
from unflinch.metrics.kl import kl_distribution
from unflinch.results import Outcome
from unflinch.steps.held_out_panel import HeldOutPanel, refusal_counts
from unflinch.validate.kl_distribution import SequenceKL
from unflinch.validation_results import ModeFigures


def mode_figures(panel: HeldOutPanel, outcomes: Sequence[Outcome], kl: SequenceKL) -> tuple[ModeFigures, ...]:
    """Return the figures of every mode in which the test prompts were asked; none where the model does not think.

    Args:
        panel: the prompts, and what the base model does with them.
        outcomes: the refused ones before and after.
        kl: along the answers to the ordinary ones.
    """
    return tuple(_figures(panel, outcomes, kl, mode) for mode in panel.loaded.modes if mode is not None)


def _figures(panel: HeldOutPanel, outcomes: Sequence[Outcome], kl: SequenceKL, thinking: bool) -> ModeFigures:
    own = [outcome for outcome in outcomes if outcome.thinking == thinking]
    rows = [row for row, prompt in enumerate(panel.ordinary.prompts) if prompt.thinking == thinking]
    first, sequence = ([values[row] for row in rows] for values in (kl.first_token, kl.sequence_mean))
    asked, undecided = panel.thoughts()
    after = sum(outcome.after == "undecided" for outcome in own)
    return ModeFigures(
        thinking,
        refusal_counts(own, "target"),
        refusal_counts(own, "keep"),
        refusal_counts(own, "guard"),
        kl_distribution(first) if first else None,
        kl_distribution(sequence) if sequence else None,
        rate(undecided if thinking else 0, asked),
        rate(after, len(own)),
    )
