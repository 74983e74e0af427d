"""One of the workers of test_shared_weights.py: reads its own number of prompts, forwards and back, and says what came.

Run as `python sharing_worker.py MODEL OUT` with the environment that torchrun would give.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tiny_models import random_ids
from torch import Tensor

from unflinch.activations.gradients import refusal_gradients
from unflinch.launch import rank, workers
from unflinch.metrics.refusal_score import Decision
from unflinch.models.fetched_weights import fetched_of
from unflinch.models.forward import scored_hidden
from unflinch.models.load import load_model
from unflinch.models.placement import Spreading
from unflinch.models.shared_weights import SharedWeights
from unflinch.models.workers import by_first, everyones

PROMPTS = random_ids((5, 23, 3, 12, 9, 31, 17))
MODULES = [f"model.layers.{number}.self_attn.o_proj" for number in range(3)]


def score(logits: Tensor, _paths: object) -> Tensor:
    return logits[:, -1].sum(-1)


def main(model: str, out: Path) -> None:
    spread = Spreading("workers") if workers() > 1 else None
    loaded = load_model(model, dtype="float32", device="cpu", spread=spread)
    found: dict[str, object] = {"hash": loaded.base_hash}
    if spread:
        fetched = fetched_of(loaded.model)
        assert fetched is not None and isinstance(fetched.source, SharedWeights)
        found["held"] = sum(
            part.nbytes if isinstance(part, Tensor) else part.share.nbytes for part in fetched.source._held.values()
        )
    with torch.no_grad():
        # Worker 0 reads seven prompts one by one, worker 1 none of them, worker 2 two: then all exchange.
        mine = PROMPTS[: {0: 7, 1: 0, 2: 2}[rank()]]
        found["alone"] = [scored_hidden(loaded.model, [ids], 1, alone=True)[0] for ids in mine]
        found["everyone"] = len(everyones(len(mine)))
        found["first"] = by_first(lambda: scored_hidden(loaded.model, PROMPTS[:2], 1, alone=True))
        found["together"] = scored_hidden(loaded.model, PROMPTS, 2, batch_tokens=40)
    decisions = [Decision(ids) for ids in PROMPTS]
    gradients = refusal_gradients(loaded.model, loaded.architecture, MODULES, decisions, score, rank=8, batch_tokens=40)
    found["gradients"] = [gradients.outputs[name].transpose(1, 2) @ gradients.inputs[name] for name in MODULES]
    torch.save(found, out / f"{rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
