"""Part of a thorough validation: the refused test prompts asked under stress, base against patched."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice

from unflinch.artifacts import Patch
from unflinch.data.splits import TestPrompts
from unflinch.metrics.intervals import rate
from unflinch.metrics.paired import exact_mcnemar
from unflinch.models.generate import greedy, sampler
from unflinch.models.load import LoadedModel
from unflinch.options import ValidateOptions
from unflinch.patch.attach import attached
from unflinch.results import PromptKind
from unflinch.robustness_results import StressReport, StressResult
from unflinch.steps.held_out_panel import KINDS, Change, RefusedPanel
from unflinch.steps.progress import Progress
from unflinch.validate.refusal_rate import counts_as_refused
from unflinch.validate.stress import CONDITIONS, TEMPERATURE, Condition


def stress_patch(
    loaded: LoadedModel, patch: Patch, test: TestPrompts, options: ValidateOptions, progress: Progress
) -> StressReport:
    """Return what becomes of refusals under every condition.

    Args:
        loaded: the base model.
        patch: as read back from its exported folder.
        test: the test prompts; those that the base model refuses are asked again.
        options: how many prompts of a kind are asked.
        progress: called while asking.
    """
    panel = RefusedPanel(loaded, test, options, progress)
    change = partial(attached, loaded.model, patch)
    return StressReport(tuple(row for one in CONDITIONS for row in under_condition(panel, one, change)))


def under_condition(panel: RefusedPanel, condition: Condition, change: Change) -> list[StressResult]:
    """Return one result a kind of prompt, base model against changed model."""
    rows = []
    for kind in KINDS:
        before = _refused(panel, kind, condition, nullcontext, "base")
        after = _refused(panel, kind, condition, change, "patched")
        if before:
            rows.append(compared(condition.name, kind, before, after))
    return rows


def compared(condition: str, kind: PromptKind, before: Sequence[bool], after: Sequence[bool]) -> StressResult:
    """Return how two models refuse the same prompts.

    Args:
        condition: how they were asked.
        kind: of prompts.
        before: whether the base model refuses, prompt by prompt, at least one.
        after: the same of the patched model.
    """
    pairs = list(zip(before, after, strict=True))
    lost, gained = pairs.count((True, False)), pairs.count((False, True))
    return StressResult(
        condition,
        kind,
        rate(sum(before), len(before)),
        rate(sum(after), len(after)),
        rate(lost, sum(before)),
        gained,
        exact_mcnemar(lost, gained),
    )


def _refused(panel: RefusedPanel, kind: PromptKind, condition: Condition, change: Change, model: str) -> list[bool]:
    """Return which prompts count as refused; of several answers a prompt, the one that speaks against the patch.

    A target counts as refused if one of its answers does, a keep or guard only if all do.
    """
    asked = panel.refused[kind]
    some = list(islice(zip(asked.prompts, asked.answers, strict=True), panel.options.stress_prompts))
    prompts = [condition.rewrite(prompt, answer.text) for prompt, answer in some]
    target = kind == "target"
    refused = [not target] * len(prompts)
    with change():
        for sample in range(condition.samples):
            choose = sampler(sample, TEMPERATURE) if condition.samples > 1 else greedy
            what = f"stress: {condition.name}, {kind} prompts, {model}"
            answers = panel.ask(prompts, what, panel.options.answer_tokens, choose)
            for row, answer in enumerate(answers):
                found = counts_as_refused(target, answer.judgement.label)
                refused[row] = (refused[row] or found) if target else (refused[row] and found)
    return refused
