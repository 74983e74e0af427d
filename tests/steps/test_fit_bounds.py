"""Where refusal scores should end, and what unasked prompts have to do with it."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer
from tiny_patches import random_patch
from torch import Tensor

from unflinch.artifacts import FittedStage, ModuleMetric
from unflinch.data.prompts import Prompt
from unflinch.errors import PromptSetError
from unflinch.metrics.refusal_score import Decision
from unflinch.models.architecture import architecture_of
from unflinch.models.fingerprint import weight_hash
from unflinch.models.load import LoadedModel
from unflinch.options import FitOptions
from unflinch.steps.baseline import Asked, BaselineSet
from unflinch.steps.fit import averaged
from unflinch.steps.fit_inputs import FitInputs, Kind, ordinary_sequences, score_bounds

OPTIONS = FitOptions(goal=-2.0, largest_drop=6.0, keep_margin=1.0, guard_margin=2.0, ordinary_margin=0.5)
INF = float("inf")


def inputs(*prompts: tuple[Kind, bool], base_scores: Tensor | None = None) -> FitInputs:
    """Prompts as kind and whether they were not asked."""
    decisions = [Decision((1, 2, place)) for place in range(len(prompts))]
    kinds, unasked = torch.tensor([kind for kind, _ in prompts]), torch.tensor([free for _, free in prompts])
    return FitInputs({}, decisions, kinds, unasked, [], base_scores)


@pytest.mark.parametrize(
    ("kind", "unasked", "score", "lower", "upper"),
    [
        (Kind.TARGET, False, 3.0, -INF, -2.0),  # to the goal
        (Kind.TARGET, False, 7.0, -INF, 1.0),  # by no more than the largest drop
        (Kind.TARGET, False, -0.3, -INF, -2.0),  # asked and refused, whatever the score says
        (Kind.TARGET, True, 3.0, -INF, -2.0),
        (Kind.TARGET, True, -1.0, -INF, -1.5),  # answered: not to be refused in exchange
        (Kind.ORDINARY, False, 3.0, -INF, 2.5),  # a false refusal too, but one without a harmful twin
        (Kind.ORDINARY, False, -1.0, -INF, -1.5),
        (Kind.ORDINARY, True, -1.0, -INF, -1.5),
        (Kind.ORDINARY, True, -9.0, -INF, INF),  # far from refusing
        (Kind.KEEP, False, 2.0, 3.0, INF),
        (Kind.KEEP, False, -0.3, 0.7, INF),
        (Kind.KEEP, True, 2.0, 3.0, INF),
        (Kind.KEEP, True, -0.3, -INF, INF),  # answered: no right refusal to keep
        (Kind.GUARD, False, 2.0, 4.0, INF),
        (Kind.GUARD, False, -3.0, -1.0, INF),  # the guard only ever gets stronger
    ],
)
def test_where_a_score_should_end(kind: Kind, unasked: bool, score: float, lower: float, upper: float) -> None:
    bounds = score_bounds(inputs((kind, unasked)), torch.tensor([score]), OPTIONS)
    assert (float(bounds.lower), float(bounds.upper)) == (pytest.approx(lower), pytest.approx(upper))


MIXED = [(kind, unasked) for kind in Kind for unasked in (False, True) if (kind, unasked) != (Kind.GUARD, True)]
SCORES = torch.tensor([3.0, -0.5, 2.0, -1.5, 1.0, -1.0, 2.5])


def test_later_rounds_compare_with_the_base_model_not_with_the_patch_so_far() -> None:
    first = score_bounds(inputs(*MIXED), SCORES, OPTIONS)
    later = score_bounds(inputs(*MIXED, base_scores=SCORES), SCORES - 4, OPTIONS)
    assert torch.equal(later.lower, first.lower)
    assert torch.equal(later.upper, first.upper)


def test_where_no_drop_is_too_large_refused_targets_belong_below_the_goal() -> None:
    bounds = score_bounds(inputs(*MIXED, base_scores=SCORES), torch.full_like(SCORES, -INF), OPTIONS)
    assert bounds.upper[[0, 6]].tolist() == [-2.0, 2.0]


def test_later_rounds_see_the_prompts_near_their_bounds_and_the_whole_guard_with_all_that_belongs_to_them() -> None:
    near = torch.tensor([0.0, 2.0, torch.inf, 0.1, 7.0, torch.inf, 3.0])
    rows = [0, 3, 4]
    kept = inputs(*MIXED).near_bounds(FittedStage(random_patch(tiny_model("qwen2")), SCORES, near))
    assert [d.ids[-1] for d in kept.decisions] == rows
    assert [(Kind(k), u) for k, u in zip(kept.kinds.tolist(), kept.unasked.tolist(), strict=True)] == [
        MIXED[row] for row in rows
    ]
    assert kept.base_scores is not None and torch.equal(kept.base_scores, SCORES[rows])
    assert (kept.rows(Kind.TARGET), kept.rows(Kind.KEEP, Kind.GUARD)) == ([0], [1, 2])


def test_the_average_of_two_patches_is_half_of_both() -> None:
    model = tiny_model("qwen2")
    first, second = random_patch(model, seed=1), random_patch(model, seed=2)
    metrics = {
        name: ModuleMetric(torch.eye(f.a.shape[1]), torch.eye(f.b.shape[0])) for name, f in first.factors.items()
    }
    found = averaged(first, second, metrics, rank=64)
    for name, factors in found.factors.items():
        wanted = 0.5 * (first.factors[name].b @ first.factors[name].a + second.factors[name].b @ second.factors[name].a)
        assert factors.b @ factors.a == pytest.approx(wanted, abs=1e-5)


def test_answers_too_short_to_fit_on_are_named() -> None:
    prompt = Prompt("How do I tie a bow?", "ordinary", "en")
    answered = tuple(Asked(prompt, "answers", (4,) * length) for length in (2, 3))
    model = tiny_model("qwen2")
    row = architecture_of(model)
    loaded = LoadedModel(model, tiny_tokenizer(), row, "owner/base", "owner/base", None, weight_hash(model))
    sets = BaselineSet((), (), (), answered)
    (longest,) = ordinary_sequences(loaded, sets, 3)
    assert longest[-2:] == (4, 4)
    with pytest.raises(PromptSetError, match="none of the 2 answers to ordinary prompts has the 4 tokens"):
        ordinary_sequences(loaded, sets, 4)
