"""A hash that tells whether a patch and a base model belong together."""

from __future__ import annotations

import hashlib

import torch
from transformers import PreTrainedModel

from unflinch.models.fetched_weights import weight_of


@torch.no_grad()
def weight_hash(model: PreTrainedModel) -> str:
    """Return the SHA-256 of all weights by name, each rounded to bfloat16.

    Rounding makes the hash the same for a bfloat16 checkpoint loaded in float32, float16 being the exception: a model
    loaded in another precision than its checkpoint's may differ in the last bit and is then told apart.

    Of a quantised model it is taken over all that its state dict stores, codes as they are and scales rounded to
    bfloat16: it is another model than the one it was quantised from, and than the same in another format.
    """
    digest = hashlib.sha256()
    stored = dict(model.named_parameters(remove_duplicate=False))
    if getattr(model, "is_quantized", False):
        stored |= model.state_dict()
    for name, held in sorted(stored.items()):
        tensor = weight_of(model, name) if held.is_meta else held
        digest.update(f"{name}:{tuple(tensor.shape)}".encode())
        kept = tensor.detach().to("cpu", torch.bfloat16 if tensor.is_floating_point() else tensor.dtype)
        digest.update(kept.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
