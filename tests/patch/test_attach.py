"""A patch acts as b @ a added to the weights, at any strength, and leaves the model as it came."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tiny_models import KNOWN, READ_OFF, own_logits, random_ids, tiny_model
from tiny_patches import random_patch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.errors import PatchError
from unflinch.models.fingerprint import weight_hash
from unflinch.patch.attach import attached, lora_config

IDS = random_ids((12,))[0]
MODULE = "model.layers.1.mlp.down_proj"


def added(model: PreTrainedModel, patch: Patch, strength: float = 1.0) -> PreTrainedModel:
    """Return a float64 copy of the model with the patch written into its weights."""
    merged = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, factors in patch.factors.items():
            merged.get_submodule(name).weight += strength * (factors.b.double() @ factors.a.double())
    return merged


def own_float64(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0].double()


@contextmanager
def left_as_it_came(model: PreTrainedModel) -> Iterator[None]:
    """Assert that modules, parameters, attributes, hooks, types and logits are afterwards what they were before."""

    def look() -> tuple[object, ...]:
        return (
            [(name, id(module), module.training) for name, module in model.named_modules()],
            [(name, id(p), p.requires_grad, p.dtype) for name, p in model.named_parameters(remove_duplicate=False)],
            [{key for key in vars(module)} for module in model.modules()],
            [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
            list(model.state_dict()),
            model.config.to_dict(),
            weight_hash(model),
        )

    before, logits = look(), own_logits(model, IDS)
    try:
        yield
    finally:
        assert look() == before
        assert torch.equal(own_logits(model, IDS), logits)
        assert not any("lora" in name or "peft" in name for module in model.modules() for name in vars(module))


@pytest.mark.parametrize("family", [*KNOWN, *READ_OFF])
def test_an_attached_patch_equals_its_product_added_to_the_weights_in_float64(family: str) -> None:
    model = tiny_model(family)
    patch = random_patch(model, ranks=(1, 3, 2))
    with attached(model, patch):
        logits = own_logits(model, IDS)
    torch.testing.assert_close(logits.double(), own_float64(added(model, patch)), rtol=1e-4, atol=2e-5)
    assert (logits - own_logits(model, IDS)).abs().max() > 0.05


@pytest.mark.parametrize("family", [*KNOWN, *READ_OFF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_disabled_patch_is_bit_equal_to_the_base_model(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family, dtype=dtype)
    base = own_logits(model, IDS)
    with attached(model, random_patch(model)) as live:
        patched = own_logits(model, IDS)
        assert not torch.equal(patched, base)
        with live.disabled():
            assert torch.equal(own_logits(model, IDS), base)
        assert torch.equal(own_logits(model, IDS), patched)
        with pytest.raises(KeyError), live.disabled():
            raise KeyError
        assert torch.equal(own_logits(model, IDS), patched)
        live.set_strength(0.0)
        assert torch.equal(own_logits(model, IDS), base)


@pytest.mark.parametrize("strength", [-1.0, 0.3, 2.5])
def test_strength_scales_linearly_in_weight_space(strength: float) -> None:
    model = tiny_model("qwen2")
    patch = random_patch(model, ranks=(1, 4))
    identity = {name: torch.eye(factors.a.shape[1]) for name, factors in patch.factors.items()}
    base = {name: model.get_submodule(name)(x) for name, x in identity.items()}
    with attached(model, patch, strength) as live, torch.no_grad():
        given = {name: model.get_submodule(name)(x) - base[name] for name, x in identity.items()}
        logits = own_logits(model, IDS)
        live.set_strength(2 * strength)
        doubled = {name: model.get_submodule(name)(x) - base[name] for name, x in identity.items()}
    for name, factors in patch.factors.items():
        product = (factors.b.double() @ factors.a.double()).T
        torch.testing.assert_close(given[name].double(), strength * product, rtol=0, atol=1e-6)
        torch.testing.assert_close(doubled[name].double(), 2 * strength * product, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits.double(), own_float64(added(model, patch, strength)), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi3", "gpt_neox"])
def test_the_model_is_left_as_it_came(family: str) -> None:
    model = tiny_model(family)
    with left_as_it_came(model), attached(model, random_patch(model)) as live:
        live.set_strength(0.5)
    with left_as_it_came(model), pytest.raises(KeyError), attached(model, random_patch(model)):
        raise KeyError


def test_parameters_that_were_trainable_are_trainable_again() -> None:
    model = tiny_model("llama").train()
    model.get_parameter("model.norm.weight").requires_grad_(True)
    model.get_submodule(MODULE).weight.requires_grad_(True)
    with left_as_it_came(model), attached(model, random_patch(model)) as live:
        factors = {id(p) for pair in live.parameters().values() for p in pair}
        assert {id(p) for p in model.parameters() if p.requires_grad} == factors


def test_a_failure_while_peft_wraps_the_modules_leaves_the_model_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    from unflinch.patch import attach

    model = tiny_model("llama")
    original = attach.inject_adapter_in_model

    def failing(*args: object, **kwargs: object) -> None:
        original(*args, **kwargs)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(attach, "inject_adapter_in_model", failing)
    with left_as_it_came(model), pytest.raises(RuntimeError, match="out of memory"):
        with attached(model, random_patch(model)):
            pytest.fail("attached")


def test_a_patch_of_every_module_of_a_deep_model_is_attached_whole() -> None:
    """With twenty modules or more, peft shortens their list to suffixes; none may come in or get lost by that."""
    model = tiny_model("llama", num_hidden_layers=12)
    names = [
        f"model.layers.{layer}.mlp.{name}" for layer in (0, 1, 2, 5, 7, 8, 9, 10) for name in ("up_proj", "down_proj")
    ]
    names += [f"model.layers.{layer}.self_attn.o_proj" for layer in (1, 3, 4, 6, 10, 11)]
    factors = {}
    for place, name in enumerate(names):
        module = model.get_submodule(name)
        a, b = (
            torch.full((1 + place % 3, module.in_features), 0.02),
            torch.full((module.out_features, 1 + place % 3), 0.1),
        )
        factors[name] = LowRankFactors(a, b)
    patch = Patch(factors, "")
    with left_as_it_came(model), attached(model, patch) as live:
        wrapped = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
        assert wrapped == set(names) == set(live.layers)
        logits = own_logits(model, IDS)
    torch.testing.assert_close(logits.double(), own_float64(added(model, patch)), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_factors_are_float32_whatever_the_models_type(dtype: torch.dtype) -> None:
    model = tiny_model("qwen2", dtype=dtype)
    patch = random_patch(model)
    with attached(model, patch) as live:
        for name, (a, b) in live.parameters().items():
            assert (a.dtype, b.dtype) == (torch.float32, torch.float32)
            assert torch.equal(a, patch.factors[name].a)
            assert torch.equal(b, patch.factors[name].b)
        logits = model(input_ids=torch.tensor([IDS])).logits
    assert logits.dtype == dtype
    reference = own_float64(added(model, patch))
    assert (logits[0].double() - reference).abs().max() < 0.1 * reference.abs().max()


def test_gradients_reach_the_factors_and_nothing_else() -> None:
    model = tiny_model("qwen2")
    patch = random_patch(model)
    with attached(model, patch) as live:
        loss = model(input_ids=torch.tensor([IDS])).logits.square().mean()
        with live.disabled(), torch.no_grad():
            model(input_ids=torch.tensor([IDS]))
        loss.backward()
        gradients = {name: (a.grad, b.grad) for name, (a, b) in live.parameters().items()}
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    merged = added(model, patch)
    weight = merged.get_submodule(MODULE).weight.requires_grad_(True)
    merged(input_ids=torch.tensor([IDS])).logits.square().mean().backward()
    a, b = patch.factors[MODULE].a.double(), patch.factors[MODULE].b.double()
    for gradient, expected in zip(gradients[MODULE], (b.T @ weight.grad, weight.grad @ a.T), strict=True):
        assert gradient is not None
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_a_snapshot_is_a_copy_whose_full_strength_is_that_of_the_moment() -> None:
    model = tiny_model("qwen2")
    patch = random_patch(model, ranks=(1, 2))
    with attached(model, patch, 0.4) as live:
        logits = own_logits(model, IDS)
        snapshot = live.snapshot("hash", 0.4)
        with torch.no_grad():
            for a, b in live.parameters().values():
                a.zero_()
                b.zero_()
    assert snapshot.base_hash == "hash"
    assert snapshot.parameters == patch.parameters
    with attached(model, snapshot):
        torch.testing.assert_close(own_logits(model, IDS), logits, rtol=1e-4, atol=2e-5)


def test_other_factors_can_be_loaded_into_a_live_adapter() -> None:
    model = tiny_model("qwen2")
    first, second = random_patch(model), random_patch(model, seed=1)
    with attached(model, second):
        expected = own_logits(model, IDS)
    with attached(model, first) as live:
        live.load(second)
        assert torch.equal(own_logits(model, IDS), expected)


def test_patches_can_be_attached_one_after_the_other_without_a_trace_of_the_first() -> None:
    model = tiny_model("qwen2")
    first, second = random_patch(model), random_patch(model, ranks=(3,), seed=1)
    with attached(model, second):
        alone = own_logits(model, IDS)
    with left_as_it_came(model), attached(model, first):
        pass
    with attached(model, second):
        assert torch.equal(own_logits(model, IDS), alone)


def test_the_config_scales_every_module_by_one() -> None:
    config = lora_config(random_patch(tiny_model("qwen2"), ranks=(1, 4, 2)))
    for name in config.target_modules:
        assert config.rank_pattern.get(name, config.r) == config.alpha_pattern.get(name, config.lora_alpha)


def changed(patch: Patch, name: str, factors: LowRankFactors) -> Patch:
    return replace(patch, factors={**patch.factors, name: factors})


WRONG = {
    "a module that is not there": ("model.layers.99.mlp.down_proj", 48, 32, "'model.layers.99.mlp.down_proj', which"),
    "a module that is not linear": ("model.layers.0.mlp", 32, 32, "'model.layers.0.mlp', which"),
    "the embedding": ("model.embed_tokens", 320, 32, "'model.embed_tokens', which"),
    "another input": (MODULE, 40, 32, r"shape \(40, 32\) .* the model has \(48, 32\)"),
    "another output": (MODULE, 48, 64, r"shape \(48, 64\) .* the model has \(48, 32\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_patch_for_another_model_is_refused_before_anything_changes(case: str) -> None:
    name, inputs, outputs, message = WRONG[case]
    model = tiny_model("llama")
    patch = changed(random_patch(model), name, LowRankFactors(torch.zeros(2, inputs), torch.zeros(outputs, 2)))
    with left_as_it_came(model), pytest.raises(PatchError, match=message):
        with attached(model, patch):
            pytest.fail("attached")


def test_an_empty_patch_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(PatchError, match="changes no module"), attached(model, Patch({}, "")):
        pytest.fail("attached")


def test_a_second_patch_on_the_same_modules_is_refused_and_does_not_harm_the_first() -> None:
    model = tiny_model("llama")
    first, second = random_patch(model), random_patch(model, seed=1)
    with left_as_it_came(model), attached(model, first):
        logits = own_logits(model, IDS)
        with pytest.raises(PatchError), attached(model, second):
            pytest.fail("attached")
        assert torch.equal(own_logits(model, IDS), logits)


def test_a_patched_head_counts_in_the_logits() -> None:
    model = tiny_model("llama")
    factors = LowRankFactors(torch.ones(1, 32), torch.ones(320, 1) * torch.linspace(0, 1, 320)[:, None])
    with left_as_it_came(model), attached(model, Patch({"lm_head": factors}, "")):
        assert isinstance(model.get_output_embeddings(), nn.Module)
        logits = own_logits(model, IDS)
    torch.testing.assert_close(
        logits.double(), own_float64(added(model, Patch({"lm_head": factors}, ""))), rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize(
    ("family", "module", "message"),
    [
        (
            "qwen3_moe",
            "model.layers.0.mlp.down_proj",
            "which peft takes for fused experts in a model of type 'qwen3_moe'",
        ),
        ("nemotron_h", "model.layers.0.mixer.out_proj", "peft does not take the patch .*incompatible with Mamba"),
    ],
)
def test_a_patch_that_peft_would_put_elsewhere_is_refused_and_leaves_no_trace(
    family: str, module: str, message: str
) -> None:
    model = tiny_model(family)
    linear = model.get_submodule(module)
    patch = Patch({module: LowRankFactors(torch.ones(2, linear.in_features), torch.ones(linear.out_features, 2))}, "")
    with left_as_it_came(model), pytest.raises(PatchError, match=message), attached(model, patch):
        pass
