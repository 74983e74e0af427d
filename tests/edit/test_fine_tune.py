"""Fine-tuning in whitened coordinates: exact gradients, scores led into bounds, KL lowered, the model as it came."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_models import own_logits, random_ids, tiny_model
from tiny_patches import random_patch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.artifacts import ModuleMetric, Patch
from unflinch.edit.closed_form import ScoreBounds
from unflinch.edit.fine_tune import DecisionGroup, FineTuneSteps, Lesson, _pull_back, fine_tune
from unflinch.edit.low_rank import from_whitened, to_whitened
from unflinch.metrics.refusal_score import Decision
from unflinch.models.forward import scored_hidden
from unflinch.patch.attach import attached

PROMPTS = [Decision(tuple(ids), ()) for ids in random_ids((7, 9, 6))]
KEEPS = [Decision(tuple(ids), path) for ids, path in zip(random_ids((8, 5), seed=1), ((), (6, 2)), strict=True)]
ORDINARY = random_ids((9, 11), seed=2)


def cholesky(size: int, seed: int) -> Tensor:
    root = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.cholesky(root @ root.T / (2 * size) + 0.2 * torch.eye(size))


def metrics_of(patch: Patch) -> dict[str, ModuleMetric]:
    return {
        name: ModuleMetric(cholesky(f.a.shape[1], place), cholesky(f.b.shape[0], place + 50))
        for place, (name, f) in enumerate(patch.factors.items())
    }


def score(logits: Tensor, paths: Sequence[Sequence[int]]) -> Tensor:
    """Return the logit of token 5 at the last position, or of a path's tokens, summed."""
    return torch.stack(
        [
            row[-1, 5] if not path else row[range(-len(path), 0), path].sum()
            for row, path in zip(logits, paths, strict=True)
        ]
    )


def lesson_for(model: PreTrainedModel, upper: float = -1.0, lower: float = 1.0) -> Lesson:
    """Targets belong below `upper`, keeps above `lower`."""
    base = scored_hidden(model, ORDINARY, 3)
    free = torch.tensor([False] * len(PROMPTS) + [True] * len(KEEPS))
    bounds = ScoreBounds(
        torch.where(free, torch.tensor(lower), -torch.inf), torch.where(free, torch.inf, torch.tensor(upper))
    )
    groups = [DecisionGroup(range(len(PROMPTS)), 1.0), DecisionGroup(range(len(PROMPTS), len(free)), 0.5)]
    return Lesson([*PROMPTS, *KEEPS], bounds, groups, ORDINARY, base)


def scores(model: PreTrainedModel, patch: Patch) -> list[float]:
    """Return the scores of targets and keeps under a patch, one prompt at a time by the model's own logits."""
    with attached(model, patch):
        rows = [own_logits(model, d.ids)[-max(1, len(d.path)) :] for d in (*PROMPTS, *KEEPS)]
    return [float(score(row[None], [d.path])) for row, d in zip(rows, (*PROMPTS, *KEEPS), strict=True)]


def outside(model: PreTrainedModel, patch: Patch, lesson: Lesson) -> float:
    """Return the mean distance of scores outside their bounds."""
    found = torch.tensor(scores(model, patch))
    return float(torch.maximum(lesson.bounds.lower - found, found - lesson.bounds.upper).clamp(min=0).mean())


def divergence(model: PreTrainedModel, patch: Patch) -> float:
    """Return mean KL(base || patched) at the last three positions of ordinary prompts, by the definition."""
    base = [own_logits(model, ids)[-3:].double().log_softmax(-1) for ids in ORDINARY]
    with attached(model, patch):
        now = [own_logits(model, ids)[-3:].double().log_softmax(-1) for ids in ORDINARY]
    return float(torch.stack([(p.exp() * (p - q)).sum(-1).mean() for p, q in zip(base, now, strict=True)]).mean())


def test_gradients_pulled_back_equal_autograd_through_the_whitened_factors() -> None:
    patch = random_patch(tiny_model("qwen2"))
    metrics = metrics_of(patch)
    white = {name: to_whitened(f, metrics[name]) for name, f in patch.factors.items()}
    leaves = {n: (nn.Parameter(b.clone()), nn.Parameter(a.clone())) for n, (b, a) in white.items()}
    expected, plain = {}, {}
    for name, (b, a) in leaves.items():
        generator = torch.Generator().manual_seed(3)
        wish = torch.randn(len(b), a.shape[1], generator=generator)
        built = from_whitened(b, a, metrics[name])
        expected[name] = torch.autograd.grad(((built.b @ built.a) * wish).sum().tanh() * 10, (b, a))
        factor_a, factor_b = nn.Parameter(built.a.detach()), nn.Parameter(built.b.detach())
        (((factor_b @ factor_a) * wish).sum().tanh() * 10).backward()
        plain[name] = (factor_a, factor_b)
    _pull_back(plain, leaves, metrics)
    for name, (b, a) in leaves.items():
        assert a.grad is not None and b.grad is not None
        for found, wanted in ((b.grad, expected[name][0]), (a.grad, expected[name][1])):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()) + 1e-9)


def test_scores_are_led_into_their_bounds_and_the_model_leaves_as_it_came() -> None:
    model = tiny_model("qwen2")
    start = random_patch(model, base_hash="abc")
    at = scores(model, start)
    lesson = lesson_for(model, upper=min(at[:3]) - 0.5, lower=max(at[3:]) + 0.5)
    before = own_logits(model, PROMPTS[0].ids)
    finished: list[int] = []
    options = FineTuneSteps(16, 3, 0.05, kl_weight=0.01)
    tuned = fine_tune(model, start, lesson, metrics_of(start), score, options, finished.append)
    assert outside(model, tuned, lesson) < 0.5 * outside(model, start, lesson)
    assert (sum(finished), tuned.base_hash) == (16, "abc")
    assert {n: f.a.shape for n, f in tuned.factors.items()} == {n: f.a.shape for n, f in start.factors.items()}
    assert torch.equal(own_logits(model, PROMPTS[0].ids), before)
    assert not any(p.requires_grad for p in model.parameters())


def test_inside_the_bounds_only_the_kl_counts_and_falls() -> None:
    model = tiny_model("llama")
    start, lesson = random_patch(model), lesson_for(model, upper=1e3, lower=-1e3)
    assert outside(model, start, lesson) == 0
    tuned = fine_tune(model, start, lesson, metrics_of(start), score, FineTuneSteps(16, 3, 0.1, kl_weight=1.0))
    assert divergence(model, tuned) < 0.5 * divergence(model, start)


def test_the_same_seed_gives_the_same_patch() -> None:
    model = tiny_model("llama")
    start, lesson = random_patch(model), lesson_for(model)
    first, second = (
        fine_tune(model, start, lesson, metrics_of(start), score, FineTuneSteps(2, 2, 0.02, 1.0)) for _ in range(2)
    )
    assert all(torch.equal(f.b, second.factors[n].b) for n, f in first.factors.items())


def test_an_error_in_the_middle_leaves_the_model_as_it_came() -> None:
    model = tiny_model("llama")
    start, lesson = random_patch(model), lesson_for(model)
    before = own_logits(model, PROMPTS[0].ids)

    def broken(_logits: Tensor, _paths: object) -> Tensor:
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError, match="no score"):
        fine_tune(model, start, lesson, metrics_of(start), broken, FineTuneSteps(2, 2, 0.02, 1.0))
    assert torch.equal(own_logits(model, PROMPTS[0].ids), before)
    assert not any(p.requires_grad for p in model.parameters())
