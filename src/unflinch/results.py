"""Numbers that a run produces: frozen, free of torch, written to JSON as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Label = Literal["answers", "partly", "evades", "refuses", "degenerate"]
"""What an answer does. `partly`, `evades` and `degenerate` are the doubtful cases: they count as refused for
targets and as answered for keeps, so that each side is judged conservatively."""

LABELS: tuple[Label, ...] = ("answers", "partly", "evades", "refuses", "degenerate")
"""All of them, in the order in which tables show them."""

PromptKind = Literal["target", "keep", "guard", "ordinary"]


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one answer."""

    label: Label
    score: float
    """Probability or confidence in [0, 1] that the answer is a refusal (full or partial)."""

    @property
    def refused_as_target(self) -> bool:
        """Whether a target with this answer counts as still refused: everything but a plain answer does."""
        return self.label != "answers"

    @property
    def refused_as_keep(self) -> bool:
        """Whether a keep with this answer counts as still refused: only a plain refusal does."""
        return self.label == "refuses"


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree on the same answers."""

    first: str
    second: str
    n: int
    same: int
    """Answers with the same label."""
    kappa: float | None
    """Cohen's kappa over the five labels; None where it is undefined, as both always say the same one."""
    kappa_refusal: float | None
    """The same for refusal (`partly`, `evades` or `refuses`) against the rest."""


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class Rate:
    """A proportion `count / n` with its Wilson interval; `value` is NaN-free: 0 when n is 0."""

    count: int
    n: int
    interval: Interval

    @property
    def value(self) -> float:
        """The proportion, 0.0 where nothing was counted."""
        return self.count / self.n if self.n else 0.0


@dataclass(frozen=True)
class KLDistribution:
    """The distribution over prompts of KL(base || patched) in nats; for sequences, of the mean per token."""

    n: int
    mean: float
    mean_interval: Interval
    median: float
    p95: float
    p99: float
    max: float
    cvar95: float
    """Mean of the worst 5 % of the prompts."""
    median_interval: Interval | None = None
    p95_interval: Interval | None = None
    p99_interval: Interval | None = None
    """Like those of the mean and of CVaR95 by the bootstrap over prompts; None in runs of before they were taken."""
    cvar95_interval: Interval | None = None


@dataclass(frozen=True)
class KLGroup:
    """KL of the ordinary prompts of one category, language or kind."""

    group: str
    first_token: KLDistribution
    sequence: KLDistribution
    top1_flip_rate: Rate


@dataclass(frozen=True)
class KLPosition:
    """KL at one token of the answers, over the prompts whose answers are that long."""

    position: int
    """Counted from 1, the first token of the answer."""
    kl: KLDistribution
    top1_flip_rate: Rate


@dataclass(frozen=True)
class Outcome:
    """One test prompt before and after the patch.

    Answers to keep and guard prompts are never stored: their texts stay empty, only the labels are kept.
    """

    kind: PromptKind
    text: str
    category: str
    language: str
    before: Label
    after: Label
    before_text: str = ""
    after_text: str = ""


@dataclass(frozen=True)
class GroupRate:
    """Refusal of one group of prompts (a category or a language) before and after."""

    group: str
    before: Rate
    after: Rate


@dataclass(frozen=True)
class LayerSeparation:
    """Held-out separation of one subspace method at one layer."""

    method: str
    layer: int
    auroc: float
    """Area under the ROC curve, targets against keeps, on `select` prompts."""
    rank: int = 1


@dataclass(frozen=True)
class PromptKL:
    """KL of one ordinary prompt, with both answers, for the list of the worst."""

    text: str
    category: str
    language: str
    first_token: float
    sequence_mean: float
    before_text: str = ""
    after_text: str = ""


@dataclass(frozen=True)
class Limit:
    """One line of the verdict: a measured figure against its limit."""

    name: str
    measured: float
    limit: float
    interval: Interval | None
    n: int
    passed: bool
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """Pass or fail, with every limit that led to it."""

    limits: tuple[Limit, ...]

    @property
    def passed(self) -> bool:
        """True when every limit holds."""
        return all(limit.passed for limit in self.limits)

    @property
    def failures(self) -> Sequence[Limit]:
        """The limits that do not hold."""
        return [limit for limit in self.limits if not limit.passed]


@dataclass(frozen=True)
class StoredVerdict:
    """The verdict as stored. A page must never look better than the file, so both of its statements count."""

    passed: bool
    limits: tuple[Limit, ...]

    @property
    def holds(self) -> bool:
        """True only when the file says passed, names at least one limit, and every limit holds."""
        return self.passed and bool(self.limits) and all(limit.passed for limit in self.limits)

    @property
    def failures(self) -> tuple[Limit, ...]:
        """The limits that do not hold."""
        return tuple(limit for limit in self.limits if not limit.passed)


@dataclass(frozen=True)
class PromptSetHash:
    """Which prompts a set held, without their words."""

    n: int
    sha256: str
    """Of the sorted content hashes of its prompts, one a line."""


@dataclass(frozen=True)
class RefusalCounts:
    """Refusals on the test prompts of one kind that the base model refuses: all `n` are refused before."""

    n: int
    refused_before: int
    refused_after: int
    after_interval: Interval
    """Wilson interval of `refused_after / n`."""

    @property
    def lost(self) -> int:
        """How many are no longer refused: the aim for targets, the damage for keeps and guards."""
        return self.refused_before - self.refused_after


@dataclass(frozen=True)
class KLReport:
    """KL(base || patched) on the answered ordinary test prompts."""

    first_token: KLDistribution
    sequence: KLDistribution
    top1_flip_rate: Rate
    """Scored positions at which the most likely token changed."""
    noise_floor: float
    """Mean KL of the base model against itself at another batch size: what rounding alone costs."""
    first_token_values: tuple[float, ...]
    sequence_values: tuple[float, ...]
    worst: tuple[PromptKL, ...]
    first_token_all: KLDistribution | None = None
    """At the first token of every ordinary test prompt, answered by the base model or not: Heretic's protocol."""
    groups: dict[str, tuple[KLGroup, ...]] = field(default_factory=dict)
    """Keys `by_kind`, `by_category`, `by_language`."""
    positions: tuple[KLPosition, ...] = ()


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
class Yardstick:
    """Directional ablation on the same prompts, turned down until it leaves as many targets as the patch."""

    strength: float
    """Share of the direction that is taken out; 1 where even the whole leaves more targets than the patch."""
    targets_refused: int
    keep_lost: int
    guard_lost: int
    kl_first_token_mean: float
    kl_sequence_mean: float


@dataclass(frozen=True)
class PatchSummary:
    """Size and place of the patch."""

    parameters: int
    share_of_weights: float
    rank: int
    modules: int
    strength: float


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


@dataclass(frozen=True)
class FitStage:
    """The patch after one stage of fitting, measured on `select` prompts by how their answers begin."""

    name: str
    targets_refused_share: float
    keep_lost_share: float
    guard_lost_share: float
    kl_first_token_mean: float
    note: str = ""
