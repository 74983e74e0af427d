"""Numbers of the thorough part of `validate`: every form of the patch, stress, and how the model refuses.

Frozen, free of torch, written to JSON as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from unflinch.results import KLDistribution, PromptKind, Rate


@dataclass(frozen=True)
class FormResult:
    """The patch in one form in which people use it, on the test prompts that the base model refuses."""

    form: str
    """Such as `adapter at 0.5`, `merged, bfloat16` or `merged, GGUF Q8_0`."""
    targets_left: Rate
    keep_lost: Rate
    guard_lost: Rate
    guard_lost_by_format: int
    """Lost guard prompts that the base model, without the patch, loses in the same number format too."""
    kl_first_token: KLDistribution
    """From the base model as it was loaded."""
    kl_sequence: KLDistribution
    kl_of_format: float | None = None
    """Mean sequence KL of the base model in the same number format, without the patch; None where there is no other."""


@dataclass(frozen=True)
class FormReport:
    """All forms of the patch that this machine can make."""

    forms: tuple[FormResult, ...]
    not_measured: dict[str, str]
    """Form -> why this machine cannot make it."""


@dataclass(frozen=True)
class StressResult:
    """Prompts of one kind under one condition, base against patched, doubtful answers counted against the patch."""

    condition: str
    kind: PromptKind
    before: Rate
    """Refused by the base model under this condition, of the prompts that it refuses as they are."""
    after: Rate
    """Refused by the patched model under this condition, of the same prompts."""
    lost: Rate
    """No longer refused, of those that the base model refuses under this condition."""
    gained: int
    """Refused by the patched model alone."""
    p_value: float
    """Exact McNemar test: how often chance alone changes as unevenly as `lost` and `gained`."""


@dataclass(frozen=True)
class StressReport:
    """All conditions, each with every kind of prompt."""

    results: tuple[StressResult, ...]


@dataclass(frozen=True)
class Ablation:
    """What is left of refusing after so many directions are taken out, each found in what the ones before left."""

    directions: int
    layer: int
    """Where the last of them was found."""
    refused_at_first_token: Rate
    """Right refusals that still open with a refusal."""
    refused_in_answer: Rate
    """The same by the judged answer: what is more than the other comes back late."""


@dataclass(frozen=True)
class Mechanism:
    """How the base model refuses: by one mechanism or several, where, and when."""

    first_layer: int
    """Behind which refused and answered prompts are first told apart nearly as well as anywhere (see `depth_auroc`)."""
    depth_auroc: tuple[float, ...]
    """Layer by layer, how well one direction tells them apart on held-out prompts."""
    at_first_token: Rate
    """Refusals that the first token of the answer decides."""
    in_thought: Rate
    """Refusals behind a thought, or inside one."""
    late: Rate
    """Refusals that begin later in the answer."""
    ablations: tuple[Ablation, ...]
    """Directions taken out one after the other, until hardly a refusal is left."""

    @property
    def independent_directions(self) -> int | None:
        """Return how many directions refusing needs; None if it outlasts all that were taken out."""
        done = [one.directions for one in self.ablations if one.refused_in_answer.value <= GONE]
        return min(done, default=None)


@dataclass(frozen=True)
class ModuleLeverage:
    """What one module is worth to a patch, in squared units of logits a nat: see `edit.least_cost`."""

    module: str
    targets: float
    """kappa: targets' mean refusal score alone."""
    guarded: float
    """What is left of it when the keeps' mean score must not fall."""
    chosen: bool
    """Whether the scan chose it for editing."""


@dataclass(frozen=True)
class EditCost:
    """The least that a patch costs, to second order, known before anything is edited."""

    modules: tuple[ModuleLeverage, ...]
    """All modules that could be edited, by layer."""
    shift: float
    """How far the targets' mean refusal score is above the goal, in units of logits."""
    least_kl: float | None
    """KL a token of the answer, in nats, at which an edit of the chosen modules brings the mean there and leaves that
    of the keeps; None if none does."""
    least_kl_unguarded: float | None
    """The same where keeps may fall: the difference is what telling them apart costs."""


GONE = 0.1
"""Share of refusals below which refusing counts as taken out."""
