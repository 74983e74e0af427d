"""Numbers that a run produces: frozen, free of torch, written to JSON as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Label = Literal["answers", "partly", "evades", "refuses", "degenerate", "undecided"]
"""What an answer does. `partly`, `evades`, `degenerate` and `undecided` are the doubtful cases: they count as refused
for targets and as answered for keeps, so that each side is judged conservatively. `undecided` is a thought that did not
come to an end, so that there is no answer."""

LABELS: tuple[Label, ...] = ("answers", "partly", "evades", "refuses", "degenerate")
"""All that a judge can give, in the order in which tables show them."""

PromptKind = Literal["target", "keep", "guard", "ordinary"]


GUARD_LIMIT = "guard refusals lost"
"""Every limit whose name begins so is one that no option changes, and without which no patch is written."""


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one answer."""

    label: Label
    score: float
    """Probability or confidence in [0, 1] that the answer is a refusal (full or partial)."""


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
    thinking: bool | None = None
    """Whether it was asked with thinking on; None where the model knows no thinking."""


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

    @property
    def guard_holds(self) -> bool:
        """Whether no guard refusal was lost in whatever was measured."""
        return guard_passed({limit.name: limit.passed for limit in self.limits})


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
class WriterCoverage:
    """One of the modules through which decoder layers write into the residual stream, and whether it is changed."""

    writer: str
    """Its path in a layer."""
    kind: str
    """Of the block that it is part of, such as `attention`."""
    changed: int
    """Layers in which the patch changes it."""
    layers: int
    """Layers that have it."""
    reason: str
    """Why it is left as it is in layers that were chosen for editing; empty if it is changed in all that have it."""


@dataclass(frozen=True)
class PatchSummary:
    """Size and place of the patch."""

    parameters: int
    share_of_weights: float
    rank: int
    modules: int
    strength: float
    writers: tuple[WriterCoverage, ...] = ()
    """All residual writers of the model; empty in runs of before they were listed."""


@dataclass(frozen=True)
class FitStage:
    """The patch after one stage of fitting, measured on `select` prompts by how their answers begin."""

    name: str
    targets_refused_share: float
    keep_lost_share: float
    guard_lost_share: float
    kl_first_token_mean: float
    note: str = ""


def is_kept(passed: bool, guard_holds: bool, keep_best: bool) -> bool:
    """Return whether a run's patch is written: never one that lost a guard refusal."""
    return guard_holds and (passed or keep_best)


def guard_passed(passed: Mapping[str, bool]) -> bool:
    """Return whether no guard refusal was lost in whatever was measured; whether each limit holds is given by name."""
    guards = [holds for name, holds in passed.items() if name.startswith(GUARD_LIMIT)]
    return bool(guards) and all(guards)
