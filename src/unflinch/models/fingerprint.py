"""A hash that tells whether a patch and a base model belong together."""

from __future__ import annotations

import hashlib

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def weight_hash(model: PreTrainedModel) -> str:
    """Return the SHA-256 of all weights by name, each rounded to bfloat16.

    Rounding makes the hash the same for a bfloat16 checkpoint loaded in float32, float16 being the exception: a model
    loaded in another precision than its checkpoint's may differ in the last bit and is then told apart.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False)):
        digest.update(f"{name}:{tuple(parameter.shape)}".encode())
        raw = parameter.detach().to("cpu", torch.bfloat16).reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
