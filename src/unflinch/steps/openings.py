"""How a model's refusals begin: mined from its own answers, and from answers whose first token is forced."""

from __future__ import annotations

from collections import defaultdict

import torch

from unflinch.data.splits import KINDS
from unflinch.metrics.refusal_score import RefusalOpenings, mine_openings
from unflinch.models.batches import Ids
from unflinch.models.forward import last_logits
from unflinch.models.generate import generate
from unflinch.models.load import LoadedModel
from unflinch.models.workers import by_first
from unflinch.steps.baseline import BaselineSet
from unflinch.steps.progress import Progress, counter
from unflinch.validate.judges import RuleJudge

_PROMPTS = 96
"""Refused targets whose likely first tokens are looked at."""
_LIKELY = 8
"""First tokens a prompt."""
_CANDIDATES = 32
"""First tokens that are tried, the likeliest over all prompts."""
_TRIALS = 4
"""Answers that are tried with each."""
MOST_BEGUN = _CANDIDATES * _TRIALS
"""Answers that are begun."""


def model_openings(loaded: LoadedModel, sets: BaselineSet, tokens: int, progress: Progress) -> RefusalOpenings:
    """Return how this model's answers begin when they are no plain answers: evasions count as refusals here.

    Greedy answers show the favourite opening only. A patch that lowers it would send refusals to the next one ("Sorry"
    for "I'm sorry"), so the other likely first tokens are tried too, on harmless targets only.

    Args:
        loaded: the base model.
        sets: fit prompts, asked.
        tokens: most tokens of an answer.
        progress: called while computing.
    """
    asked = [a for kind in KINDS for a in getattr(sets, kind) if a.tokens]
    answers: list[Ids] = [a.tokens for a in asked]
    refused = [a.label != "answers" for a in asked]
    judge = RuleJudge()
    targets = sets.refused("targets")[:_PROMPTS]
    likely = _likely_beginnings(loaded, [a.before_answer(loaded.tokenizer) for a in targets])
    begun = by_first(lambda: likely)
    advance = counter(progress, "scan: how refusals begin", len(begun))
    sequences = [sequence for _, sequence in begun]
    rest = generate(loaded.model, loaded.tokenizer, sequences, tokens - 1, advance=advance)
    for (row, sequence), ending in zip(begun, rest, strict=True):
        answer = (sequence[-1], *ending)
        text = str(loaded.tokenizer.decode(list(answer), skip_special_tokens=True))
        answers.append(answer)
        refused.append(judge(targets[row].prompt.text, text).label != "answers")
    head = loaded.model.get_output_embeddings()
    return mine_openings(answers, refused, head.weight.shape[0])


@torch.inference_mode()
def _likely_beginnings(loaded: LoadedModel, sequences: list[tuple[int, ...]]) -> list[tuple[int, tuple[int, ...]]]:
    """Return prompts followed by a likely first token, with their rows: each token where it is likeliest."""
    found: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
    tops = [logits.softmax(-1).topk(_LIKELY) for logits in last_logits(loaded.model, sequences)]
    rows = [pair for top in tops for pair in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
    for row, (probabilities, tokens) in enumerate(rows):
        for probability, token in zip(probabilities, tokens, strict=True):
            found[token].append((probability, row))
    likeliest = sorted(found, key=lambda token: -sum(p for p, _ in found[token]))[:_CANDIDATES]
    return [(row, (*sequences[row], token)) for token in likeliest for _, row in sorted(found[token])[-_TRIALS:]]
