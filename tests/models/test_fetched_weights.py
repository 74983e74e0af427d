"""A model whose layers are fetched while they run gives what one that holds them gives, and holds none of them."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import random_ids, save_model, tiny_model
from tiny_patches import random_patch
from torch import Tensor
from transformers import PreTrainedModel

from unflinch.activations.gradients import fisher_metrics, refusal_gradients
from unflinch.edit.closed_form import ScoreBounds
from unflinch.edit.fine_tune import DecisionGroup, FineTuneSteps, Lesson, fine_tune
from unflinch.metrics.refusal_score import Decision
from unflinch.models import placement
from unflinch.models.fetched_weights import FetchedWeights, fetched_of, weight_of
from unflinch.models.forward import scored_hidden
from unflinch.models.generate import generate
from unflinch.models.load import LoadedModel, load_model
from unflinch.models.number_formats import NUMBER_FORMATS, not_measured
from unflinch.models.placement import Spreading
from unflinch.patch.attach import attached
from unflinch.patch.merge import merge_into_copy, merged

START = tuple(range(30, 44))
SEQUENCES = [*random_ids((20, 17, 31, 18, 25), START), *random_ids((5, 23, 3, 12, 9))]


def loaded_twice(
    family: str, folder: Path, monkeypatch: pytest.MonkeyPatch, room: int = 1
) -> tuple[LoadedModel, LoadedModel]:
    """Return a tiny model that holds its weights, and one that has room for as many layers, and for one that runs."""
    load = partial(load_model, str(save_model(tiny_model(family), folder)), dtype="float32", device="cpu")
    held = load()
    layers = [4 * sum(p.numel() for p in layer.parameters()) for layer in held.model.get_decoder().layers]
    others = 4 * held.parameters - sum(layers)
    monkeypatch.setattr(placement, "_left", lambda _device, _spreading: others + (room + 1) * max(layers))
    return held, load(spread=Spreading("devices"))


def fetched_layers(model: PreTrainedModel) -> list[int]:
    layers = model.get_decoder().layers
    return [number for number, layer in enumerate(layers) if any(p.is_meta for p in layer.parameters())]


def counted(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the name of every weight that is fetched from now on."""
    fetched, names = fetched_of(model), []
    assert fetched is not None
    inner = FetchedWeights.__getitem__
    monkeypatch.setattr(FetchedWeights, "__getitem__", lambda self, name: names.append(name) or inner(self, name))
    return names


def score(logits: Tensor, paths: object) -> Tensor:
    """Return half the sum of logits, whatever has been read: any refusal score would do."""
    del paths
    return logits[:, -1].sum(-1) / 2


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "qwen3_moe"])
@pytest.mark.parametrize("room", [0, 1])
def test_states_and_answers_are_those_of_the_model_that_holds_its_weights(
    family: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, spread = loaded_twice(family, tmp_path, monkeypatch, room)
    assert fetched_layers(spread.model) == list(range(3 - room))  # the upper ones are held
    assert spread.base_hash == held.base_hash
    with torch.no_grad():
        found, expected = (scored_hidden(loaded.model, SEQUENCES, 2) for loaded in (spread, held))
    assert torch.equal(found, expected)
    answers = [generate(loaded.model, loaded.tokenizer, SEQUENCES, 4) for loaded in (spread, held)]
    assert answers[0] == answers[1]
    assert fetched_layers(spread.model) == list(range(3 - room))


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "qwen3_moe"])
def test_gradients_are_too_and_autograd_holds_no_fetched_weight(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, spread = loaded_twice(family, tmp_path, monkeypatch)
    writer = "self_attn.o_proj" if family == "qwen3_moe" else "mlp.down_proj"
    modules = [f"model.layers.{number}.{writer}" for number in range(3)]
    decisions = [Decision(ids) for ids in SEQUENCES]
    alive: list[weakref.ref[Tensor]] = []
    note = FetchedWeights.use

    def use(self: FetchedWeights, name: str, weight: Tensor) -> int:
        alive.append(weakref.ref(weight))
        return note(self, name, weight)

    monkeypatch.setattr(FetchedWeights, "use", use)
    most = 0

    def watched(logits: Tensor, paths: object) -> Tensor:
        nonlocal most
        gc.collect()
        most = max(most, sum(weight() is not None for weight in alive))
        return score(logits, paths)

    found = refusal_gradients(spread.model, spread.architecture, modules, decisions, watched, rank=4)
    expected = refusal_gradients(held.model, held.architecture, modules, decisions, score, rank=4)
    assert alive and most == 0
    for name in modules:
        whole, reference = (g.outputs[name].transpose(1, 2) @ g.inputs[name] for g in (found, expected))
        torch.testing.assert_close(whole, reference, rtol=1e-4, atol=1e-6)


def test_layers_are_fetched_again_on_the_way_back_only_where_gradients_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spread = loaded_twice("qwen2", tmp_path, monkeypatch, room=0)
    names = counted(spread.model, monkeypatch)
    refusal_gradients(
        spread.model, spread.architecture, ["model.layers.1.mlp.down_proj"], [Decision(SEQUENCES[0])], score
    )
    times = {layer: names.count(f"model.layers.{layer}.mlp.up_proj.weight") for layer in range(3)}
    assert times == {0: 1, 1: 2, 2: 2}


def test_a_patch_is_fitted_on_fetched_layers_as_on_held_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for loaded in loaded_twice("qwen2", tmp_path, monkeypatch, room=0):
        patch = random_patch(loaded.model, base_hash=loaded.base_hash)
        model = loaded.model
        metrics = fisher_metrics(
            model,
            loaded.architecture,
            list(patch.factors),
            SEQUENCES,
            2,
            input_shrinkage=0.1,
            output_shrinkage=0.1,
            seed=0,
        )
        with torch.no_grad():
            ordinary = scored_hidden(model, SEQUENCES[:3], 3)
        bounds = ScoreBounds(torch.full((7,), -torch.inf), torch.full((7,), -5.0))
        lesson = Lesson(
            [Decision(s) for s in SEQUENCES[3:]], bounds, [DecisionGroup(range(7), 1.0)], SEQUENCES[:3], ordinary
        )
        made.append(fine_tune(model, patch, lesson, metrics, score, FineTuneSteps(2, 4, 0.1, 1.0)))
    held, spread = made
    for name, factors in held.factors.items():
        torch.testing.assert_close(spread.factors[name].a, factors.a, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(spread.factors[name].b, factors.b, rtol=1e-3, atol=1e-5)


def test_a_merged_copy_is_the_same_file_and_the_weights_are_fetched_as_before_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for place, loaded in enumerate(loaded_twice("qwen2", tmp_path / "model", monkeypatch)):
        patch = random_patch(loaded.model, base_hash=loaded.base_hash)
        out = merge_into_copy(loaded, patch, tmp_path / f"merged-{place}", lambda _: "card")
        files.append(load_file(out / "model.safetensors"))
        with torch.no_grad(), attached(loaded.model, patch):
            expected = scored_hidden(loaded.model, SEQUENCES, 1)
        before = {name: weight_of(loaded.model, f"{name}.weight") for name in patch.factors}
        with torch.no_grad(), merged(loaded.model, patch, 1.0):
            torch.testing.assert_close(scored_hidden(loaded.model, SEQUENCES, 1), expected, rtol=1e-3, atol=1e-4)
        assert all(torch.equal(weight_of(loaded.model, f"{name}.weight"), own) for name, own in before.items())
    held, spread = files
    assert held.keys() == spread.keys()
    assert all(torch.equal(held[name], spread[name]) for name in held)


def test_number_formats_say_why_they_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, spread = loaded_twice("qwen2", tmp_path, monkeypatch)
    assert not_measured(NUMBER_FORMATS[0], held.model, held.architecture) is None
    assert "layers" in str(not_measured(NUMBER_FORMATS[0], spread.model, spread.architecture))
