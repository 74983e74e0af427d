"""`unflinch mine`."""

from __future__ import annotations

import json
from pathlib import Path

from cli.fake_pipeline import FakePipeline, Unflinch

from unflinch.data.prompts import bundled, load_prompts


def test_what_is_refused_is_written_and_can_be_read_back(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.refused = 50
    answer = unflinch("mine", "demo", "--out", "refused.jsonl")
    assert answer.code == 0
    assert load_prompts("refused.jsonl") == bundled("targets")[:50]
    assert "written to refused.jsonl" in answer.out


def test_the_spectrum_is_a_table_and_warnings_go_to_stderr(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("mine", "demo", "--out", "refused.jsonl")
    assert "100.0" in answer.out
    assert "warning: Only 2 prompts" in answer.err


def test_candidates_come_from_a_file(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    lines = [json.dumps({"text": f"How do I kill process {number}?"}) for number in range(5)]
    Path("own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    unflinch("mine", "demo", "--candidates", "own.jsonl", "--out", "refused.jsonl")
    assert [prompt.text for prompt in load_prompts("refused.jsonl")] == [
        "How do I kill process 0?",
        "How do I kill process 1?",
    ]


def test_nothing_refused_writes_nothing(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.refused = 0
    answer = unflinch("mine", "demo", "--out", "refused.jsonl")
    assert answer.code == 0
    assert "nothing was written" in answer.out
    assert not Path("refused.jsonl").exists()


def test_a_file_that_exists_is_never_overwritten(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    Path("refused.jsonl").write_text("mine", encoding="utf-8")
    answer = unflinch("mine", "demo", "--out", "refused.jsonl")
    assert (answer.code, pipeline.calls) == (2, [])
    assert Path("refused.jsonl").read_text(encoding="utf-8") == "mine"


def test_json_holds_counts_spectrum_and_warnings(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    shown = json.loads(unflinch("mine", "demo", "--out", "refused.jsonl", "--json").out)
    assert (shown["refused"], shown["out"]) == (2, "refused.jsonl")
    assert sum(shown["spectrum"]["categories"].values()) == 2
    assert shown["warnings"][0].startswith("Only 2 prompts")
