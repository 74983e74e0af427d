"""The `select` prompts by which the fit's stages and strengths are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from unflinch.errors import NotFiniteError
from unflinch.metrics.kl import kl_divergence
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.models.forward import logits_from_hidden, read_lower_layers, scored_hidden
from unflinch.models.load import LoadedModel
from unflinch.models.lower_layers import LowerLayers
from unflinch.models.workers import by_first
from unflinch.options import FitOptions
from unflinch.patch.attach import AttachedPatch
from unflinch.results import FitStage
from unflinch.steps.baseline import Baseline
from unflinch.steps.decisions import decisions
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import ask, counts_as_refused

STRENGTHS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
"""Where the dial is tried."""
_INTERPOLATED = tuple(step / 20 for step in range(1, 21))
"""Shares of a stage's strength at which its trade-off is looked at."""
_LEAST = 0.05
"""A patch that has been turned down so far does nothing: no KL budget that is met only below it is worth a try."""
_SLACK = 0.98
"""Of the strength that just meets the KL budget: the rule for it is not exact."""
_RIGHT_REFUSALS_WEIGH = 5.0
_KINDS = ("targets", "keep", "guard")
_MOST_SCORED = 100
"""Prompts of a kind suffice to compare stages by."""
_SCORED_TOGETHER = 16
"""Prompts whose logits over the whole vocabulary are held at once."""


@dataclass(frozen=True)
class Dialled:
    """A stage of the fit, turned down to the KL budget."""

    strength: float
    stage: FitStage
    """How it does at that strength, by refusal scores."""
    shortfall: float
    """The least along the dial from the base model to that strength, with scores interpolated between the two."""
    best: float
    """Where on the dial that is, as a share of `strength`."""


class SelectPanel:
    """`select` prompts that the base model refuses, and ordinary ones: how a patched model does on them."""

    def __init__(
        self, loaded: LoadedModel, baseline: Baseline, openings: RefusalOpenings, lower: LowerLayers | None = None
    ) -> None:
        """Compute what the base model does.

        Args:
            loaded: the base model.
            baseline: who refuses what.
            openings: tokens that refusals begin with.
            lower: layers that no patch changes, which are passed once.
        """
        self.loaded, self.openings, self._lower = loaded, openings, lower
        self.prompts = {kind: [a.prompt for a in baseline.select.refused(kind)] for kind in _KINDS}
        self.decisions = {
            kind: decisions(loaded.tokenizer, baseline.select.refused(kind)[:_MOST_SCORED], openings) for kind in _KINDS
        }
        self.ordinary = [a.before_answer(loaded.tokenizer) for a in baseline.select.answered("ordinary")]
        if lower:
            scored = [decision.ids for decided in self.decisions.values() for decision in decided]
            read_lower_layers(loaded.model, lower, [*scored, *self.ordinary])
        self.base = self._states()
        self.base_scores = self._scores()

    @property
    def most_answers(self) -> int:
        """How many answers the choice of a strength takes at most."""
        return sum(map(len, self.prompts.values())) * len(STRENGTHS)

    def untouched(self) -> FitStage:
        """Return what the base model does: by the choice of prompts it refuses all, and its KL is zero."""
        return FitStage("base", 1.0, 0.0, 0.0, 0.0, "before anything is changed")

    @torch.inference_mode()
    def by_scores(self, name: str, live: AttachedPatch, options: FitOptions) -> Dialled:
        """Turn a patch down to the KL budget; return how it does there, and at its best between there and nothing.

        KL grows as the square of the strength, so that the root of what is too much is a good next try; half of a
        strength at which the model overflows is.

        Raises:
            NotFiniteError: if the model overflows at the least strength, too.
        """
        strength = 1.0
        while (kl := self._kl()) > options.kl_budget and strength > _LEAST:
            strength *= _SLACK * max(_LEAST, (options.kl_budget / kl) ** 0.5) if isfinite(kl) else 0.5
            live.set_strength(strength)
        if not isfinite(kl):
            raise NotFiniteError(self.loaded.model.dtype)
        scores, note = self._scores(), f"strength {strength:.2g}, by refusal scores"

        def stage(share: float) -> FitStage:
            between = {kind: torch.lerp(self.base_scores[kind], scores[kind], share) for kind in _KINDS}
            return _stage(name, note, {kind: (s > 0).tolist() for kind, s in between.items()}, share * share * kl)

        least, best = min((shortfall(stage(share), options), share) for share in _INTERPOLATED)
        return Dialled(strength, stage(1.0), least, best)

    @torch.inference_mode()
    def by_answers(self, name: str, note: str, judged_tokens: int, advance: Callable[[int], None]) -> FitStage:
        """Return how the model as it stands does, by judging its answers as `validate` does."""
        refused, loaded = {}, self.loaded
        for kind, prompts in self.prompts.items():
            answers = ask(
                loaded.model, loaded.tokenizer, prompts, BundledJudge(), judged_tokens, thinking=loaded.thinking
            )
            refused[kind] = [counts_as_refused(kind == "targets", a.judgement.label) for a in answers]
            advance(len(prompts))
        return _stage(name, note, refused, self._kl())

    def _kl(self) -> float:
        """Return the mean first-token KL on ordinary prompts, in nats; infinite where the model overflows."""
        model, now = self.loaded.model, self._states()

        def mean() -> float:
            kl = kl_divergence(logits_from_hidden(model, self.base), logits_from_hidden(model, now))
            return float(kl.nan_to_num(nan=torch.inf).mean())

        return by_first(mean)

    @torch.inference_mode()
    def _states(self) -> Tensor:
        return scored_hidden(self.loaded.model, self.ordinary, 1, lower=self._lower)[:, 0]

    @torch.inference_mode()
    def _scores(self) -> dict[str, Tensor]:
        """Return the refusal scores of every kind, taken where each refusal is decided: above 0 the model refuses."""
        scores = {kind: self._scores_of(decided) for kind, decided in self.decisions.items()}
        return by_first(lambda: scores)

    def _scores_of(self, decided: Sequence[Decision]) -> Tensor:
        if not decided:
            return torch.empty(0)
        model, lengths = self.loaded.model, [decision.scored for decision in decided]
        ids = [decision.ids for decision in decided]
        hidden = scored_hidden(model, ids, max(lengths), lengths=lengths, lower=self._lower)
        found = []
        for rows in torch.arange(len(decided)).split(_SCORED_TOGETHER):
            paths = [decided[row].path for row in rows.tolist()]
            found.append(self.openings.decision_scores(logits_from_hidden(model, hidden[rows]), paths))
        return torch.cat(found).cpu()


def _stage(name: str, note: str, refused: dict[str, list[bool]], kl: float) -> FitStage:
    shares = {kind: sum(rows) / len(rows) if rows else 1.0 for kind, rows in refused.items()}
    return FitStage(name, shares["targets"], 1 - shares["keep"], 1 - shares["guard"], kl, note)


def within_budgets(stage: FitStage, options: FitOptions) -> bool:
    """Return whether a stage loses no guard refusal, few right refusals, and costs little KL."""
    return stage.guard_lost_share == 0 and not spent(stage, options)


def spent(stage: FitStage, options: FitOptions) -> bool:
    """Return whether a stage loses too many right refusals or costs too much KL: more strength makes both worse."""
    return stage.keep_lost_share > options.keep_budget or stage.kl_first_token_mean > options.kl_budget


def shortfall(stage: FitStage, options: FitOptions) -> float:
    """Return how bad a stage is: false refusals left and, five times as bad, right ones lost.

    Whatever goes beyond a budget counts ten times more, and guard losses above all.
    """
    return (
        stage.targets_refused_share
        + _RIGHT_REFUSALS_WEIGH * stage.keep_lost_share
        + 10 * max(0.0, stage.targets_refused_share - options.target_budget)
        + 10 * max(0.0, stage.keep_lost_share - options.keep_budget)
        + 10 * max(0.0, stage.kl_first_token_mean - options.kl_budget) / options.kl_budget
        + 10 * stage.guard_lost_share
    )


def choose_strength(
    panel: SelectPanel, live: AttachedPatch, start: float, options: FitOptions, advance: Callable[[int], None]
) -> tuple[float, FitStage]:
    """Return the strength with the least shortfall by judged answers, within budgets if one is, and how it does.

    From the start the dial goes down until guard, keep and KL budgets hold. Where they hold but more targets than the
    target budget are left it goes up, until the shortfall rises or the KL or keep budget is spent; a guard prompt on
    the edge is lost at one strength and held at the next, so that alone is no reason to stop.

    Args:
        panel: the select prompts.
        live: the patch on the model.
        start: strength that does best by refusal scores; the nearest on the dial is tried first.
        options: budgets, and how many tokens of an answer are judged.
        advance: called with the number of prompts answered.
    """
    tried: list[tuple[float, float, FitStage]] = []
    note = "strength {:g} of the stage before, by judged answers"

    def judged(place: int) -> FitStage:
        strength = STRENGTHS[place]
        live.set_strength(strength)
        stage = panel.by_answers("strength", note.format(strength), options.judged_tokens, advance)
        tried.append((shortfall(stage, options), strength, stage))
        return stage

    def finished(stage: FitStage, rising: bool) -> bool:
        if not within_budgets(stage, options):
            return rising and spent(stage, options)
        worse = shortfall(stage, options) > min(row[0] for row in tried)
        return not rising or worse or stage.targets_refused_share <= options.target_budget

    place = min(range(len(STRENGTHS)), key=lambda place: abs(STRENGTHS[place] - start))
    stage = judged(place)
    rising = within_budgets(stage, options)
    while not finished(stage, rising):
        place += 1 if rising else -1
        if not 0 <= place < len(STRENGTHS):
            break
        stage = judged(place)
    _, strength, stage = min(tried, key=lambda row: (not within_budgets(row[2], options), *row[:2]))
    return strength, stage
