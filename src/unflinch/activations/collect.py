"""Targeted activation sourcing: the residual stream at the position where a model decides whether to refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from unflinch.artifacts import Activations
from unflinch.launch import workers
from unflinch.models.batches import PADDING_ID, READ_TOKENS, Ids, length_sorted_batches, pad_batch
from unflinch.models.families import Architecture
from unflinch.models.forward import Prefixes, can_share_prefix, run_decoder
from unflinch.models.hooks import recorded_layer_outputs
from unflinch.models.layers import decoder_layers
from unflinch.models.workers import own_share, summed


@torch.no_grad()
def collect_activations(
    model: PreTrainedModel,
    architecture: Architecture,
    sequences: Sequence[Ids],
    *,
    batch_tokens: int = READ_TOKENS,
    advance: Callable[[int], None] | None = None,
) -> Activations:
    """Return the residual stream behind every layer at the last token of every sequence, float32 on the CPU.

    Args:
        model: the base model.
        architecture: where its decoder layers are.
        sequences: prompts as ids that end where the answer begins.
        batch_tokens: most padded tokens a batch.
        advance: called with the number of finished prompts after each batch.
    """
    depth = len(decoder_layers(model, architecture))
    width = model.config.get_text_config().hidden_size
    states = torch.zeros(len(sequences), depth, width)
    share = can_share_prefix(model)
    prefixes: Prefixes = {}
    for rows in own_share(length_sorted_batches(sequences, batch_tokens)):
        batch = pad_batch([sequences[i] for i in rows], 1, PADDING_ID, model.device, share)
        with recorded_layer_outputs(model, architecture) as outputs:
            run_decoder(model, batch, prefixes)
        for layer, output in enumerate(outputs[-depth:]):
            states[rows, layer] = output[:, -1].float().cpu()
        if advance:
            advance(len(rows) * workers())
    return Activations(summed({"": states})[""])
