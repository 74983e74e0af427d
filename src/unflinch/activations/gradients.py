"""Where in the weights a refusal is decided: per-prompt gradients of the refusal score, and what a change costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.activations.scratch_space import Zeros
from unflinch.artifacts import ModuleMetric, PromptGradients
from unflinch.launch import workers
from unflinch.metrics.refusal_score import Decision
from unflinch.models.batches import GRADIENT_TOKENS, Ids, PaddedBatch, length_sorted_batches, pad_batch
from unflinch.models.families import Architecture
from unflinch.models.forward import Prefixes, can_share_prefix, logits_from_hidden, read_prefix, run_decoder, skipping
from unflinch.models.generate import generator_of
from unflinch.models.hooks import CapturedModule, captured_gradients
from unflinch.models.lower_layers import LowerLayers
from unflinch.models.workers import everyones, own_share, summed

Score = Callable[[Tensor, Sequence[Ids]], Tensor]
Advance = Callable[[int], None]
Batch = tuple[list[int], int]
"""Rows that are read together, and how many of their last positions are scored."""
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
    lower: LowerLayers | None = None,
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
        lower: layers below all modules, left out for the prompts that these have kept.
        advance: called with the number of finished prompts after each batch.
    """
    scores = torch.zeros(len(decisions))
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    sequences = [decision.ids for decision in decisions]

    def objective(hidden: Tensor, rows: list[int], scored: int) -> tuple[Tensor, Tensor]:
        values = score(logits_from_hidden(model, hidden[:, -scored:]), [decisions[row].path for row in rows])
        return values.sum(), values.detach()

    batches = _batches_by_path_length(decisions, batch_tokens)
    for rows, batch, captured, values in _captured_batches(
        model, architecture, modules, sequences, batches, objective, lower
    ):
        scores[rows] = values.cpu()
        mask = batch.attention_mask[:, -batch.input_ids.shape[1] :, None]
        for name, module in captured.items():
            own = mask.to(module.inputs.device, module.inputs.dtype)
            x, g = compressed_gradient((module.inputs * own).float(), (module.gradient * own).float(), rank)
            if name not in inputs:
                inputs[name] = zeros((len(decisions), rank, x.shape[-1]))
                outputs[name] = zeros((len(decisions), rank, g.shape[-1]))
            inputs[name][rows, : x.shape[1]] = x.cpu()
            outputs[name][rows, : g.shape[1]] = g.cpu()
        if advance:
            advance(len(rows) * workers())
    return PromptGradients(summed({"": scores})[""], summed(inputs), summed(outputs))


def _batches_by_path_length(decisions: Sequence[Decision], batch_tokens: int) -> Iterator[Batch]:
    """Yield batches of decisions with equally many scored positions: one where the first token decides."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, decision in enumerate(decisions):
        groups[decision.scored].append(row)
    for scored, group in sorted(groups.items()):
        for places in length_sorted_batches([decisions[row].ids for row in group], batch_tokens):
            yield [group[place] for place in places], scored


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
        seed: of the sampled labels; every sequence has its own, whatever it is read with.
        batch_tokens: most padded tokens a batch.
        zeros: makes the tensors that hold the Cholesky factors.
        advance: called with the number of finished prompts after each batch.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    tokens = 0

    def objective(hidden: Tensor, rows: list[int], scored: int) -> tuple[Tensor, Tensor]:
        log_p = logits_from_hidden(model, hidden[:, -scored:]).log_softmax(-1)
        labels = _sampled(log_p.detach().exp().cpu(), rows, seed).to(log_p.device)
        return log_p.gather(2, labels).sum(), labels

    batches = ((rows, scored) for rows in length_sorted_batches(sequences, batch_tokens))
    for rows, batch, captured, _ in _captured_batches(model, architecture, modules, sequences, batches, objective):
        mask = batch.attention_mask[:, -batch.input_ids.shape[1] :].bool()
        tokens += int(mask.sum())
        for name, module in captured.items():
            own = mask.to(module.inputs.device)
            x, g = module.inputs[own].float(), module.gradient[own].float()
            if name not in inputs:
                inputs[name], outputs[name] = x.new_zeros(2 * x.shape[1:]), g.new_zeros(2 * g.shape[1:])
            inputs[name].addmm_(x.T, x)
            outputs[name].addmm_(g.T, g)
        if advance:
            advance(len(rows) * workers())
    inputs, outputs, tokens = summed(inputs), summed(outputs), sum(everyones(tokens))
    shrinkage = (input_shrinkage, output_shrinkage)
    return {name: _metric((inputs.pop(name), outputs.pop(name)), tokens, shrinkage, zeros) for name in list(inputs)}


def _metric(sums: tuple[Tensor, Tensor], tokens: int, shrinkage: tuple[float, float], zeros: Zeros) -> ModuleMetric:
    """Return the metric of one module from its sums over tokens, which are used up."""
    factors = [_shrunk_cholesky(total.div_(tokens), share) for total, share in zip(sums, shrinkage, strict=True)]
    return ModuleMetric(*(zeros(factor.shape).copy_(factor) for factor in factors))


def _sampled(
    probabilities: Float[Tensor, "rows scored vocab"], rows: Sequence[int], seed: int
) -> Int[Tensor, "rows scored 1"]:
    """Return a label for every position, drawn by the generator of its row."""
    drawn = [torch.multinomial(p, 1, generator=generator_of(seed, r)) for p, r in zip(probabilities, rows, strict=True)]
    return torch.stack(drawn)


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
    sequences: Sequence[Ids],
    batches: Iterable[Batch],
    objective: Callable[[Tensor, list[int], int], tuple[Tensor, Tensor]],
    lower: LowerLayers | None = None,
) -> Iterator[Captured]:
    """Yield, of this worker's batches, rows, padded batch, inputs and output gradients of the modules, kept values."""
    pad_id = model.config.get_text_config().pad_token_id or 0
    share = can_share_prefix(model)
    prefixes: Prefixes = {}
    for rows, scored in own_share(batches):
        batch = pad_batch([sequences[row] for row in rows], scored, pad_id, model.device, share)
        if batch.prefix.shape[1]:
            with torch.no_grad():  # no gradient at a prompt's own tokens passes through those before them
                read_prefix(model, batch, prefixes)
        shape = batch.input_ids.shape
        with _plain_attention(model), captured_gradients(model, architecture, modules, shape) as captured:
            hidden, _ = run_decoder(model, batch, prefixes, around=skipping(lower))
            total, kept = objective(hidden, rows, scored)
            total.backward()
        yield rows, batch, captured, kept


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attend by plain matrix products for the time of the block, on a CPU.

    The way back through torch's fused attention takes eight times as long there for sequences as short as prompts.
    """
    fused = model.config._attn_implementation
    if fused != "sdpa" or model.device.type != "cpu":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(fused)
