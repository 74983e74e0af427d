"""Fine-tuning in whitened coordinates: exact gradients, own answers learnt, the model left as it came."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_models import own_logits, random_ids, tiny_model
from tiny_patches import random_patch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.artifacts import ModuleMetric, Patch
from unflinch.edit.fine_tune import FineTuneSteps, Lesson, OwnAnswer, _pull_back, fine_tune
from unflinch.edit.low_rank import from_whitened, to_whitened
from unflinch.metrics.refusal_score import Decision
from unflinch.models.forward import scored_hidden
from unflinch.patch.attach import attached

PROMPTS = random_ids((7, 9, 6))
KEEPS = [Decision(tuple(ids), path) for ids, path in zip(random_ids((8, 5), seed=1), ((), (6, 2)), strict=True)]
ORDINARY = random_ids((9, 11), seed=2)
ANSWER = (20, 30, 40)


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


def lesson_for(model: PreTrainedModel) -> Lesson:
    base = scored_hidden(model, ORDINARY, 3)
    answers = [OwnAnswer(prompt, ANSWER) for prompt in PROMPTS]
    return Lesson(answers, KEEPS, torch.zeros(len(KEEPS)), ORDINARY, base)


def surprise(model: PreTrainedModel, patch: Patch) -> float:
    """Return mean -log p(own answer)."""
    with attached(model, patch):
        rows = [own_logits(model, (*p, *ANSWER[:-1]))[-len(ANSWER) :].log_softmax(-1) for p in PROMPTS]
    return -float(torch.stack([row[range(len(ANSWER)), ANSWER].mean() for row in rows]).mean())


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


def test_own_answers_become_likelier_and_the_model_leaves_as_it_came() -> None:
    model = tiny_model("qwen2")
    start = random_patch(model, base_hash="abc")
    before, lesson = own_logits(model, PROMPTS[0]), lesson_for(model)
    finished: list[int] = []
    options = FineTuneSteps(12, 3, 0.05, ordinary_weight=0.1)
    tuned = fine_tune(model, start, lesson, metrics_of(start), score, options, finished.append)
    assert surprise(model, tuned) < surprise(model, start) - 0.1
    assert (sum(finished), tuned.base_hash) == (12, "abc")
    assert {n: f.a.shape for n, f in tuned.factors.items()} == {n: f.a.shape for n, f in start.factors.items()}
    assert torch.equal(own_logits(model, PROMPTS[0]), before)
    assert not any(p.requires_grad for p in model.parameters())


def test_the_same_seed_gives_the_same_patch() -> None:
    model = tiny_model("llama")
    start, lesson = random_patch(model), lesson_for(model)
    first, second = (
        fine_tune(model, start, lesson, metrics_of(start), score, FineTuneSteps(2, 2, 0.02)) for _ in range(2)
    )
    assert all(torch.equal(f.b, second.factors[n].b) for n, f in first.factors.items())


def test_an_error_in_the_middle_leaves_the_model_as_it_came() -> None:
    model = tiny_model("llama")
    start, lesson = random_patch(model), lesson_for(model)
    before = own_logits(model, PROMPTS[0])

    def broken(_logits: Tensor, _paths: object) -> Tensor:
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError, match="no score"):
        fine_tune(model, start, lesson, metrics_of(start), broken, FineTuneSteps(2, 2, 0.02))
    assert torch.equal(own_logits(model, PROMPTS[0]), before)
    assert not any(p.requires_grad for p in model.parameters())
