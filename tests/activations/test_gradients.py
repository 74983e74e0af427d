"""Per-prompt gradients and metrics against plain autograd, one unpadded prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_models import WIDTH, random_ids, tiny_model
from tiny_patches import random_patch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.activations.gradients import compressed_gradient, fisher_metrics, refusal_gradients
from unflinch.models.architecture import architecture_of
from unflinch.models.forward import length_sorted_batches
from unflinch.patch.attach import attached

START = (11, 7, 5, 3, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49)
MODULES = ("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.2.mlp.up_proj")
FULL_RANK = 20


def score(logits: Tensor) -> Tensor:
    return logits[:, 5] - logits[:, 9:20].logsumexp(-1)


def by_autograd(
    model: PreTrainedModel, ids: tuple[int, ...], value_of: object, modules: Sequence[str] = MODULES
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Return a value of one prompt's logits, and at every module the inputs and output gradients of its tokens."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> object:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            seen[name] = (args[0], output)

        return hook

    embedding = model.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in modules]
    value = value_of(model(inputs_embeds=embedding).logits[0].float())
    value.backward()
    for handle in handles:
        handle.remove()
    return value.detach(), {name: (x[0].detach(), output.grad[0]) for name, (x, output) in seen.items()}


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi3"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_gradients_and_scores_equal_those_of_autograd(family: str, batch_tokens: int) -> None:
    model = tiny_model(family)
    row = architecture_of(model)
    modules = [f"{row.layers}.1.{row.readers[0]}", f"{row.layers}.2.{row.writers[1]}"]
    sequences = random_ids((9, 4, 12))
    found = refusal_gradients(model, row, modules, sequences, score, rank=FULL_RANK, batch_tokens=batch_tokens)
    for place, ids in enumerate(sequences):
        value, seen = by_autograd(model, ids, lambda logits: score(logits[-1:])[0], modules)
        torch.testing.assert_close(found.scores[place], value, rtol=1e-4, atol=1e-5)
        for name, (x, g) in seen.items():
            gradient = found.outputs[name][place].T @ found.inputs[name][place]
            expected = g.T @ x
            torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))


def test_tokens_that_a_batch_shares_are_left_out_and_the_others_are_right() -> None:
    model = tiny_model("qwen2")
    sequences = random_ids((20, 17, 23), START)
    found = refusal_gradients(model, architecture_of(model), MODULES, sequences, score, rank=FULL_RANK)
    for place, ids in enumerate(sequences):
        value, seen = by_autograd(model, ids, lambda logits: score(logits[-1:])[0])
        torch.testing.assert_close(found.scores[place], value, rtol=1e-4, atol=1e-5)
        for name, (x, g) in seen.items():
            expected = g[len(START) :].T @ x[len(START) :]
            gradient = found.outputs[name][place].T @ found.inputs[name][place]
            torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_compressed_gradient_is_the_best_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, gradients = torch.randn(3, 9, 14, generator=generator), torch.randn(3, 9, 6, generator=generator)
    for rank in (1, 2, 6, 30):
        x, g = compressed_gradient(inputs, gradients, rank)
        for row in range(3):
            whole = gradients[row].double().T @ inputs[row].double()
            u, s, vt = torch.linalg.svd(whole, full_matrices=False)
            best = (u[:, :rank] * s[:rank]) @ vt[:rank]
            torch.testing.assert_close((g[row].T @ x[row]).double(), best, rtol=0, atol=1e-4)


def test_metrics_are_the_shrunk_second_moments_of_inputs_and_output_gradients() -> None:
    model, scored, shrinkage = tiny_model("qwen2"), 3, (0.2, 0.3)
    sequences = random_ids((17, 12, 9, 6))
    found = fisher_metrics(
        model,
        architecture_of(model),
        MODULES,
        sequences,
        scored,
        input_shrinkage=shrinkage[0],
        output_shrinkage=shrinkage[1],
        seed=4,
        batch_tokens=1,
    )
    generator = torch.Generator().manual_seed(4)

    def log_likelihood(logits: Tensor) -> Tensor:
        log_p = logits[-scored:].log_softmax(-1)
        labels = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
        return log_p.gather(1, labels).sum()

    order = [index for batch in length_sorted_batches(sequences, 1) for index in batch]  # labels are sampled in it
    rows = [by_autograd(model, sequences[index], log_likelihood)[1] for index in order]
    for name in MODULES:
        parts = (torch.cat([seen[name][side] for seen in rows]) for side in (0, 1))
        factors = (found[name].input_factor, found[name].output_factor)
        for values, factor, share in zip(parts, factors, shrinkage, strict=True):
            moment = values.double().T @ values.double() / len(values)
            shrunk = (1 - share) * moment + share * moment.diagonal().mean() * torch.eye(len(moment))
            largest = float(shrunk.abs().max())
            torch.testing.assert_close((factor @ factor.T).double(), shrunk, rtol=1e-3, atol=1e-4 * largest)
            assert torch.equal(factor, factor.tril())


def test_metrics_are_repeatable_and_depend_on_the_seed_alone() -> None:
    model = tiny_model("qwen2")

    def metric(seed: int) -> Tensor:
        torch.rand(seed + 1)
        options = {"input_shrinkage": 0.1, "output_shrinkage": 0.1, "seed": seed}
        found = fisher_metrics(model, architecture_of(model), MODULES[:1], random_ids((9, 12)), 2, **options)
        return found[MODULES[0]].output_factor

    assert torch.equal(metric(0), metric(0))
    assert not torch.equal(metric(0), metric(1))


def test_the_model_keeps_no_hook_and_no_gradient() -> None:
    model = tiny_model("qwen2")
    patch = random_patch(model)
    with attached(model, patch) as live:
        refusal_gradients(model, architecture_of(model), MODULES, random_ids((9, 4)), score)
        assert all(p.grad is None for pair in live.parameters().values() for p in pair)
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_every_prompt_is_reported_once_as_finished() -> None:
    finished: list[int] = []
    model = tiny_model("qwen2")
    sequences = random_ids((20, 17, 9))
    found = refusal_gradients(
        model, architecture_of(model), MODULES, sequences, score, batch_tokens=20, advance=finished.append
    )
    assert sum(finished) == 3
    assert found.inputs[MODULES[0]].shape == (3, 4, WIDTH)
