"""The model card of a patch."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from report.conftest import without_what_came_later

from unflinch.errors import RunFolderError
from unflinch.provenance import Kind, Provenance, to_json
from unflinch.report.model_card import export_card, model_card
from unflinch.report.provenance import patch_provenance


def front_matter(card: str) -> dict[str, Any]:
    """What the Hub reads, as its own library reads it."""
    return dict(vars(ModelCard(card).data))


def code_blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def table_rows(card: str) -> list[str]:
    return [
        line for line in card.splitlines() if line.startswith("| ") and re.search(r"\| (pass|\*\*fail\*\*) \|$", line)
    ]


def test_the_hub_reads_the_front_matter(results: dict[str, Any]) -> None:
    data = front_matter(model_card(results))
    assert data["base_model"] == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert data["base_model_relation"] == "adapter"
    assert data["library_name"] == "peft"
    assert "unflinch" in data["tags"]


@pytest.mark.parametrize("path", ["/home/anna/models/my-model", "./models/my-model/", "C:\\Users\\anna\\my-model"])
def test_a_local_path_is_not_told_to_strangers(results: dict[str, Any], path: str) -> None:
    results["model"] |= {"id": path, "hub_id": None}
    card = model_card(results)
    assert "my-model" in card
    assert "anna" not in card
    assert "./models" not in card
    assert front_matter(card)["base_model"] is None


def test_the_code_is_python_and_loads_the_named_model(results: dict[str, Any]) -> None:
    loading, switching_off = code_blocks(model_card(results))
    assert ast.parse(loading)
    assert ast.parse(switching_off)
    assert 'base = "Qwen/Qwen2.5-Coder-0.5B-Instruct"' in loading
    assert 'revision="ea3f2471cf1b"' in loading
    assert "unflinch" not in loading


def test_a_converted_model_names_where_it_comes_from_and_loads_its_folder(results: dict[str, Any]) -> None:
    results["model"]["id"] = "demo"
    card = model_card(results)
    assert front_matter(card)["base_model"] == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert 'base = "path/to/Qwen2.5-Coder-0.5B-Instruct"' in code_blocks(card)[0]
    assert "adapter_config.json" in card


def test_every_limit_has_its_row(results: dict[str, Any]) -> None:
    card = model_card(results)
    assert len(table_rows(card)) == len(results["verdict"]["limits"])
    assert "**Passed.**" in card
    assert "Of 180 harmless test questions that the base model refuses, 7 are still refused" in card


def test_the_card_names_the_residual_writers_that_are_changed(results: dict[str, Any]) -> None:
    assert r"| Residual writers considered | mlp.down\_proj in 8 of 24 layers; not: self\_attn" in model_card(results)


def test_dialogues_are_in_the_card_of_a_run_that_led_some(results: dict[str, Any]) -> None:
    sentence = "In 24 ordinary dialogues of 3 turns"
    assert sentence in model_card(results)
    assert "in 0 of them" in model_card(results)
    assert sentence not in model_card(without_what_came_later(results))


def test_a_name_with_a_pipe_or_a_line_break_stays_in_its_row(results: dict[str, Any]) -> None:
    results["verdict"]["limits"][0]["name"] = "a | b\n| c <b>"
    card = model_card(results)
    assert len(table_rows(card)) == len(results["verdict"]["limits"])
    assert "A \\| b \\| c \\<b>" in card


def test_a_failed_patch_says_not_to_use_it(failed_results: dict[str, Any]) -> None:
    card = model_card(failed_results)
    assert "**Not passed: do not use this patch.**" in card
    assert "**Passed.**" not in card
    assert sum("**fail**" in row for row in table_rows(card)) == 1


def test_the_card_says_truly_whether_a_failed_patch_was_written(failed_results: dict[str, Any]) -> None:
    assert "No patch was exported." in model_card(failed_results)
    for limit in failed_results["verdict"]["limits"]:
        limit["passed"] = limit["name"] != "right refusals lost"
    failed_results["settings"]["validate"] = {"keep_best": True}
    card = model_card(failed_results)
    assert "written all the same, marked as failed" in card
    assert "No patch was exported." not in card and "It was written because" not in card


def test_the_limits_of_the_figures_are_stated(results: dict[str, Any]) -> None:
    card = model_card(results).replace("\N{NO-BREAK SPACE}", " ")
    assert "0 lost of 140 does not mean never: the rate is below 2.1 % at 95 % confidence" in card
    assert "not a security boundary" in card
    assert "cut after 48 tokens" in card


def test_no_prompt_and_no_answer_is_in_the_card(results: dict[str, Any]) -> None:
    card = model_card(results)
    assert not [outcome for outcome in results["outcomes"] if outcome["text"] and outcome["text"] in card]
    assert not [outcome for outcome in results["outcomes"] if outcome["after_text"] and outcome["after_text"] in card]


def test_incomplete_results_are_refused(results: dict[str, Any]) -> None:
    del results["verdict"]
    with pytest.raises(RunFolderError, match="verdict"):
        model_card(results)


def test_the_prompts_are_named_by_hash_and_count(results: dict[str, Any]) -> None:
    assert "Which prompts" not in model_card(results)
    results["data"] = {"test": {"guard": {"n": 140, "sha256": "0123456789abcdef" * 4}}}
    assert "| test | guard | 140 | `0123456789abcdef` |" in model_card(results)


def origin(results: dict[str, Any], kind: Kind, strength: float = 1.0) -> Provenance:
    return replace(patch_provenance(results), kind=kind, strength=strength)


@pytest.mark.parametrize("kind", ["merged model", "GGUF adapter"])
def test_the_card_of_an_export_repeats_the_verdict(results: dict[str, Any], kind: Kind) -> None:
    card = export_card(origin(results, kind))
    assert front_matter(card)["base_model"] == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert len(table_rows(card)) == len(results["verdict"]["limits"])
    assert "**Passed**" in card
    assert "None of it is a security boundary" in card


def test_a_merged_model_says_that_it_is_a_modified_one(results: dict[str, Any]) -> None:
    card = export_card(origin(results, "merged model", 0.5))
    assert front_matter(card)["base_model_relation"] == "finetune"
    assert "they are not the original model" in card
    assert "those of strength 1, not of 0.5" in card
    assert front_matter(export_card(origin(results, "GGUF adapter")))["base_model_relation"] == "adapter"


def test_the_card_of_an_export_does_not_look_better_than_the_verdict(
    results: dict[str, Any], failed_results: dict[str, Any]
) -> None:
    card = export_card(origin(failed_results, "merged model"))
    assert "**Not passed: do not use it**" in card
    assert sum("**fail**" in row for row in table_rows(card)) == 1
    unmeasured = export_card(replace(origin(results, "GGUF adapter"), verdict=None))
    assert "Whether right refusals are lost is not known" in unmeasured
    assert "Passed" not in unmeasured


def test_the_provenance_tells_no_place_on_the_maker_s_disk(results: dict[str, Any]) -> None:
    results["model"] |= {"id": "/home/anna/my-model", "hub_id": None}
    results["settings"] = {"model": {"model": "/home/anna/my-model"}, "prompts": {"keep": "/home/anna/keep.jsonl"}}
    record = patch_provenance(results)
    assert (record.base.name, record.base.on_hub) == ("my-model", False)
    assert "anna" not in to_json(record)
