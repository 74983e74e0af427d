"""Where in the weights a refusal is decided: per-prompt gradients of the refusal score, and what a change costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.activations.scratch_space import Zeros
from unflinch.artifacts import ModuleMetric, PromptGradients
from unflinch.metrics.refusal_score import Decision
from unflinch.models.families import Architecture
from unflinch.models.forward import (
    GRADIENT_TOKENS,
    Ids,
    PaddedBatch,
    Prefixes,
    can_share_prefix,
    length_sorted_batches,
    logits_from_hidden,
    pad_batch,
    read_prefix,
    run_decoder,
)
from unflinch.models.hooks import CapturedModule, captured_gradients

Score = Callable[[Tensor, Sequence[Ids]], Tensor]
Advance = Callable[[int], None]
Captured = tuple[list[int], PaddedBatch, dict[str, CapturedModule], Tensor]

_NEGLIGIBLE = 1e-6
"""Directions of a prompt's inputs with a smaller share of the largest moment are left out: they are rounding."""


def refusal_gradients(
    model: PreTrainedModel,
    architecture: Architecture,
    modules: Sequence[str],
    decisions: Sequence[Decision],
    score: Score,
    *,
    rank: int = 2,
    batch_tokens: int = GRADIENT_TOKENS,
    zeros: Zeros = torch.zeros,
    advance: Advance | None = None,
) -> PromptGradients:
    """Return the refusal score of every prompt and its gradient in each module, over the prompt's own tokens.

    Each gradient `sum_t g_t x_tᵀ` over tokens is kept as its best rank-`rank` approximation. Tokens that a whole batch
    shares at its start are left out: they do not tell prompts apart.

    Args:
        model: the model, patched or not.
        architecture: where its decoder layers are.
        modules: names of linear modules.
        decisions: what has been read where each prompt's refusal is decided.
        score: from logits `(prompts, scored, vocab)` and paths to scores `(prompts,)`, as
            `RefusalOpenings.decision_scores`.
        rank: kept of every gradient.
        batch_tokens: most padded tokens a batch.
        zeros: makes the tensors that hold the factors.
        advance: called with the number of finished prompts after each batch.
    """
    scores = torch.empty(len(decisions))
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for scored, group in _by_path_length(decisions):

        def objective(hidden: Tensor, rows: list[int], scored: int = scored) -> tuple[Tensor, Tensor]:
            values = score(logits_from_hidden(model, hidden[:, -scored:]), [decisions[row].path for row in rows])
            return values.sum(), values.detach()

        sequences = {row: decisions[row].ids for row in group}
        for rows, batch, captured, values in _captured_batches(
            model, architecture, modules, sequences, objective, scored, batch_tokens
        ):
            scores[rows] = values.cpu()
            mask = batch.attention_mask[:, -batch.input_ids.shape[1] :, None]
            for name, module in captured.items():
                x, g = compressed_gradient(module.inputs.float() * mask, module.gradient.float() * mask, rank)
                if name not in inputs:
                    inputs[name] = zeros((len(decisions), rank, x.shape[-1]))
                    outputs[name] = zeros((len(decisions), rank, g.shape[-1]))
                inputs[name][rows, : x.shape[1]] = x.cpu()
                outputs[name][rows, : g.shape[1]] = g.cpu()
            if advance:
                advance(len(rows))
    return PromptGradients(scores, inputs, outputs)


def _by_path_length(decisions: Sequence[Decision]) -> list[tuple[int, list[int]]]:
    """Return row numbers by how many positions are scored: one where the first token decides."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, decision in enumerate(decisions):
        groups[max(1, len(decision.path))].append(row)
    return sorted(groups.items())


def compressed_gradient(
    inputs: Float[Tensor, "rows tokens input"], gradients: Float[Tensor, "rows tokens output"], rank: int
) -> tuple[Float[Tensor, "rows kept input"], Float[Tensor, "rows kept output"]]:
    """Return factors (x, g) of the best rank-`rank` approximation of `sum_t g_t x_tᵀ`, row by row.

    Formula: with tokens as columns and A = (Xᵀ X)^½, the eigenvectors V of A Gᵀ G A are the right singular vectors of
    G Xᵀ in the coordinates X A⁻¹; so x = X A⁻¹ V, with orthonormal columns, and g = G A V. Only matrices of tokens by
    tokens are factored, in float64.
    """
    x_moment = (inputs @ inputs.transpose(1, 2)).double()
    g_moment = (gradients @ gradients.transpose(1, 2)).double()
    values, vectors = torch.linalg.eigh(x_moment)
    used = values > _NEGLIGIBLE * values.amax(-1, keepdim=True)
    root = torch.where(used, values, 0.0).sqrt()
    inverse = torch.where(used, values, 1.0).rsqrt() * used
    half = (vectors * root[:, None]) @ vectors.transpose(1, 2)
    half_inverse = (vectors * inverse[:, None]) @ vectors.transpose(1, 2)
    leading = torch.linalg.eigh(half @ g_moment @ half)[1][:, :, -rank:].flip(-1)
    x = (half_inverse @ leading).transpose(1, 2).to(inputs.dtype) @ inputs
    g = (half @ leading).transpose(1, 2).to(gradients.dtype) @ gradients
    return x, g


def fisher_metrics(
    model: PreTrainedModel,
    architecture: Architecture,
    modules: Sequence[str],
    sequences: Sequence[Ids],
    scored: int,
    *,
    input_shrinkage: float,
    output_shrinkage: float,
    seed: int,
    batch_tokens: int = GRADIENT_TOKENS,
    zeros: Zeros = torch.zeros,
    advance: Advance | None = None,
) -> dict[str, ModuleMetric]:
    """Return the KL metric of every module from ordinary prompts with the base model's own answers.

    Formula: C = E[x xᵀ] over all own tokens, S = E[g gᵀ] with g the gradient at the module's output of
    sum over scored positions of log p(y), y sampled from the model itself (Fisher).

    Args:
        model: the base model.
        architecture: where its decoder layers are.
        modules: names of linear modules.
        sequences: ordinary prompts followed by answers.
        scored: last positions at which labels are sampled.
        input_shrinkage: share of the scaled identity in C.
        output_shrinkage: share of the scaled identity in S.
        seed: of the sampled labels.
        batch_tokens: most padded tokens a batch.
        zeros: makes the tensors that hold the Cholesky factors.
        advance: called with the number of finished prompts after each batch.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    tokens = 0

    def objective(hidden: Tensor, _rows: list[int]) -> tuple[Tensor, Tensor]:
        log_p = logits_from_hidden(model, hidden[:, -scored:]).flatten(0, 1).log_softmax(-1)
        labels = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(log_p.device)
        return log_p.gather(1, labels).sum(), labels

    for rows, batch, captured, _ in _captured_batches(
        model, architecture, modules, dict(enumerate(sequences)), objective, scored, batch_tokens
    ):
        mask = batch.attention_mask[:, -batch.input_ids.shape[1] :].bool()
        tokens += int(mask.sum())
        for name, module in captured.items():
            x, g = module.inputs[mask].float(), module.gradient[mask].float()
            if name not in sums:
                sums[name] = (x.new_zeros(2 * x.shape[1:]), g.new_zeros(2 * g.shape[1:]))
            c, s = sums[name]
            c.addmm_(x.T, x)
            s.addmm_(g.T, g)
        if advance:
            advance(len(rows))
    shrinkage = (input_shrinkage, output_shrinkage)
    return {name: _metric(sums.pop(name), tokens, shrinkage, zeros) for name in list(sums)}


def _metric(sums: tuple[Tensor, Tensor], tokens: int, shrinkage: tuple[float, float], zeros: Zeros) -> ModuleMetric:
    """Return the metric of one module from its sums over tokens, which are used up."""
    factors = [_shrunk_cholesky(total.div_(tokens), share) for total, share in zip(sums, shrinkage, strict=True)]
    return ModuleMetric(*(zeros(factor.shape).copy_(factor) for factor in factors))


def _shrunk_cholesky(moment: Tensor, shrinkage: float) -> Tensor:
    """Return the factor of the moment shrunk towards the scaled identity; the moment is used up."""
    scale = moment.diagonal().mean().clamp(min=torch.finfo(moment.dtype).tiny)
    moment.mul_(1 - shrinkage).diagonal().add_(shrinkage * scale)
    factor: Tensor = torch.linalg.cholesky(moment)
    return factor


def _captured_batches(
    model: PreTrainedModel,
    architecture: Architecture,
    modules: Sequence[str],
    sequences: Mapping[int, Ids],
    objective: Callable[[Tensor, list[int]], tuple[Tensor, Tensor]],
    scored: int,
    batch_tokens: int,
) -> Iterator[Captured]:
    """Yield, batch by batch, rows, padded batch, inputs and output gradients of the modules, and kept values."""
    pad_id = model.config.get_text_config().pad_token_id or 0
    share = can_share_prefix(model)
    names = list(sequences)
    prefixes: Prefixes = {}
    for places in length_sorted_batches(list(sequences.values()), batch_tokens):
        rows = [names[place] for place in places]
        batch = pad_batch([sequences[row] for row in rows], scored, pad_id, model.device, share)
        if batch.prefix.shape[1]:
            with torch.no_grad():  # no gradient at a prompt's own tokens passes through those before them
                read_prefix(model, batch, prefixes)
        with captured_gradients(model, architecture, modules, batch.input_ids.shape) as captured:
            hidden, _ = run_decoder(model, batch, prefixes)
            total, kept = objective(hidden, rows)
            total.backward()
        yield rows, batch, captured, kept
