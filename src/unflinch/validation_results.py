"""Numbers of a validation: dialogues, figures by mode of thinking, and all results together.

Frozen, free of torch, written to JSON as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from unflinch.results import (
    GroupRate,
    Interval,
    KLDistribution,
    KLReport,
    Outcome,
    Rate,
    RefusalCounts,
    Verdict,
    Yardstick,
)


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class TurnKL:
    """KL(base || patched) along the base model's answers to one turn; one value a dialogue, the mean per token."""

    turn: int
    """Counted from 1."""
    kl: KLDistribution
    top1_flip_rate: Rate


@dataclass(frozen=True)
class Speech:
    """What a model's own answers are like, over dialogues that it led itself."""

    tokens: float
    """Mean length of an answer, cut off ones included."""
    ended: Rate
    """Answers that came to an end before they were cut off."""
    repetition: float
    """Mean share of the four-token runs of a dialogue that were said before in it."""
    other_script: float
    """Share of letters that are of no script of the dialogue's language."""
    other_language: Rate
    """Dialogues that by their most common words are in another language than the user's."""
    degenerate: Rate
    """Answers that are empty, loop, or are no language."""
    perplexity: float
    """Of the answers under the base model."""


@dataclass(frozen=True)
class DialogueOutcome:
    """One dialogue as the base model led it, and as the patched model did."""

    language: str
    category: str
    turns: tuple[str, ...]
    """What the user says."""
    before: tuple[str, ...]
    after: tuple[str, ...]
    kl: tuple[float, ...]
    """Turn by turn, along the base model's answers."""
    perplexity_ratio: float
    """Of the patched model's answers to the base model's own, both under the base model."""
    babbles: tuple[str, ...]
    """In what way the patched model babbles where the base model does not; empty where it does not."""


@dataclass(frozen=True)
class DialogueReport:
    """Ordinary dialogues of several turns, base against patched."""

    n: int
    left_out: int
    """Further dialogues, in which the base model refuses a turn or says nothing."""
    turns: tuple[TurnKL, ...]
    drift: Estimate
    """Mean KL of the last turn over that of the first."""
    before: Speech
    after: Speech
    length_ratio: Estimate
    """Tokens of the patched model's answers to those of the base model's."""
    perplexity_ratio: Estimate
    """Of the patched model's answers to the base model's own, both under the base model."""
    refused_after: Rate
    """Answers of the patched model that refuse: the base model refuses nothing in these dialogues."""
    refusing: Rate
    """Dialogues in which the patched model refuses a turn."""
    babbling: Rate
    """Dialogues in which the patched model babbles and the base model does not."""
    dialogues: tuple[DialogueOutcome, ...]


@dataclass(frozen=True)
class ModeFigures:
    """The test prompts asked with thinking on, or off."""

    thinking: bool
    targets: RefusalCounts
    keep: RefusalCounts
    guard: RefusalCounts
    kl_first_token: KLDistribution | None
    """At the first token of the final answer; None where the base model answers no ordinary prompt in this mode."""
    kl_sequence: KLDistribution | None
    undecided_before: Rate
    """Thoughts of the base model that do not close, of all test prompts: none of these is counted above."""
    undecided_after: Rate
    """The same of the patched model, of those that the base model refuses: counted as refused targets, lost keeps."""


@dataclass(frozen=True)
class ValidationResults:
    """Everything that `validate` measures on test prompts."""

    targets: RefusalCounts
    keep: RefusalCounts
    guard: RefusalCounts
    groups: dict[str, tuple[GroupRate, ...]]
    """Grouped rates: keys `targets_by_category`, `targets_by_language`, and so for `keep` and `guard`."""
    kl: KLReport
    dialogues: DialogueReport
    directional_ablation: Yardstick
    outcomes: tuple[Outcome, ...]
    verdict: Verdict
    modes: tuple[ModeFigures, ...] = ()
    """With thinking off and on; empty where the model knows no thinking."""
