"""Layers on several GPUs (`device_map`): every way of reading gives what it gives on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from several_devices import FIRST, SECOND, SeveralDevices, spread
from tiny_models import random_ids, tiny_model, tiny_tokenizer
from tiny_patches import random_patch
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.activations.collect import collect_activations
from unflinch.activations.gradients import fisher_metrics, refusal_gradients
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.models.architecture import architecture_of
from unflinch.models.continuations import Choices, likelihoods
from unflinch.models.forward import logits_from_hidden, scored_hidden
from unflinch.models.generate import generate, sampler
from unflinch.patch.attach import attached
from unflinch.patch.merge import merged

START = (11, 7, 5, 3, 40, 41, 42, 43)
SEQUENCES = random_ids((12, 15, 10), START) + random_ids((9, 7), seed=1)
MODULES = ["model.layers.0.mlp.down_proj", "model.layers.2.mlp.down_proj"]


def logits(model: PreTrainedModel) -> Any:
    with torch.no_grad():
        return logits_from_hidden(model, scored_hidden(model, SEQUENCES, 2))


def patched_logits(model: PreTrainedModel) -> Any:
    with attached(model, random_patch(model)):
        return logits(model)


def merged_logits(model: PreTrainedModel) -> Any:
    with merged(model, random_patch(model), 1.0):
        return logits(model)


def answers(model: PreTrainedModel) -> Any:
    return generate(model, tiny_tokenizer(), SEQUENCES, 5, stop_when=lambda text: len(text) > 6)


def sampled(model: PreTrainedModel) -> Any:
    return generate(model, tiny_tokenizer(), SEQUENCES, 3, choose=sampler(0))


def states(model: PreTrainedModel) -> Any:
    return collect_activations(model, architecture_of(model), SEQUENCES).states


def gradients(model: PreTrainedModel) -> Any:
    score = RefusalOpenings(torch.arange(model.config.vocab_size) % 2 * 0.9).decision_scores
    decisions = [Decision(tuple(ids), path) for ids, path in zip(SEQUENCES, ((), (), (4, 9), (), ()), strict=True)]
    found = refusal_gradients(model, architecture_of(model), MODULES, decisions, score)
    wholes = {name: found.outputs[name].transpose(1, 2) @ found.inputs[name] for name in MODULES}
    return {"scores": found.scores, **wholes}


def costs(model: PreTrainedModel) -> Any:
    options = {"input_shrinkage": 0.1, "output_shrinkage": 0.1, "seed": 0}
    found = fisher_metrics(model, architecture_of(model), MODULES, SEQUENCES, 2, **options)
    return {name: metric.output_factor for name, metric in found.items()}


def choices(model: PreTrainedModel) -> Any:
    items = [Choices(tuple(ids), ((3, 4), (5,), (6, 7, 8))) for ids in SEQUENCES]
    return [[one.log_probability for one in row] for row in likelihoods(model, items, 0, {})]


@pytest.mark.parametrize(
    "read", [logits, patched_logits, merged_logits, answers, sampled, states, gradients, costs, choices]
)
def test_layers_on_two_devices_give_what_they_give_on_one(read: Callable[[PreTrainedModel], Any]) -> None:
    expected = read(tiny_model("qwen2"))
    model = tiny_model("qwen2")
    with spread(model, 1):
        found = read(model)
    torch.testing.assert_close(found, expected)


def test_tensors_of_two_devices_cannot_be_mixed_here_either() -> None:
    mode = SeveralDevices()
    one, two = torch.ones(3), torch.ones(3)
    mode.places[one], mode.places[two] = FIRST, SECOND
    with mode:
        assert (one + 1).device == FIRST
        assert (one.to(SECOND) + two).device == SECOND
        for wrong in (lambda: one + two, lambda: one[two.long()], lambda: one + torch.ones(3)):
            with pytest.raises(RuntimeError, match="cuda"):
                wrong()


def test_a_tensor_moved_stays_where_it_was() -> None:
    mode = SeveralDevices()
    one: Tensor = torch.ones(3)
    mode.places[one] = FIRST
    with mode:
        one.cpu()
        assert one.device == FIRST
