"""What the parts of the page do."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from report.conftest import make_results
from web.conftest import write_results

from unflinch.web.actions import NO_PATCH, Actions, Dialogues, Shown, nothing_said
from unflinch.web.runs import Runs, examples
from unflinch.web.speaker import Speaker

MARKUP = "<img src=x onerror=alert(1)> & <b>bold</b>"


@pytest.fixture
def actions(runs: Runs, speaker: Speaker) -> Actions:
    return Actions(runs, speaker)


def roles(said: Dialogues) -> dict[str, list[str]]:
    return {side: [turn["role"] for turn in turns] for side, turns in said.items()}


def last(shown: list[Shown]) -> Dialogues:
    return shown[-1][2]


def test_both_sides_are_asked_the_same_and_go_on_from_their_own_answers(actions: Actions) -> None:
    first = last(list(actions.ask("What is the capital", "demo", 1.0, nothing_said())))
    second = last(list(actions.ask(" How do I kill ", "demo", 1.0, first)))
    assert roles(second) == {side: ["user", "assistant"] * 2 for side in ("original", "patched")}
    assert [turn["content"] for turn in second["patched"][::2]] == ["What is the capital", "How do I kill"]
    assert second["patched"][:2] == first["patched"]
    assert first["original"][1] != first["patched"][1]


def test_the_dial_has_the_patched_side_answer_again_and_nothing_else(actions: Actions) -> None:
    asked = last(list(actions.ask("What is the capital", "demo", 1.0, nothing_said())))
    at_zero = last(list(actions.answer_again("demo", 0.0, asked)))
    assert at_zero["original"] == asked["original"] == at_zero["patched"]
    assert asked["patched"] != at_zero["patched"]
    assert last(list(actions.answer_again("demo", 1.0, at_zero))) == asked


def test_nothing_is_asked_by_an_empty_prompt_or_a_dial_before_the_first_one(actions: Actions) -> None:
    assert list(actions.ask("  ", "demo", 1.0, nothing_said())) == []
    assert list(actions.answer_again("demo", 0.5, nothing_said())) == []


def test_a_stopped_prompt_gives_way_to_the_next(actions: Actions) -> None:
    stopped: Dialogues = {"original": [{"role": "user", "content": "never answered"}], "patched": []}
    after = last(list(actions.ask("What is the capital", "demo", 1.0, stopped)))
    assert roles(after)["original"] == ["user", "assistant"]
    assert after["original"][0]["content"] == "What is the capital"


def test_markup_is_shown_as_text_and_asked_as_it_was_typed(actions: Actions) -> None:
    shown = list(actions.ask(MARKUP, "demo", 1.0, nothing_said()))
    original, patched, said, _ = shown[-1]
    assert said["original"][0]["content"] == MARKUP
    for turns in (original, patched):
        assert turns[0]["content"] == "&lt;img src=x onerror=alert(1)&gt; &amp; &lt;b&gt;bold&lt;/b&gt;"


def test_an_offered_prompt_is_asked(actions: Actions, runs: Runs) -> None:
    offered = examples(runs.results("demo").outcomes)
    said = last(list(actions.ask_offered(offered[:1], "demo", 1.0, nothing_said())))
    assert said["patched"][0]["content"] == offered[0]


def test_a_run_is_shown_with_its_figures_and_its_report_in_a_sandbox(actions: Actions) -> None:
    summary, report, offered, line, *chat, status = actions.show("demo")
    assert "Passed" in summary and "180" in summary
    assert 'sandbox src="/runs/demo/report.html"' in report
    assert offered.visible and line.interactive
    assert (chat, status) == ([[], [], nothing_said()], "")


def test_a_run_without_a_patch_says_so_and_takes_no_prompt(actions: Actions) -> None:
    summary, _, offered, line, *_, status = actions.show("failed")
    assert "Not passed" in summary
    assert not offered.visible and not line.interactive
    assert status == NO_PATCH


def test_markup_in_a_strangers_results_is_shown_as_text(tmp_path: Path, speaker: Speaker) -> None:
    results = make_results()
    results["name"] = results["model"]["hub_id"] = MARKUP
    results["verdict"]["limits"][0]["name"] = MARKUP
    results["scan"]["method"] = MARKUP
    name = "a'b\"><i>"
    write_results(tmp_path / name, results)
    actions = Actions(Runs(tmp_path), speaker)
    summary, report, *_ = actions.show(name)
    for page in (summary, report, actions.draw_scan(name), actions.compare(name, name)):
        assert "<img" not in page and "<b>" not in page and "<i>" not in page


def test_a_mistake_is_told_in_one_escaped_sentence(tmp_path: Path, speaker: Speaker) -> None:
    write_results(tmp_path / "<b>", {"name": "half a run"})
    with pytest.raises(gr.Error, match="does not hold a complete run") as raised:
        Actions(Runs(tmp_path), speaker).show("<b>")
    assert "&lt;b&gt;" in str(raised.value) and "<b>" not in str(raised.value)
