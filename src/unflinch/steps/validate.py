"""Step 4: the exported patch on test prompts, which no earlier step has seen, beside turned down ablation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from unflinch.artifacts import Patch
from unflinch.data.dialogues import bundled_dialogues
from unflinch.data.splits import TestPrompts
from unflinch.errors import NotFiniteError
from unflinch.metrics.intervals import rate
from unflinch.metrics.kl import kl_distribution, kl_divergence
from unflinch.models.forward import logits_from_hidden, scored_hidden
from unflinch.models.load import LoadedModel
from unflinch.models.workers import by_first
from unflinch.options import ValidateOptions
from unflinch.patch.attach import attached
from unflinch.results import GroupRate, KLReport, Outcome, PromptKL
from unflinch.steps.held_out_panel import KINDS, NAMES, Change, HeldOutPanel, refusal_counts
from unflinch.steps.progress import Progress, counter
from unflinch.steps.scan import Scan
from unflinch.steps.thinking_modes import mode_figures
from unflinch.steps.yardstick import yardstick
from unflinch.validate.dialogue_report import report_dialogues
from unflinch.validate.kl_distribution import SequenceKL
from unflinch.validate.kl_groups import kl_groups, kl_positions
from unflinch.validate.refusal_rate import grouped_rates
from unflinch.validate.verdict import judge_run
from unflinch.validation_results import DialogueReport, ValidationResults

_WORST = 10
_COMPARED_OFF = 16
"""Prompts on which the model with its patch off is compared with the original."""


def kl_report(panel: HeldOutPanel, kl: SequenceKL, noise_floor: float, change: Change) -> KLReport:
    """Return the KL distributions with the prompts that changed most, and both answers to them."""
    first, sequence = kl.first_token, kl.sequence_mean
    ordinary = panel.ordinary
    worst = by_first(lambda: _largest([max(pair) for pair in zip(first, sequence, strict=True)], _WORST))
    with change():
        answers = panel.ask(
            [ordinary.prompts[i] for i in worst], "validate: the worst prompts", panel.options.kl_tokens
        )
    rows = []
    for i, answer in zip(worst, answers, strict=True):
        prompt = ordinary.prompts[i]
        texts = (ordinary.answers[i].text, answer.text)
        rows.append(PromptKL(prompt.text, prompt.category, prompt.language, first[i], sequence[i], *texts))
    return KLReport(
        kl_distribution(first),
        kl_distribution(sequence),
        rate(kl.flipped, kl.scored),
        noise_floor,
        tuple(first),
        tuple(sequence),
        tuple(rows),
        first_token_all=kl_distribution(first + _first_token_of_others(panel, change)),
        groups=kl_groups(ordinary.prompts, kl, panel.loaded.system_prompt),
        positions=kl_positions(kl),
    )


def _largest(values: Sequence[float], n: int) -> list[int]:
    """Return the places of the `n` largest values, the largest first."""
    return sorted(range(len(values)), key=lambda place: -values[place])[:n]


@torch.inference_mode()
def _first_token_of_others(panel: HeldOutPanel, change: Change) -> list[float]:
    """Return first-token KL of the ordinary prompts that the base model does not plainly answer.

    Raises:
        NotFiniteError: if one is no finite number.
    """
    model, others = panel.loaded.model, panel.ordinary.others
    if not others:
        return []
    base = scored_hidden(model, others, 1)[:, 0]
    with change():
        patched = scored_hidden(model, others, 1)[:, 0]
    found = kl_divergence(logits_from_hidden(model, base), logits_from_hidden(model, patched))
    if not found.isfinite().all():
        raise NotFiniteError(model.dtype)
    values: list[float] = found.tolist()
    return values


def ordinary_dialogues(panel: HeldOutPanel, change: Change) -> DialogueReport:
    """Return what the change does to the bundled dialogues."""
    loaded, options = panel.loaded, panel.options
    return report_dialogues(
        loaded.model,
        loaded.tokenizer,
        loaded.in_modes(bundled_dialogues(options.dialogues)),
        panel.judge,
        change,
        options.dialogue_tokens,
        lambda what, answers: counter(panel.progress, f"validate: dialogues, {what}", answers),
        loaded.thinking,
    )


@torch.inference_mode()
def off_is_bit_equal(panel: HeldOutPanel, patch: Patch) -> tuple[bool, int]:
    """Return whether the patch, attached but disabled, leaves the base model's very logits, and on how many prompts."""
    model = panel.loaded.model
    sequences = [s.prompt for s in panel.ordinary.sequences[:_COMPARED_OFF]]
    base = logits_from_hidden(model, scored_hidden(model, sequences, 1))
    with attached(model, patch) as live, live.disabled():
        off = logits_from_hidden(model, scored_hidden(model, sequences, 1))
    return torch.equal(base, off), len(sequences)


def all_groups(outcomes: Sequence[Outcome]) -> dict[str, tuple[GroupRate, ...]]:
    """Return refusals before and after by category and by language, of every kind of prompt."""
    groups = {}
    for kind, name in NAMES.items():
        some = [outcome for outcome in outcomes if outcome.kind == kind]
        groups[f"{name}_by_category"] = grouped_rates(some, lambda outcome: outcome.category)
        groups[f"{name}_by_language"] = grouped_rates(some, lambda outcome: outcome.language)
    return groups


def validate_patch(
    loaded: LoadedModel,
    patch: Patch,
    test: TestPrompts,
    scan: Scan,
    noise_floor: float,
    options: ValidateOptions,
    progress: Progress,
) -> tuple[ValidationResults, dict[str, int]]:
    """Return all figures of the exported patch on test prompts, and how many of these the base model refuses.

    Args:
        loaded: the base model.
        patch: as read back from its exported folder.
        test: prompts that no earlier step has seen.
        scan: gives the direction of the yardstick.
        noise_floor: of KL, from the baseline.
        options: what is measured, and the limits.
        progress: called while asking.
    """
    panel = HeldOutPanel(loaded, test, options, progress)

    def change() -> AbstractContextManager[object]:
        return attached(loaded.model, patch)

    outcomes = panel.outcomes(panel.after(change, "patched"))
    along = panel.kl(change, "patched")
    kl = kl_report(panel, along, noise_floor, change)
    dialogues = ordinary_dialogues(panel, change)
    counts = {kind: refusal_counts(outcomes, kind) for kind in KINDS}
    verdict = judge_run(
        counts["target"],
        counts["keep"],
        counts["guard"],
        kl,
        dialogues,
        base_is_the_same=patch.base_hash == loaded.base_hash,
        off_is_bit_equal=off_is_bit_equal(panel, patch),
        options=options,
    )

    results = ValidationResults(
        counts["target"],
        counts["keep"],
        counts["guard"],
        all_groups(outcomes),
        kl,
        dialogues,
        yardstick(panel, scan, counts["target"].refused_after / counts["target"].n),
        outcomes,
        verdict,
        mode_figures(panel, outcomes, along),
    )
    return results, panel.counts()
