"""Part of a thorough validation, and of `scan`: how the base model refuses. One mechanism or several, where, when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from unflinch.activations.collect import collect_activations
from unflinch.data.splits import LIMITED_KINDS
from unflinch.metrics.intervals import rate
from unflinch.metrics.refusal_score import RefusalOpenings
from unflinch.models.forward import last_logits
from unflinch.models.hooks import ablated_direction
from unflinch.models.load import LoadedModel
from unflinch.models.workers import by_first
from unflinch.results import Rate
from unflinch.robustness_results import GONE, Ablation, Mechanism
from unflinch.steps.baseline import Asked, Baseline, BaselineSet
from unflinch.steps.progress import Progress, counter
from unflinch.steps.scan import ABLATION_LAYERS, Scan, depth_range
from unflinch.subspace.difference_of_means import difference_of_means
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import ask

MOST_DIRECTIONS = 4
"""Directions taken out one after the other."""
_MOST = 110
"""Prompts of either kind from which a direction is found."""
_ASKED = 60
"""Right refusals on which it is seen what is left of refusing."""
_TRIED = 24
"""Of these, by whose scores a direction's layer is chosen."""
_GLANCE = 16
"""Tokens of an answer that are judged: enough to see a refusal that comes late."""
_NEARLY = 0.98
"""Of the best layer's AUROC: the first layer that reaches so much is where refusing can be read first."""


@dataclass(frozen=True)
class _Asked:
    """Token ids of the prompts from which directions are found, and on which they are tried."""

    refused: list[tuple[int, ...]]
    answered: list[tuple[int, ...]]
    held_out_refused: list[tuple[int, ...]]
    held_out_answered: list[tuple[int, ...]]
    keeps: list[Asked]
    """Right refusals, none of the ones from which directions are found."""


@dataclass
class _TakenOut:
    """Directions that have been taken out so far."""

    loaded: LoadedModel
    directions: list[Float[Tensor, " width"]] = field(default_factory=list)

    def ablated(self, *more: Float[Tensor, " width"]) -> ExitStack:
        """Return the context in which they, and some more, are removed from all residual writers."""
        stack = ExitStack()
        for direction in (*self.directions, *more):
            on_device = direction.to(self.loaded.model.device)
            stack.enter_context(ablated_direction(self.loaded.model, self.loaded.architecture, on_device))
        return stack


def describe_mechanism(loaded: LoadedModel, baseline: Baseline, scan: Scan, progress: Progress) -> Mechanism:
    """Return how the base model refuses.

    Directions are differences of means, refused against answered prompts, each found and tried in the model without
    the ones before: refusing is one mechanism if it is gone with the first, several if it lives on or comes back. No
    answer is kept.

    Args:
        loaded: the base model.
        baseline: who refuses what; directions are found on `fit` and tried on `select`.
        scan: how refusals begin.
        progress: called while computing.
    """
    asked = _chosen(loaded, baseline)
    advance = counter(progress, "mechanism: where refusing can be read", len(asked.refused) + len(asked.answered))
    directions = _directions(loaded, asked, advance)
    auroc = _held_out_auroc(loaded, asked, directions)
    first = next(layer for layer, found in enumerate(auroc) if found >= _NEARLY * max(auroc))
    taken = _TakenOut(loaded)
    ablations: list[Ablation] = []
    while len(ablations) < MOST_DIRECTIONS and (not ablations or ablations[-1].refused_in_answer.value > GONE):
        if ablations:
            with taken.ablated():
                directions = _directions(loaded, asked, None)
        ablations.append(_take_out_next(loaded, taken, directions, asked.keeps, scan.openings, progress))
    when = _when_decided(loaded, baseline, scan.openings)
    return Mechanism(first, tuple(auroc), *when, tuple(ablations))


def _chosen(loaded: LoadedModel, baseline: Baseline) -> _Asked:
    """Return the prompts; of the answered ones those first that resemble the refused."""

    def ids(asked: Sequence[Asked]) -> list[tuple[int, ...]]:
        return [a.before_answer(loaded.tokenizer) for a in asked[:_MOST]]

    def answered(sets: BaselineSet) -> list[Asked]:
        return [a for kind in LIMITED_KINDS for a in getattr(sets, kind) if a.label == "answers"]

    def refused(sets: BaselineSet) -> list[Asked]:
        half = _MOST // 2
        return [*sets.refused("targets")[:half], *sets.refused("keep")[:half]]

    fit, select = baseline.fit, baseline.select
    keeps = (select.refused("keep") + select.refused("guard"))[:_ASKED]
    return _Asked(ids(refused(fit)), ids(answered(fit)), ids(refused(select)), ids(answered(select)), keeps)


def _directions(
    loaded: LoadedModel, asked: _Asked, advance: Callable[[int], None] | None
) -> Float[Tensor, "layers width"]:
    """Return the unit direction of refusing behind every layer, of the model as it stands."""
    refused, answered = (
        collect_activations(loaded.model, loaded.architecture, sequences, advance=advance).states
        for sequences in (asked.refused, asked.answered)
    )
    return difference_of_means(refused, answered)[:, 0]


def _held_out_auroc(loaded: LoadedModel, asked: _Asked, directions: Float[Tensor, "layers width"]) -> list[float]:
    """Return, layer by layer, how well its direction tells held-out refused and answered prompts apart."""
    groups = [
        collect_activations(loaded.model, loaded.architecture, sequences).states
        for sequences in (asked.held_out_refused, asked.held_out_answered)
    ]
    labels = [1] * len(groups[0]) + [0] * len(groups[1])
    along = torch.einsum("nlw,lw->ln", torch.cat(groups), directions)
    return [float(roc_auc_score(labels, values.numpy())) for values in along]


@torch.inference_mode()
def _take_out_next(
    loaded: LoadedModel,
    taken: _TakenOut,
    directions: Float[Tensor, "layers width"],
    keeps: Sequence[Asked],
    openings: RefusalOpenings,
    progress: Progress,
) -> Ablation:
    """Take out the direction, of those of the middle layers, that lowers the right refusals' scores most."""
    sequences = [a.before_answer(loaded.tokenizer) for a in keeps]

    def scores(direction: Float[Tensor, " width"], most: int | None) -> Tensor:
        with taken.ablated(direction):
            return torch.cat([openings.score(logits) for logits in last_logits(loaded.model, sequences[:most])])

    candidates = depth_range(loaded.depth, ABLATION_LAYERS)[::2]
    number = len(taken.directions) + 1
    advance = counter(progress, f"mechanism: direction {number}", len(candidates) + len(keeps))
    found = {}
    for layer in candidates:
        found[layer] = float(scores(directions[layer], _TRIED).mean())
        advance(1)
    layer = by_first(lambda: min(found, key=lambda layer: found[layer]))
    opens = int((scores(directions[layer], None) > 0).sum())
    taken.directions.append(directions[layer])
    with taken.ablated():
        answers = ask(
            loaded.model,
            loaded.tokenizer,
            [a.prompt for a in keeps],
            BundledJudge(),
            _GLANCE,
            thinking=loaded.thinking,
            advance=advance,
        )
    refused = sum(answer.judgement.label == "refuses" for answer in answers)
    return Ablation(number, layer, rate(opens, len(keeps)), rate(refused, len(keeps)))


def _when_decided(loaded: LoadedModel, baseline: Baseline, openings: RefusalOpenings) -> tuple[Rate, Rate, Rate]:
    """Return how many refusals the first token decides, how many a thought, and how many begin later."""
    refused = [
        asked
        for sets in (baseline.fit, baseline.select)
        for kind in ("targets", "keep", "guard")
        for asked in sets.refused(kind)
        if asked.tokens
    ]
    first = thought = 0
    for asked in refused:
        if asked.thought or "<think>" in str(loaded.tokenizer.decode(list(asked.tokens))):
            thought += 1
        elif openings.tokens[asked.tokens[0]]:
            first += 1
    n = len(refused)
    return rate(first, n), rate(thought, n), rate(n - first - thought, n)
