"""Random patches for tiny models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.models.architecture import architecture_of


def random_patch(model: PreTrainedModel, ranks: Sequence[int] = (2,), seed: int = 0, base_hash: str = "") -> Patch:
    """Return a patch of every writer and reader of layers 0 and 1, with these ranks in turn, that moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    row = architecture_of(model)
    names = [f"{row.layers}.{layer}.{name}" for layer in (0, 1) for name in (*row.writers, *row.readers)]
    factors = {}
    for place, name in enumerate(names):
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear)
        rank = ranks[place % len(ranks)]
        a = torch.randn(rank, module.in_features, generator=generator) * 0.15
        b = torch.randn(module.out_features, rank, generator=generator) * 0.15
        factors[name] = LowRankFactors(a, b)
    return Patch(factors, base_hash)
