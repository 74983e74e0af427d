"""The test prompts as the base model answers them, and how any change of it does there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from unflinch.data.prompts import Prompt
from unflinch.data.splits import TestPrompts
from unflinch.errors import PromptSetError
from unflinch.metrics.intervals import wilson
from unflinch.models.chat import encode
from unflinch.models.generate import Choose, greedy
from unflinch.models.load import LoadedModel
from unflinch.options import ValidateOptions
from unflinch.results import Outcome, PromptKind, RefusalCounts
from unflinch.steps.progress import Progress, counter
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.kl_distribution import AnsweredSequence, SequenceKL, base_states, sequence_kl
from unflinch.validate.refusal_rate import Answered, ask, counts_as_refused

Change = Callable[[], AbstractContextManager[object]]
NAMES: dict[PromptKind, str] = {"target": "targets", "keep": "keep", "guard": "guard"}
"""Kinds of prompts that may be refused, with their names in `results.json`."""
KINDS: tuple[PromptKind, ...] = tuple(NAMES)
GLANCE = 12
"""Tokens after which plain answers of the base model and of the yardstick are read no further: later refusals are
hardly any, see LOG."""


@dataclass(frozen=True)
class Refused:
    """Test prompts of one kind that the base model refuses, with its answers."""

    kind: PromptKind
    prompts: list[Prompt]
    answers: list[Answered]
    asked: int
    undecided: int
    """Of those asked, the ones whose thought did not close."""


@dataclass(frozen=True)
class Ordinary:
    """Ordinary test prompts that the base model answers, with its answers and what predicted them."""

    prompts: list[Prompt]
    answers: list[Answered]
    sequences: list[AnsweredSequence]
    base: torch.Tensor
    others: list[tuple[int, ...]]
    """What it has read before each answer that is no plain one: these count in Heretic's protocol alone."""
    asked: int
    undecided: int
    """Of those asked, the ones whose thought did not close."""


class RefusedPanel:
    """The test prompts that the base model refuses, and what any change of it does with them."""

    def __init__(self, loaded: LoadedModel, test: TestPrompts, options: ValidateOptions, progress: Progress) -> None:
        """Ask the base model every test prompt but the ordinary ones.

        Raises:
            PromptSetError: if it refuses no target.
        """
        self.loaded, self.options, self.progress = loaded, options, progress
        self.judge = BundledJudge()
        by_kind: dict[PromptKind, tuple[Prompt, ...]] = {
            "target": test.targets,
            "keep": test.keep,
            "guard": test.guard,
        }
        self.refused = {kind: self._refused(kind, by_kind[kind]) for kind in KINDS}
        if not self.refused["target"].prompts:
            raise PromptSetError(
                f"{loaded.model_id} refuses none of the {len(test.targets)} test targets; give more targets"
            )

    def after(
        self,
        change: Change,
        what: str,
        rewrite: Callable[[Prompt], Prompt] = lambda prompt: prompt,
        glance: bool = False,
    ) -> dict[PromptKind, list[Answered]]:
        """Return the changed model's answers to every prompt that the base model refuses, asked as rewritten.

        Args:
            change: context in which the model is changed.
            what: shown as progress.
            rewrite: how a prompt is asked.
            glance: read plain answers no further than the base model's were read.
        """
        found = {}
        with change():
            for kind in KINDS:
                prompts = [rewrite(prompt) for prompt in self.refused[kind].prompts]
                shown = f"validate: {kind} prompts, {what}"
                whole = self.options.answer_tokens
                found[kind] = self.glanced_at(prompts, shown) if glance else self.ask(prompts, shown, whole)
        return found

    def outcomes(self, after: dict[PromptKind, list[Answered]]) -> tuple[Outcome, ...]:
        """Return every refused prompt before and after; texts of targets only."""
        rows = []
        for kind in KINDS:
            refused = self.refused[kind]
            for prompt, before, now in zip(refused.prompts, refused.answers, after[kind], strict=True):
                texts = (before.text, now.text) if kind == "target" else ("", "")
                labels = (before.judgement.label, now.judgement.label)
                about = (prompt.text, prompt.category, prompt.language)
                rows.append(Outcome(kind, *about, *labels, *texts, thinking=prompt.thinking))
        return tuple(rows)

    def ask(self, prompts: Sequence[Prompt], what: str, tokens: int, choose: Choose = greedy) -> list[Answered]:
        """Return the judged answers of the model as it stands."""
        advance = counter(self.progress, what, len(prompts))
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        thinking = self.loaded.thinking
        return ask(model, tokenizer, prompts, self.judge, tokens, thinking=thinking, choose=choose, advance=advance)

    def before_answer(self, prompt: Prompt, answer: Answered) -> tuple[int, ...]:
        """Return all that the base model has read before the first token of its answer, its own thought included."""
        assert answer.thought is not None, "behind a thought that does not close there is no answer"
        return (*encode(self.loaded.tokenizer, prompt), *answer.thought)

    def glanced_at(self, prompts: Sequence[Prompt], what: str) -> list[Answered]:
        """Return the judged answers of the model as it stands, those whole that are not plain answers at a glance."""
        answers = self.ask(prompts, what, min(GLANCE, self.options.answer_tokens))
        undecided = [i for i, a in enumerate(answers) if len(a.tokens) == GLANCE and a.judgement.label != "answers"]
        whole = self.ask([prompts[i] for i in undecided], f"{what}, asked on", self.options.answer_tokens)
        for i, answer in zip(undecided, whole, strict=True):
            answers[i] = answer
        return answers

    def _refused(self, kind: PromptKind, prompts: tuple[Prompt, ...]) -> Refused:
        answers = self.glanced_at(prompts, f"validate: asking {kind} prompts")
        pairs = [(p, a) for p, a in zip(prompts, answers, strict=True) if a.judgement.label == "refuses"]
        unclosed = sum(a.thought is None for a in answers)
        return Refused(kind, [p for p, _ in pairs], [a for _, a in pairs], len(prompts), unclosed)


class HeldOutPanel(RefusedPanel):
    """The same with the ordinary test prompts, and what any change does to the answers to these."""

    def __init__(self, loaded: LoadedModel, test: TestPrompts, options: ValidateOptions, progress: Progress) -> None:
        """Ask the base model every test prompt.

        Raises:
            PromptSetError: if it refuses no target, or answers no ordinary prompt.
        """
        super().__init__(loaded, test, options, progress)
        self.ordinary = self._ordinary(test.ordinary)

    def counts(self) -> dict[str, int]:
        """Return how many test prompts there are and how many of them the base model refuses, or plainly answers."""
        counts = {}
        for kind, name in NAMES.items():
            refused = self.refused[kind]
            counts[name], counts[f"{name}_refused"] = refused.asked, len(refused.prompts)
        counts["ordinary"], counts["ordinary_answered"] = self.ordinary.asked, len(self.ordinary.prompts)
        return counts

    def thoughts(self) -> tuple[int, int]:
        """Return how many test prompts were asked in each mode, and how many thoughts of the base model did not close.

        Only with thinking on there are any that could fail to.
        """
        asked = self.ordinary.asked + sum(refused.asked for refused in self.refused.values())
        undecided = self.ordinary.undecided + sum(refused.undecided for refused in self.refused.values())
        return asked // len(self.loaded.modes), undecided

    def kl(self, change: Change, what: str, head_changes: bool = False) -> SequenceKL:
        """Return the changed model's KL along the base model's answers to ordinary prompts: see `sequence_kl`."""
        advance = counter(self.progress, f"validate: KL, {what}", len(self.ordinary.sequences))
        ordinary = self.ordinary
        return sequence_kl(self.loaded.model, ordinary.sequences, ordinary.base, change, advance, head_changes)

    def _ordinary(self, prompts: tuple[Prompt, ...]) -> Ordinary:
        asked = self.ask(prompts, "validate: asking ordinary prompts", self.options.kl_tokens)
        rows = list(zip(prompts, asked, strict=True))
        pairs = [(p, a) for p, a in rows if _answers(a)]
        if not pairs:
            raise PromptSetError(f"the model answers none of the {len(prompts)} ordinary test prompts; give others")
        sequences = [AnsweredSequence(self.before_answer(p, a), a.tokens) for p, a in pairs]
        others = [self.before_answer(p, a) for p, a in rows if not _answers(a) and a.thought is not None]
        base = base_states(self.loaded.model, sequences)
        undecided = sum(a.thought is None for a in asked)
        return Ordinary([p for p, _ in pairs], [a for _, a in pairs], sequences, base, others, len(prompts), undecided)


def _answers(answer: Answered) -> bool:
    return answer.judgement.label == "answers" and bool(answer.tokens)


def refusal_counts(outcomes: Sequence[Outcome], kind: PromptKind) -> RefusalCounts:
    """Return how many prompts of a kind were refused before and are still, each side judged conservatively."""
    rows = [o for o in outcomes if o.kind == kind]
    after = sum(counts_as_refused(kind == "target", o.after) for o in rows)
    return RefusalCounts(len(rows), len(rows), after, wilson(after, len(rows)))
