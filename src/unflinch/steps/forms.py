"""Part of a thorough validation: the patch in every form in which people run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from unflinch.artifacts import Patch
from unflinch.data.splits import TestPrompts
from unflinch.metrics.intervals import rate
from unflinch.metrics.kl import kl_distribution
from unflinch.models.load import LoadedModel
from unflinch.models.number_formats import NUMBER_FORMATS, NumberFormat, not_measured, rounded_weights
from unflinch.options import ValidateOptions
from unflinch.patch.attach import attached
from unflinch.patch.merge import merged
from unflinch.results import Outcome
from unflinch.robustness_results import FormReport, FormResult
from unflinch.steps.held_out_panel import Change, HeldOutPanel, refusal_counts
from unflinch.steps.progress import Progress
from unflinch.validate.refusal_rate import counts_as_refused

DIAL = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Strengths at which the adapter is measured."""


@dataclass(frozen=True)
class Form:
    """One form of the patch."""

    name: str
    change: Change
    number_format: Change | None = None
    """The base model's weights in the same number format, without the patch."""


def validate_forms(
    loaded: LoadedModel, patch: Patch, test: TestPrompts, options: ValidateOptions, progress: Progress
) -> FormReport:
    """Return how every form does on the test prompts that the base model refuses, and on the ordinary ones.

    Args:
        loaded: the base model.
        patch: as read back from its exported folder.
        test: the test prompts.
        options: how many tokens are judged, and along how many KL is taken.
        progress: called while asking.
    """
    panel = HeldOutPanel(loaded, test, options, progress)
    reasons = {one: not_measured(one, loaded.model, loaded.architecture) for one in NUMBER_FORMATS}
    formats = [one for one, reason in reasons.items() if not reason]
    missing = {f"merged, {one.name}": reason for one, reason in reasons.items() if reason}
    if loaded.quantisation:
        missing = {"merged": f"the weights are quantised ({loaded.quantisation})"}
    return FormReport(tuple(measure(panel, form) for form in forms_of(loaded, patch, formats)), missing)


def forms_of(loaded: LoadedModel, patch: Patch, formats: Sequence[NumberFormat]) -> Iterator[Form]:
    """Yield the adapter along its dial, the merged model, and that in number formats.

    Quantised weights take no patch and are in a number format already.
    """
    for strength in DIAL:
        yield Form(f"adapter at {strength:g}", partial(attached, loaded.model, patch, strength))
    if loaded.quantisation:
        return
    yield Form(f"merged, {loaded.dtype_name}", partial(merged, loaded.model, patch, 1.0))
    for fmt in formats:
        yield Form(
            f"merged, {fmt.name}",
            partial(_merged_and_rounded, loaded, patch, fmt),
            partial(rounded_weights, loaded.model, loaded.architecture, fmt),
        )


def measure(panel: HeldOutPanel, form: Form) -> FormResult:
    """Return how one form does."""
    outcomes = panel.outcomes(panel.after(form.change, form.name))
    targets, keep, guard = (refusal_counts(outcomes, kind) for kind in ("target", "keep", "guard"))
    rounded = form.number_format is not None
    kl = panel.kl(form.change, form.name, head_changes=rounded)
    of_format = None
    if form.number_format:
        found = panel.kl(form.number_format, f"{form.name}, base", head_changes=True)
        of_format = kl_distribution(found.sequence_mean).mean
    return FormResult(
        form.name,
        rate(targets.refused_after, targets.n),
        rate(keep.lost, keep.n),
        rate(guard.lost, guard.n),
        lost_by_format(panel, outcomes, form.number_format) if form.number_format else 0,
        kl_distribution(kl.first_token),
        kl_distribution(kl.sequence_mean),
        of_format,
    )


def lost_by_format(panel: HeldOutPanel, outcomes: tuple[Outcome, ...], number_format: Change) -> int:
    """Return how many of the lost guard prompts the base model loses as well in the same number format."""
    guard = (outcome for outcome in outcomes if outcome.kind == "guard")  # in the order of the prompts, see `outcomes`
    pairs = zip(panel.refused["guard"].prompts, guard, strict=True)
    prompts = [prompt for prompt, outcome in pairs if not counts_as_refused(False, outcome.after)]
    if not prompts:  # nothing to hold the whole model in another format for
        return 0
    with number_format():
        answers = panel.ask(prompts, "forms: lost guard prompts, base", panel.options.answer_tokens)
    return sum(not counts_as_refused(False, answer.judgement.label) for answer in answers)


@contextmanager
def _merged_and_rounded(loaded: LoadedModel, patch: Patch, fmt: NumberFormat) -> Iterator[None]:
    """Run the merged model with its weights rounded."""
    with merged(loaded.model, patch, 1.0), rounded_weights(loaded.model, loaded.architecture, fmt):
        yield
