"""Step 4: the exported patch on test prompts, which no earlier step has seen, beside turned down ablation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch

from unflinch.artifacts import Patch
from unflinch.data.dialogues import bundled_dialogues
from unflinch.data.prompts import Prompt
from unflinch.data.splits import TestPrompts
from unflinch.errors import PromptSetError
from unflinch.metrics.intervals import rate, wilson
from unflinch.metrics.kl import kl_distribution, kl_divergence
from unflinch.models.chat import encode, encode_all
from unflinch.models.forward import last_logits, logits_from_hidden, scored_hidden
from unflinch.models.hooks import ablated_direction
from unflinch.models.load import LoadedModel
from unflinch.options import ValidateOptions
from unflinch.patch.attach import attached
from unflinch.results import (
    DialogueReport,
    KLReport,
    Outcome,
    PromptKind,
    PromptKL,
    RefusalCounts,
    ValidationResults,
    Yardstick,
)
from unflinch.steps.progress import Progress, counter
from unflinch.steps.scan import Scan
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.dialogue_report import report_dialogues
from unflinch.validate.kl_distribution import AnsweredSequence, SequenceKL, base_states, sequence_kl
from unflinch.validate.kl_groups import kl_groups, kl_positions
from unflinch.validate.refusal_rate import Answered, ask, counts_as_refused, grouped_rates
from unflinch.validate.verdict import judge_run

Change = Callable[[], AbstractContextManager[object]]
KINDS: tuple[PromptKind, ...] = ("target", "keep", "guard")
_WORST = 10
_STRENGTH_STEP = 1 / 32
_DIALLED = 64
"""Targets on which the yardstick's strength is found."""
_GLANCE = 12
"""Tokens after which plain answers of the base model and of the yardstick are read no further: later refusals are
hardly any, see LOG."""


@dataclass(frozen=True)
class Refused:
    """Test prompts of one kind that the base model refuses, with its answers."""

    kind: PromptKind
    prompts: list[Prompt]
    answers: list[Answered]
    asked: int


@dataclass(frozen=True)
class Ordinary:
    """Ordinary test prompts that the base model answers, with its answers and what predicted them."""

    prompts: list[Prompt]
    answers: list[Answered]
    sequences: list[AnsweredSequence]
    base: torch.Tensor
    others: list[Prompt]
    """Those that it does not plainly answer: they count in Heretic's protocol alone."""


class Validation:
    """Everything measured on test prompts: base first, then any change of it."""

    def __init__(self, loaded: LoadedModel, test: TestPrompts, options: ValidateOptions, progress: Progress) -> None:
        """Ask the base model every test prompt.

        Raises:
            PromptSetError: if it refuses no target, or answers no ordinary prompt.
        """
        self.loaded, self.options, self.progress = loaded, options, progress
        self.judge = BundledJudge()
        by_kind: dict[PromptKind, tuple[Prompt, ...]] = {
            "target": test.targets,
            "keep": test.keep,
            "guard": test.guard,
        }
        self.refused = {kind: self._refused(kind, by_kind[kind]) for kind in KINDS}
        self.ordinary = self._ordinary(test.ordinary)
        if not self.refused["target"].prompts:
            raise PromptSetError(
                f"{loaded.model_id} refuses none of the {len(test.targets)} test targets; give more targets"
            )

    def counts(self) -> dict[str, int]:
        """Return how many test prompts there are and how many of them the base model refuses."""
        counts = {}
        for kind, name in (("target", "targets"), ("keep", "keep"), ("guard", "guard")):
            refused = self.refused[kind]  # type: ignore[index]
            counts[name], counts[f"{name}_refused"] = refused.asked, len(refused.prompts)
        counts["ordinary"] = len(self.ordinary.prompts)
        return counts

    def after(
        self,
        change: Change,
        what: str,
        rewrite: Callable[[Prompt], Prompt] = lambda prompt: prompt,
        most_tokens: int | None = None,
    ) -> dict[PromptKind, list[Answered]]:
        """Return the changed model's answers to every prompt that the base model refuses, asked as rewritten."""
        tokens = min(most_tokens or self.options.answer_tokens, self.options.answer_tokens)
        found = {}
        with change():
            for kind in KINDS:
                prompts = [rewrite(prompt) for prompt in self.refused[kind].prompts]
                found[kind] = self._ask(prompts, f"validate: {kind} prompts, {what}", tokens)
        return found

    def kl(self, change: Change, what: str) -> SequenceKL:
        """Return the changed model's KL along the base model's answers to ordinary prompts."""
        advance = counter(self.progress, f"validate: KL, {what}", len(self.ordinary.sequences))
        return sequence_kl(self.loaded.model, self.ordinary.sequences, self.ordinary.base, change, advance)

    def outcomes(self, after: dict[PromptKind, list[Answered]]) -> tuple[Outcome, ...]:
        """Return every refused prompt before and after; texts of targets only."""
        rows = []
        for kind in KINDS:
            refused = self.refused[kind]
            for prompt, before, now in zip(refused.prompts, refused.answers, after[kind], strict=True):
                texts = (before.text, now.text) if kind == "target" else ("", "")
                labels = (before.judgement.label, now.judgement.label)
                rows.append(Outcome(kind, prompt.text, prompt.category, prompt.language, *labels, *texts))
        return tuple(rows)

    def _ask(self, prompts: Sequence[Prompt], what: str, tokens: int) -> list[Answered]:
        advance = counter(self.progress, what, len(prompts))
        return ask(self.loaded.model, self.loaded.tokenizer, prompts, self.judge, tokens, advance=advance)

    def _refused(self, kind: PromptKind, prompts: tuple[Prompt, ...]) -> Refused:
        answers = self._ask(prompts, f"validate: asking {kind} prompts", min(_GLANCE, self.options.answer_tokens))
        undecided = [i for i, a in enumerate(answers) if len(a.tokens) == _GLANCE and a.judgement.label != "answers"]
        whole = self._ask([prompts[i] for i in undecided], "validate: asking on", self.options.answer_tokens)
        for i, answer in zip(undecided, whole, strict=True):
            answers[i] = answer
        pairs = [(p, a) for p, a in zip(prompts, answers, strict=True) if a.judgement.label == "refuses"]
        return Refused(kind, [p for p, _ in pairs], [a for _, a in pairs], len(prompts))

    def _ordinary(self, prompts: tuple[Prompt, ...]) -> Ordinary:
        asked = self._ask(prompts, "validate: asking ordinary prompts", self.options.kl_tokens)
        pairs = [(p, a) for p, a in zip(prompts, asked, strict=True) if a.judgement.label == "answers" and a.tokens]
        if not pairs:
            raise PromptSetError(f"the model answers none of the {len(prompts)} ordinary test prompts; give others")
        sequences = [AnsweredSequence(encode(self.loaded.tokenizer, p), a.tokens) for p, a in pairs]
        answered = [p for p, _ in pairs]
        others = [p for p in prompts if p not in answered]
        base = base_states(self.loaded.model, sequences)
        return Ordinary(answered, [a for _, a in pairs], sequences, base, others)


def refusal_counts(outcomes: Sequence[Outcome], kind: PromptKind) -> RefusalCounts:
    """Return how many prompts of a kind were refused before and are still, each side judged conservatively."""
    rows = [o for o in outcomes if o.kind == kind]
    after = sum(counts_as_refused(kind == "target", o.after) for o in rows)
    return RefusalCounts(len(rows), len(rows), after, wilson(after, len(rows)))


def kl_report(validation: Validation, kl: SequenceKL, noise_floor: float, change: Change) -> KLReport:
    """Return the KL distributions with the prompts that changed most, and both answers to them."""
    first, sequence = kl.first_token, kl.sequence_mean
    ordinary = validation.ordinary
    worst = sorted(range(len(first)), key=lambda i: -max(first[i], sequence[i]))[:_WORST]
    with change():
        answers = validation._ask(
            [ordinary.prompts[i] for i in worst], "validate: the worst prompts", validation.options.kl_tokens
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
        first_token_all=kl_distribution(first + _first_token_of_others(validation, change)),
        groups=kl_groups(ordinary.prompts, kl),
        positions=kl_positions(kl),
    )


@torch.inference_mode()
def _first_token_of_others(validation: Validation, change: Change) -> list[float]:
    """Return first-token KL of the ordinary prompts that the base model does not plainly answer."""
    model, tokenizer = validation.loaded.model, validation.loaded.tokenizer
    others = encode_all(tokenizer, validation.ordinary.others)
    if not others:
        return []
    base = scored_hidden(model, others, 1)[:, 0]
    with change():
        patched = scored_hidden(model, others, 1)[:, 0]
    values: list[float] = kl_divergence(logits_from_hidden(model, base), logits_from_hidden(model, patched)).tolist()
    return values


def ordinary_dialogues(validation: Validation, change: Change) -> DialogueReport:
    """Return what the change does to the bundled dialogues."""
    loaded, options = validation.loaded, validation.options
    return report_dialogues(
        loaded.model,
        loaded.tokenizer,
        bundled_dialogues(options.dialogues),
        validation.judge,
        change,
        options.dialogue_tokens,
        lambda what, answers: counter(validation.progress, f"validate: dialogues, {what}", answers),
    )


def yardstick(validation: Validation, scan: Scan, share: float) -> Yardstick:
    """Return directional ablation (one direction out of every residual writer) where it leaves as many targets.

    Its strength is found on the first tokens of answers, of the targets whose refusals those decide; its answers are
    read for a glance only.

    Args:
        validation: the prompts, and what the base model does with them.
        scan: the direction, and how refusals begin.
        share: of the test targets that the patch leaves refused.
    """
    loaded, refused = validation.loaded, validation.refused["target"]
    direction = scan.ablation_direction.to(loaded.model.device)
    pairs = zip(refused.prompts, refused.answers, strict=True)
    opened = encode_all(loaded.tokenizer, [p for p, a in pairs if scan.openings.tokens[a.tokens[0]]][:_DIALLED])

    def ablated(strength: float) -> AbstractContextManager[object]:
        return ablated_direction(loaded.model, loaded.architecture, direction, strength)

    @torch.inference_mode()
    def left(strength: float) -> float:
        with ablated(strength):
            refuses = [scan.openings.score(logits) > 0 for logits in last_logits(loaded.model, opened)]
        return float(torch.cat(refuses).float().mean())

    strength = equal_strength(left, share) if opened else 1.0
    what, change = "directional ablation", partial(ablated, strength)
    outcomes = validation.outcomes(validation.after(change, what, most_tokens=_GLANCE))
    kl = validation.kl(change, what)
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


@torch.inference_mode()
def off_is_bit_equal(validation: Validation, patch: Patch) -> bool:
    """Return whether the model with the patch attached but disabled gives the very logits of the base model."""
    model = validation.loaded.model
    sequences = [s.prompt for s in validation.ordinary.sequences[:16]]
    base = logits_from_hidden(model, scored_hidden(model, sequences, 1))
    with attached(model, patch) as live, live.disabled():
        off = logits_from_hidden(model, scored_hidden(model, sequences, 1))
    return torch.equal(base, off)


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
    validation = Validation(loaded, test, options, progress)

    def change() -> AbstractContextManager[object]:
        return attached(loaded.model, patch)

    outcomes = validation.outcomes(validation.after(change, "patched"))
    kl = kl_report(validation, validation.kl(change, "patched"), noise_floor, change)
    dialogues = ordinary_dialogues(validation, change)
    counts = {kind: refusal_counts(outcomes, kind) for kind in KINDS}
    verdict = judge_run(
        counts["target"], counts["keep"], counts["guard"], kl, dialogues, off_is_bit_equal(validation, patch), options
    )

    def only(kind: str) -> list[Outcome]:
        return [o for o in outcomes if o.kind == kind]

    groups = {
        "targets_by_category": grouped_rates(only("target"), lambda o: o.category),
        "targets_by_language": grouped_rates(only("target"), lambda o: o.language),
        "keep_by_category": grouped_rates(only("keep"), lambda o: o.category),
        "guard_by_category": grouped_rates(only("guard"), lambda o: o.category),
    }
    results = ValidationResults(
        counts["target"],
        counts["keep"],
        counts["guard"],
        groups,
        kl,
        dialogues,
        yardstick(validation, scan, counts["target"].refused_after / counts["target"].n),
        outcomes,
        verdict,
    )
    return results, validation.counts()
