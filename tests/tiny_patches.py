"""Random patches for tiny models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.models.architecture import architecture_of
from unflinch.models.layers import decoder_layers


def random_patch(model: PreTrainedModel, ranks: Sequence[int] = (2,), seed: int = 0, base_hash: str = "") -> Patch:
    """Return a patch of every linear module of layers 0 and 1, with these ranks in turn, that moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    layers = decoder_layers(model, architecture_of(model))
    inside = {module for layer in layers[:2] for module in layer.modules() if isinstance(module, nn.Linear)}
    linear = {name: module for name, module in model.named_modules() if module in inside}
    factors = {}
    for place, (name, module) in enumerate(linear.items()):
        rank = ranks[place % len(ranks)]
        a = torch.randn(rank, module.in_features, generator=generator) * 0.15
        b = torch.randn(module.out_features, rank, generator=generator) * 0.15
        factors[name] = LowRankFactors(a, b)
    return Patch(factors, base_hash)
