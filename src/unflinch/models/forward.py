"""Logits of many token sequences at their last positions, without work that does not count.

The tokens that all rows of a batch share at their start (usually the system prompt) are computed once; logits are taken
at scored positions only. All of it is exact up to rounding and differentiable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from unflinch.errors import ArchitectureError
from unflinch.launch import workers
from unflinch.models.batches import PADDING_ID, READ_TOKENS, Ids, PaddedBatch, length_sorted_batches, pad_batch
from unflinch.models.families import ARCHITECTURES
from unflinch.models.fetched_weights import fetching_again
from unflinch.models.layers import decoder_of
from unflinch.models.lower_layers import LowerLayers
from unflinch.models.workers import own_share, summed

Prefixes = dict[tuple[int, ...], DynamicCache]
"""Shared prefixes that have been read, each with its keys and values: most batches share the same one."""
Around = Callable[[PaddedBatch], AbstractContextManager[Any]]
"""What surrounds the decoder's call on a batch, such as `LowerLayers.skipped`."""

_ROWS_OF_LOGITS = 64
_CANNOT_BE_RUN_IN_PARTS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a model raises whose code needs more than it is given."""


def can_share_prefix(model: PreTrainedModel) -> bool:
    """Whether a prefix can be kept as plain keys and values.

    The family must be known, all layers must attend to the whole past and hold no recurrent state, and the rotation of
    a position must not depend on the sequence's length.
    """
    config = model.config.get_text_config()
    if config.model_type not in ARCHITECTURES:
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    ropes = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    if any(kind.get("rope_type") in {"dynamic", "longrope"} for kind in ropes):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def read_prefix(model: PreTrainedModel, batch: PaddedBatch, prefixes: Prefixes) -> DynamicCache:
    """Return keys and values of the batch's prefix, from `prefixes` if they are there, and keep them there."""
    key = tuple(batch.prefix[0].tolist())
    if key not in prefixes:
        prefixes[key] = DynamicCache(config=model.config)
        decoder_of(model)(input_ids=batch.prefix, past_key_values=prefixes[key], use_cache=True)
    return prefixes[key]


def run_decoder(
    model: PreTrainedModel,
    batch: PaddedBatch,
    prefixes: Prefixes,
    use_cache: bool = False,
    around: Around = nullcontext,
) -> tuple[Tensor, DynamicCache | None]:
    """Return the last hidden states of the batch's own tokens, and the cache if one was needed.

    Args:
        model: the model, patched or not.
        batch: what is read.
        prefixes: what the model has read before, as it is now; the batch's prefix is added.
        use_cache: return a cache even without a prefix.
        around: of the call on the batch, not of that on its prefix.

    Returns:
        Hidden states `(rows, tokens, width)` after the final norm, and the key-value cache over prefix and tokens.
    """
    cache: DynamicCache | None = DynamicCache(config=model.config) if use_cache else None
    if batch.prefix.shape[1]:
        cache = DynamicCache(config=model.config)
        layers: Any = read_prefix(model, batch, prefixes).layers
        for number, layer in enumerate(layers):
            keys, values = (states.repeat_interleave(len(batch.input_ids), 0) for states in (layer.keys, layer.values))
            cache.update(keys, values, number)
    with around(batch), fetching_again(model):
        output = decoder_of(model)(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return output.last_hidden_state, cache


def next_hidden(
    model: PreTrainedModel,
    tokens: Int[Tensor, " rows"],
    mask: Int[Tensor, "rows all_tokens"],
    positions: Int[Tensor, "rows 1"],
    cache: DynamicCache,
) -> Float[Tensor, "rows width"]:
    """Return the final hidden states behind one more token of every row; the cache grows by them.

    Args:
        model: the model, patched or not.
        tokens: one a row.
        mask: over all tokens so far and these.
        positions: of the new tokens.
        cache: over all tokens so far.
    """
    output = decoder_of(model)(
        input_ids=tokens[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    hidden: Tensor = output.last_hidden_state[:, -1]
    return hidden


def logits_from_hidden(
    model: PreTrainedModel, hidden: Float[Tensor, "*any width"], head: Any = None
) -> Float[Tensor, "*any vocab"]:
    """Return float32 logits of final hidden states, with the family's own scaling.

    The head, the model's own if none is given, is applied to a contiguous matrix: on a strided three-dimensional slice
    a frozen one is copied once a row.
    """
    head = head or model.get_output_embeddings()
    flat = hidden.reshape(-1, hidden.shape[-1]).contiguous()
    logits: Tensor = head(flat.to(head.weight.dtype)).float()
    config = model.config.get_text_config()
    for name in ("logit_scale", "lm_head_multiplier"):
        scale = getattr(config, name, None)
        if scale:
            logits = logits * scale
    scaling = getattr(config, "logits_scaling", None)
    if scaling:
        logits = logits / scaling
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


def scored_hidden(
    model: PreTrainedModel,
    sequences: Sequence[Ids],
    scored: int,
    *,
    lengths: Sequence[int] | None = None,
    batch_tokens: int = READ_TOKENS,
    alone: bool = False,
    lower: LowerLayers | None = None,
) -> Float[Tensor, "rows scored width"]:
    """Return the final hidden states at the last `scored` positions of every sequence, in their order.

    Args:
        model: the model, patched or not.
        sequences: token ids, each at least `scored` (or its own of `lengths`) long.
        scored: number of last positions.
        lengths: how many of them count, sequence by sequence, where answers differ in length; the columns before
            those hold nothing of use.
        batch_tokens: most padded tokens a batch.
        alone: this worker reads all sequences, which may be other ones than other workers read, and the result can be
            differentiated; else all workers read the same ones together.
        lower: layers that are left out for the sequences that these have kept.

    Raises:
        ValueError: if a sequence is shorter than the positions that count.
    """
    wanted = list(lengths) if lengths is not None else [scored] * len(sequences)
    if any(len(s) < n for s, n in zip(sequences, wanted, strict=True)):
        raise ValueError(f"every sequence needs as many tokens as are scored, up to {scored}")
    share = can_share_prefix(model)
    pieces: list[Tensor] = []
    order: list[int] = []
    prefixes: Prefixes = {}
    batches = length_sorted_batches(sequences, batch_tokens)
    for rows in batches if alone else own_share(batches):
        reserve = min(len(sequences[i]) for i in rows) - min(len(sequences[i]) - wanted[i] for i in rows)
        batch = pad_batch([sequences[i] for i in rows], reserve, PADDING_ID, model.device, share)
        hidden = run_decoder(model, batch, prefixes, around=skipping(lower))[0][:, -scored:]
        pieces.append(torch.nn.functional.pad(hidden, (0, 0, scored - hidden.shape[1], 0)))
        order += rows
    if alone or workers() == 1:
        return torch.cat(pieces)[torch.tensor(order).argsort()]
    whole = torch.zeros(len(sequences), scored, model.config.get_text_config().hidden_size)
    whole[order] = torch.cat([whole[:0], *(piece.float().cpu() for piece in pieces)])
    return summed({"": whole})[""].to(model.device, model.dtype)


def skipping(lower: LowerLayers | None) -> Around:
    """Return what lets the decoder leave out layers of which it is known what they give."""
    return lower.skipped if lower else nullcontext


@torch.no_grad()
def read_lower_layers(
    model: PreTrainedModel,
    lower: LowerLayers,
    sequences: Sequence[Ids],
    advance: Callable[[int], None] | None = None,
) -> None:
    """Keep what the layers below a patch make of the sequences.

    Not with several workers, each of which reads other batches every time, nor where the model does not go on from the
    middle as it does from the start: that is tried first.

    Args:
        model: the model, patched or not.
        lower: keep it.
        sequences: token ids.
        advance: called with the number of finished sequences after each batch.
    """
    if lower.none or not sequences:
        return
    if workers() > 1 or not _goes_on(model, lower, sequences):
        lower.forget()
        return
    prefixes: Prefixes = {}
    share = can_share_prefix(model)
    for rows in length_sorted_batches(sequences, READ_TOKENS):
        batch = pad_batch([sequences[row] for row in rows], 1, PADDING_ID, model.device, share)
        run_decoder(model, batch, prefixes, around=lower.kept)
        if advance:
            advance(len(rows))


def _goes_on(model: PreTrainedModel, lower: LowerLayers, sequences: Sequence[Ids]) -> bool:
    """Return whether two sequences, the shorter one padded, end alike without the lower layers and with them.

    Other tokens are read in between, so that nothing else than the stream can be left of the first time.
    """
    by_length = {len(sequence): sequence for sequence in sequences}
    pair = [by_length[length] for length in sorted(by_length)[:2]]
    batch = pad_batch(pair, 1, PADDING_ID, model.device, can_share_prefix(model))
    own = batch.attention_mask[:, batch.prefix.shape[1] :].bool()
    whole = run_decoder(model, batch, {})[0][own].float()
    try:
        run_decoder(model, batch, {}, around=lower.kept)
        run_decoder(model, pad_batch([sequences[0][::-1]], 1, PADDING_ID, model.device, False), {})
        rest = run_decoder(model, batch, {}, around=lower.skipped)[0][own].float()
    except _CANNOT_BE_RUN_IN_PARTS:
        return False
    rounding = torch.finfo(model.dtype).eps ** 0.5 * float(whole.abs().max())
    return torch.allclose(whole, rest, rtol=0.0, atol=rounding)


def last_logits(model: PreTrainedModel, sequences: Sequence[Ids]) -> Iterator[Float[Tensor, "some vocab"]]:
    """Yield the logits behind every sequence, in order, some rows at a time: all of them would fill the memory."""
    if sequences:
        for hidden in scored_hidden(model, sequences, 1)[:, 0].split(_ROWS_OF_LOGITS):
            yield logits_from_hidden(model, hidden)


@torch.no_grad()
def check_forward(model: PreTrainedModel) -> None:
    """Compare the logits of this file with the model's own, padded, and behind a cache: for families not in the table.

    Raises:
        ArchitectureError: if they differ by more than rounding, or cannot be computed.
    """
    sequences = [(5, 3, 6, 1, 2, 4), (7, 2, 1)]
    begun = pad_batch([s[:-1] for s in sequences], 1, PADDING_ID, model.device, False)
    last = torch.tensor([s[-1] for s in sequences], device=model.device)
    mask = torch.cat([begun.attention_mask, torch.ones_like(last)[:, None]], dim=1)
    try:
        read = logits_from_hidden(model, scored_hidden(model, sequences, 1, alone=True))[:, 0]
        cache = run_decoder(model, begun, {}, use_cache=True)[1]
        assert cache is not None
        written = logits_from_hidden(model, next_hidden(model, last, mask, begun.position_ids[:, -1:] + 1, cache))
        own = [model(input_ids=torch.tensor([s], device=model.device)).logits[0, -1].float() for s in sequences]
    except _CANNOT_BE_RUN_IN_PARTS as error:
        raise ArchitectureError(f"model type '{model.config.model_type}' cannot be run in parts ({error})") from error
    expected = torch.stack(own)
    tolerance = 0.05 * float(expected.abs().max())
    read_agrees, written_agrees = (torch.allclose(x, expected, rtol=0.0, atol=tolerance) for x in (read, written))
    if read_agrees and not written_agrees:
        raise ArchitectureError(
            f"model type '{model.config.model_type}' does not go on from a cache as attention does, so that its "
            "answers could not be trusted; give a model of another family"
        )
    if not read_agrees:
        raise ArchitectureError(
            f"model type '{model.config.model_type}' computes its logits in a way that unflinch does not know; "
            "expected decoder layers, a norm and a linear head: give a model of another family"
        )
