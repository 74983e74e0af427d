"""A patch on a model: attached, detached, at any strength. What is searched, measured and shipped is this one path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.errors import PatchError
from unflinch.models.families import OVERRIDE
from unflinch.models.fetched_weights import computes_on
from unflinch.models.layers import linear_shape

ADAPTER = "default"


@dataclass(frozen=True)
class AttachedPatch:
    """The live adapter: its trainable factors and its strength."""

    layers: dict[str, LoraLayer]

    def parameters(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Return the factors `(a, b)` of every module, `dW = b @ a`."""
        return {
            name: (_weight(layer.lora_A[ADAPTER]), _weight(layer.lora_B[ADAPTER]))
            for name, layer in self.layers.items()
        }

    def set_strength(self, strength: float) -> None:
        """Scale the update: 0 is the base model, 1 the patch as fitted."""
        for layer in self.layers.values():
            layer.scaling[ADAPTER] = strength

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the base model inside: its logits are bit-equal to those without a patch."""
        for layer in self.layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    @torch.no_grad()
    def load(self, patch: Patch) -> None:
        """Write the patch's factors into the live adapter."""
        for name, (a, b) in self.parameters().items():
            a.copy_(patch.factors[name].a)
            b.copy_(patch.factors[name].b)

    def snapshot(self, base_hash: str, strength: float = 1.0) -> Patch:
        """Return a copy of the live factors as a patch whose strength 1 is `strength` here."""
        factors = {
            name: LowRankFactors(a.detach().float().cpu().clone(), b.detach().float().cpu() * strength)
            for name, (a, b) in self.parameters().items()
        }
        return Patch(factors, base_hash)


def lora_config(patch: Patch) -> LoraConfig:
    """Return the PEFT config whose scaling is 1 for every module of `patch`."""
    ranks = {name: factors.a.shape[0] for name, factors in patch.factors.items()}
    rank = max(ranks.values())
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(ranks),
        rank_pattern={n: r for n, r in ranks.items() if r != rank},
        alpha_pattern={n: r for n, r in ranks.items() if r != rank},
        bias="none",
        task_type="CAUSAL_LM",
    )


def check_fits(model: PreTrainedModel, patch: Patch) -> None:
    """Raise `PatchError` if the patch changes no module, or one that the model has not, or has in another shape."""
    if not patch.factors:
        raise PatchError("the patch changes no module; fetch or fit it again")
    modules = dict(model.named_modules())
    for name, factors in patch.factors.items():
        module = modules.get(name)
        expected = None if isinstance(module, LoraLayer) else linear_shape(module)
        if expected is None:
            raise PatchError(
                f"the patch changes '{name}', which this model does not have as a linear module; "
                "give the base model that the patch was made for"
            )
        given = (factors.a.shape[1], factors.b.shape[0])
        if expected != given:
            raise PatchError(
                f"the patch has shape {given} (input, output) for '{name}', the model has {expected}; "
                "give the base model that the patch was made for"
            )


@contextmanager
def attached(model: PreTrainedModel, patch: Patch, strength: float = 1.0) -> Iterator[AttachedPatch]:
    """Attach `patch` to `model` for the time of the block; afterwards the model is as it came.

    Raises:
        PatchError: if the patch names modules that the model has not, or of another shape.
    """
    check_fits(model, patch)
    original = {name: module for name, module in model.named_modules() if name}
    config = lora_config(patch)
    frozen = {n: p.requires_grad for n, p in model.named_parameters()}
    model.requires_grad_(False)
    try:
        try:
            inject_adapter_in_model(config, model, adapter_name=ADAPTER)
        except ValueError as error:
            raise PatchError(f"peft does not take the patch ({error}); {OVERRIDE}") from error
        _check_taken_as_meant(config, model, patch)
        layers: dict[str, LoraLayer] = {}
        for name in patch.factors:
            layer = model.get_submodule(name)
            assert isinstance(layer, LoraLayer), f"peft did not wrap {name}"
            # In place: peft gives the factors the model's type, too coarse to be fitted in.
            for factor in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
                factor.float().to_empty(device=computes_on(layer.get_base_layer()))  # filled by `load`
            layers[name] = layer
        live = AttachedPatch(layers)
        live.load(patch)
        live.set_strength(strength)
        yield live
    finally:
        for name, module in original.items():
            parent, _, child = name.rpartition(".")
            if getattr(model.get_submodule(parent), child) is not module:
                setattr(model.get_submodule(parent), child, module)
        for leftover in ("peft_config", "_hf_peft_config_loaded"):
            if leftover in vars(model):
                delattr(model, leftover)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])


def _weight(linear: nn.Module) -> nn.Parameter:
    weight = linear.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _check_taken_as_meant(config: LoraConfig, model: PreTrainedModel, patch: Patch) -> None:
    """Raise `PatchError` if peft converted the config, as it does for mixtures of experts that have been fused since.

    In these families it takes some names of linear modules for those of experts.
    """
    wrapped = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    strange = sorted(patch.factors.keys() - wrapped)
    if strange or config.target_parameters:
        raise PatchError(
            f"the patch changes '{(strange or sorted(patch.factors))[0]}', which peft takes for fused experts in "
            f"a model of type '{model.config.model_type}'; {OVERRIDE}"
        )
