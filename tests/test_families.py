"""Every row of the table of architectures, on a tiny model: what its layers write, its logits, its answers, a fit."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_models import WIDTH, own_logits, random_ids, save_model, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.activations.gradients import refusal_gradients
from unflinch.activations.scratch_space import in_memory
from unflinch.artifacts import RefusalSubspace
from unflinch.errors import ArchitectureError
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.models import placement
from unflinch.models.architecture import architecture_of
from unflinch.models.families import ARCHITECTURES
from unflinch.models.forward import logits_from_hidden, read_lower_layers, scored_hidden
from unflinch.models.generate import generate
from unflinch.models.hooks import ablated_direction, check_writers, recorded_layer_outputs
from unflinch.models.layers import blocks_of, decoder_layers
from unflinch.models.load import LoadedModel, load_model
from unflinch.models.lower_layers import LowerLayers
from unflinch.models.placement import Spreading
from unflinch.models.writers import choose_writers
from unflinch.options import FitOptions
from unflinch.patch.attach import attached
from unflinch.patch.save import save_patch
from unflinch.steps.fit import closed_form_round
from unflinch.steps.fit_inputs import FitInputs, Kind, module_metrics
from unflinch.steps.scan import Scan

SEES_IMAGES = {
    "gemma3": "gemma3_text",
    "mistral3": "ministral3",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
}
"""Models around a text part that has a row."""
FAMILIES = [*(sorted(ARCHITECTURES.keys() - {"qwen2_5_vl_text", "qwen3_vl_text"})), *SEES_IMAGES]
PASSED_IN_FULL = {"bamba", "gemma4_text"}
"""Families whose upper layers cannot go on from the residual stream alone."""
START = (11, 7, 5, 3, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49)
"""Longer than the sliding window of the tiny models."""
ALIKE = random_ids((20, 17, 31), START)
DIFFERENT = random_ids((5, 23, 3, 12))


@lru_cache(maxsize=1)
def model_of(family: str) -> PreTrainedModel:
    """Return the tiny model of a family, made once: all tests of a family follow each other."""
    return tiny_model(family)


@lru_cache(maxsize=1)
def logits_one_by_one(family: str) -> list[Tensor]:
    return [own_logits(model_of(family), ids) for ids in (*DIFFERENT, *ALIKE)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("family", FAMILIES, scope="module")


def test_what_a_row_names_is_all_that_a_layer_writes(family: str) -> None:
    model = model_of(family)
    row = architecture_of(model)
    assert (row.source, row.blocks) == ("table", ARCHITECTURES[SEES_IMAGES.get(family, family)].blocks)
    assert {block for layer in decoder_layers(model, row) for block in blocks_of(layer, row)} == set(row.blocks)
    check_writers(model, row)
    for block in row.blocks:
        others = tuple(other for other in row.blocks if other.output != block.output or not other.output)
        fewer = replace(row, blocks=tuple(other for other in others if other != block))
        with pytest.raises(ArchitectureError, match="are not all that layer . writes"):
            check_writers(model, fewer)


def test_a_direction_that_is_taken_out_is_in_no_layers_output(family: str) -> None:
    model = model_of(family)
    row, unit = architecture_of(model), nn.functional.normalize(torch.ones(WIDTH), dim=0)
    with ablated_direction(model, row, unit), recorded_layer_outputs(model, row) as outputs:
        own_logits(model, DIFFERENT[3])
    for output in outputs:
        assert (output @ unit).abs().max() < 1e-5 * output.norm(dim=-1).max()
    assert torch.equal(own_logits(model, DIFFERENT[3]), logits_one_by_one(family)[3])


def test_logits_padded_and_behind_a_shared_start_equal_the_models_own(family: str) -> None:
    model, expected = model_of(family), logits_one_by_one(family)
    with torch.no_grad():
        logits = logits_from_hidden(model, scored_hidden(model, [*DIFFERENT, *ALIKE], 2, batch_tokens=100))
    scale = max(float(own.abs().max()) for own in expected)
    for ours, own in zip(logits, expected, strict=True):
        torch.testing.assert_close(ours, own[-2:], rtol=1e-4, atol=2e-5 * scale)


def test_layers_may_be_fetched_while_they_run(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = model_of(family), [*DIFFERENT, *ALIKE]
    monkeypatch.setattr(placement, "place_layers", lambda layers, _others, _room: ["disk"] * len(layers))
    save_model(model, tmp_path)
    fetching = load_model(str(tmp_path), dtype="float32", device="cpu", spread=Spreading("devices"))
    row = architecture_of(model)
    assert all(p.is_meta for layer in decoder_layers(fetching.model, row) for p in layer.parameters())
    modules = choose_writers(model, row, range(len(decoder_layers(model, row))), "all").modules
    states, gradients = [], []
    for own in (model, fetching.model):
        with torch.no_grad():
            states.append(scored_hidden(own, prompts, 2))
        decisions = [Decision(ids) for ids in prompts]
        gradients.append(refusal_gradients(own, row, modules, decisions, lambda logits, _: logits[:, -1].sum(-1)))
    assert torch.equal(*states)
    assert all(torch.equal(gradients[0].outputs[name], gradients[1].outputs[name]) for name in modules)


def test_layers_below_a_patch_are_passed_once_where_the_rest_can_go_on_from_them(family: str) -> None:
    model = model_of(family)
    row = architecture_of(model)
    prompts = [*DIFFERENT, *ALIKE]
    last = choose_writers(model, row, [len(decoder_layers(model, row)) - 1], "all").modules
    lower = LowerLayers(model, row, last)
    read_lower_layers(model, lower, prompts)
    with torch.no_grad():
        expected = scored_hidden(model, prompts, 2)
        torch.testing.assert_close(scored_hidden(model, prompts, 2, lower=lower), expected, rtol=1e-4, atol=2e-5)
    assert lower.none == (family in PASSED_IN_FULL)


def test_answers_equal_greedy_decoding_without_a_cache_also_when_a_row_ends_early(family: str) -> None:
    model, prompts = model_of(family), [ALIKE[0], DIFFERENT[0], DIFFERENT[1]]
    tokenizer = tiny_tokenizer()
    expected = []
    for prompt in prompts:
        ids = prompt
        for _ in range(3):
            ids = (*ids, int(own_logits(model, ids)[-1].argmax()))
        expected.append(ids[len(prompt) :])
    model.generation_config.eos_token_id = None
    tokenizer.eos_token_id = expected[1][1]
    ends = [answer.index(expected[1][1]) if expected[1][1] in answer else 3 for answer in expected]
    assert ends[1] < 2
    assert generate(model, tokenizer, prompts, 3) == [answer[:end] for answer, end in zip(expected, ends, strict=True)]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's
def test_a_fit_lowers_refusal_scores_and_is_a_peft_patch_that_leaves_no_trace(family: str, tmp_path: Path) -> None:
    model, base = model_of(family), logits_one_by_one(family)
    prompts = [*DIFFERENT, *ALIKE]
    openings = RefusalOpenings(nn.functional.one_hot(base[0][-1].argmax(), base[0].shape[1]).float())
    refused = openings.score(torch.stack([logits[-1] for logits in base])).argsort(descending=True)[:3].tolist()
    kinds = torch.tensor([Kind.TARGET if row in refused else Kind.KEEP for row in range(len(prompts))])
    loaded = LoadedModel(model, tiny_tokenizer(), architecture_of(model), "tiny", "tiny", None, "hash")
    layers = tuple(range(loaded.depth))
    scan = Scan(RefusalSubspace(torch.zeros(len(layers), 1, 1), "", 0, layers, 1.0), (), torch.zeros(1), 0, openings)
    options = FitOptions(rank=8, answer_tokens=2, goal=-100.0, largest_drop=0.1, keep_margin=0.0)
    metrics = module_metrics(loaded, scan, random_ids((6, 9, 12), seed=1), in_memory(), options, lambda *_: None)
    decisions = [Decision(ids) for ids in prompts]
    inputs = FitInputs(metrics, decisions, kinds, torch.zeros(len(kinds), dtype=torch.bool), ())
    patch = closed_form_round(loaded, inputs, scan, in_memory(), None, options, lambda _: None).patch

    def scores() -> Tensor:
        return openings.score(torch.stack([own_logits(model, ids)[-1] for ids in prompts]))

    before = scores()
    with attached(model, patch) as live:
        change = scores() - before
        with live.disabled():
            assert torch.equal(own_logits(model, prompts[1]), base[1])
        patched = own_logits(model, prompts[1])
    kept = [row for row in range(len(prompts)) if row not in refused]
    assert change[refused].max() < -0.05, (before, change)
    assert change[kept].min() > -0.05, (before, change)
    assert torch.equal(own_logits(model, prompts[1]), base[1])
    with_peft = PeftModel.from_pretrained(tiny_model(family), save_patch(patch, tmp_path, "tiny")).eval()
    torch.testing.assert_close(own_logits(with_peft, prompts[1]), patched, rtol=1e-4, atol=1e-4)
    with with_peft.disable_adapter():
        assert torch.equal(own_logits(with_peft, prompts[1]), base[1])
