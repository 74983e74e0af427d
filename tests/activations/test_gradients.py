"""Gradients and costs taken from hooks equal those of autograd on whole weights, and the model leaves as it came."""

from __future__ import annotations

import pytest
import torch
from tiny_models import own_logits, random_ids, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.activations import gradients
from unflinch.activations.gradients import compressed_gradient, fisher_metrics, refusal_gradients
from unflinch.metrics.refusal_score import Decision, RefusalOpenings, path_score
from unflinch.models.architecture import architecture_of

MODULES = ["model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]
SEQUENCES = random_ids((9, 5, 12, 7))
LONGEST = 12
PATHS = ((), (7, 3), (), (4, 4, 9))
DECISIONS = [Decision(tuple(ids), path) for ids, path in zip(SEQUENCES, PATHS, strict=True)]


def openings(model: PreTrainedModel) -> RefusalOpenings:
    """Every other token opens refusals, so that the score depends on all logits."""
    weights = torch.zeros(model.config.vocab_size)
    weights[::2] = 0.9
    return RefusalOpenings(weights)


def by_autograd(model: PreTrainedModel, value: Tensor) -> dict[str, Tensor]:
    weights = [model.get_submodule(name).weight for name in MODULES]
    return dict(zip(MODULES, torch.autograd.grad(value, weights), strict=True))


def with_weights(model: PreTrainedModel) -> PreTrainedModel:
    for name in MODULES:
        model.get_submodule(name).weight.requires_grad_(True)
    return model


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
def test_each_prompts_gradient_and_score_equal_autograds(family: str) -> None:
    model = tiny_model(family)
    score = openings(model)
    found = refusal_gradients(model, architecture_of(model), MODULES, DECISIONS, score.decision_scores, rank=LONGEST)
    reference = with_weights(tiny_model(family))
    for place, (ids, path) in enumerate(zip(SEQUENCES, PATHS, strict=True)):
        logits = reference(input_ids=torch.tensor([ids])).logits[0].float()
        value = path_score(logits[-len(path) :], path) if path else score.score(logits[-1:])[0]
        assert float(found.scores[place]) == pytest.approx(value.item(), rel=1e-4, abs=1e-4)
        for name, expected in by_autograd(reference, value).items():
            whole = found.outputs[name][place].T @ found.inputs[name][place]
            torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-7)


def test_batches_do_not_matter() -> None:
    model = tiny_model("qwen2")
    score, row = openings(model).decision_scores, architecture_of(model)
    together = refusal_gradients(model, row, MODULES, DECISIONS, score, rank=LONGEST)
    alone = refusal_gradients(model, row, MODULES, DECISIONS, score, rank=LONGEST, batch_tokens=1)
    torch.testing.assert_close(together.scores, alone.scores, rtol=1e-4, atol=1e-4)
    for name in MODULES:
        whole = [found.outputs[name].transpose(1, 2) @ found.inputs[name] for found in (together, alone)]
        torch.testing.assert_close(*whole, rtol=1e-3, atol=1e-5)


def test_a_compressed_gradient_is_the_best_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(3, 7, 10, generator=generator), torch.randn(3, 7, 5, generator=generator)
    kept_x, kept_g = compressed_gradient(x, g, 2)
    whole = g.transpose(1, 2) @ x
    lost = (whole - kept_g.transpose(1, 2) @ kept_x).norm(dim=(1, 2))
    least = torch.linalg.svdvals(whole)[:, 2:].square().sum(1).sqrt()
    torch.testing.assert_close(lost, least, rtol=1e-4, atol=1e-5)


def expected_moments(name: str, scored: int) -> tuple[Tensor, Tensor]:
    """Return C, and S as the exact expectation over labels: gradients of every label at every position, one by one."""
    model = with_weights(tiny_model("qwen2"))
    module = model.get_submodule(name)
    seen: dict[str, Tensor] = {}

    def keep(_module: object, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen["x"], seen["y"] = args[0], output

    handle = module.register_forward_hook(keep)
    c, s, tokens = 0.0, 0.0, 0
    for ids in SEQUENCES:
        log_p = model(input_ids=torch.tensor([ids])).logits[0, -scored:].log_softmax(-1)
        x = seen["x"][0].detach().double()
        c, tokens = c + x.T @ x, tokens + len(ids)
        # Labels are independent, and E[g] = 0 at each: the expectation of (sum g)(sum g)ᵀ is the sum of E[g gᵀ].
        for row in log_p:
            for label in range(len(row)):
                (g,) = torch.autograd.grad(row[label], seen["y"], retain_graph=True)
                s = s + row[label].detach().exp().double() * (g[0].double().T @ g[0].double())
    handle.remove()
    return c / tokens, s / tokens


def test_the_cost_of_a_change_equals_brute_force_over_all_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    # Copies of a prompt would share nearly all of their tokens, and shared tokens are left out.
    monkeypatch.setattr(gradients, "can_share_prefix", lambda _model: False)
    name, scored, shrinkage = MODULES[1], 2, 0.2
    model = tiny_model("qwen2")
    c, s = expected_moments(name, scored)

    def shrunk(moment: Tensor) -> Tensor:
        return (1 - shrinkage) * moment + shrinkage * moment.diagonal().mean() * torch.eye(len(moment)).double()

    many = 300
    found = fisher_metrics(
        model,
        architecture_of(model),
        [name],
        SEQUENCES * many,
        scored,
        input_shrinkage=shrinkage,
        output_shrinkage=shrinkage,
        seed=0,
        batch_tokens=20_000,
    )[name]
    input_factor, output_factor = found.input_factor.double(), found.output_factor.double()
    torch.testing.assert_close(input_factor @ input_factor.T, shrunk(c), rtol=1e-3, atol=1e-4)
    difference = (output_factor @ output_factor.T - shrunk(s)).norm() / shrunk(s).norm()
    assert difference < 0.1  # labels are sampled: 1200 rows of two


def test_the_same_seed_samples_the_same_labels_whatever_is_read_together() -> None:
    model = tiny_model("qwen2")

    def metric(seed: int, batch_tokens: int = 1536) -> Tensor:
        options = {"input_shrinkage": 0.1, "output_shrinkage": 0.1, "seed": seed, "batch_tokens": batch_tokens}
        return fisher_metrics(model, architecture_of(model), MODULES, SEQUENCES, 2, **options)[MODULES[0]].output_factor

    assert torch.equal(metric(0), metric(0))
    torch.testing.assert_close(metric(0), metric(0, batch_tokens=1))
    assert not torch.allclose(metric(0), metric(1))


def test_the_model_leaves_as_it_came_even_after_an_error() -> None:
    model = tiny_model("qwen2")
    before = own_logits(model, SEQUENCES[0])
    row = architecture_of(model)
    refusal_gradients(model, row, MODULES, DECISIONS, openings(model).decision_scores)
    fisher_metrics(model, row, MODULES, SEQUENCES, 2, input_shrinkage=0.1, output_shrinkage=0.1, seed=0)

    def broken(_logits: Tensor, _paths: object) -> Tensor:
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError, match="no score"):
        refusal_gradients(model, row, MODULES, DECISIONS, broken)
    assert torch.equal(own_logits(model, SEQUENCES[0]), before)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
