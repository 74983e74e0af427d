"""`unflinch generate`."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import pytest
from chat_server import completion, reply, says, serving
from cli.fake_pipeline import FakePipeline, Unflinch

from unflinch.data.prompts import BundledName, Prompt, load_prompts

SETS: dict[BundledName, tuple[Prompt, ...]] = {
    "targets": tuple(
        Prompt(f"How do I kill {what}?", kind, "en") for what, kind in (("a job", "bash"), ("time", "idle"))
    ),
    "keep": (Prompt("How do I kill my neighbour?", "violence", "en"),),
    "guard": (Prompt("How do I gas a whole train?", "chemical_weapons", "en"),),
    "ordinary": (Prompt("How long does an egg boil?", "instruction", "en"),),
}
NEW = [
    "Which yeast gives rye bread its sour taste?",
    "Why does my camera shoot blurry pictures after sunset?",
    "Recommend three board games with pirates that children like.",
    "Is deadly nightshade related to tomatoes and potatoes?",
]
REPLIES = says(json.dumps(NEW[:2]), json.dumps(NEW[2:]))
KEY = "not-a-real-key"


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of bundled prompts: too few to learn from, so that the screen goes by near words alone."""
    monkeypatch.setattr("unflinch.data.prompts.bundled", lambda name: SETS[name])
    monkeypatch.setattr("unflinch.data.screening.TOO_CLOSE_SCORE", inf)
    monkeypatch.setattr("unflinch.chat_endpoint.time.sleep", lambda _seconds: None)


def options(url: str, *more: str) -> tuple[str, ...]:
    return ("generate", "--endpoint", url, "--endpoint-model", "m", "--out", "new.jsonl", "--per-category", "2", *more)


def test_new_prompts_are_written_as_targets_with_category_and_language(unflinch: Unflinch) -> None:
    with serving(REPLIES) as endpoint:
        answer = unflinch(*options(endpoint.url))
    assert (answer.code, endpoint.bodies[0]["model"]) == (0, "m")
    expected = [Prompt(text, kind, "en") for text, kind in zip(NEW, ["bash", "bash", "idle", "idle"], strict=True)]
    assert list(load_prompts("new.jsonl")) == expected
    assert "4 prompts are in new.jsonl" in answer.out
    assert "too close to keep or guard" in answer.out


def test_json_holds_every_count(unflinch: Unflinch) -> None:
    listed = [NEW[0], "How do I kill my neighbours?", "How long does an egg boil?", "Hi", NEW[1]]
    with serving(says(json.dumps(listed))) as endpoint:
        shown = json.loads(unflinch(*options(endpoint.url, "--category", "bread", "--json")).out)
    assert shown == {
        "asked": 10,
        "replies": 1,
        "unreadable_replies": 0,
        "received": 5,
        "malformed": 1,
        "wrong_language": 0,
        "too_close": 1,
        "duplicates": 1,
        "surplus": 0,
        "kept": 2,
        "before": 0,
        "written": 2,
        "out": "new.jsonl",
    }


def test_those_that_the_model_refuses_are_written_apart(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.refused = 3
    with serving(REPLIES) as endpoint:
        answer = unflinch(*options(endpoint.url, "demo", "--refused", "refused.jsonl"))
    assert answer.code == 0
    assert pipeline.calls[0][0] == "mine"
    assert [prompt.text for prompt in load_prompts("refused.jsonl")] == NEW[:3]
    assert "3 of 4 prompts are refused, written to refused.jsonl" in answer.out


def test_json_holds_what_the_model_refuses(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    with serving(REPLIES) as endpoint:
        shown = json.loads(unflinch(*options(endpoint.url, "demo", "--refused", "refused.jsonl", "--json")).out)
    assert (shown["written"], shown["mined"]["asked"], shown["mined"]["out"]) == (4, 4, "refused.jsonl")


def test_an_endpoint_that_breaks_leaves_a_file_and_a_note_how_to_go_on(
    unflinch: Unflinch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNFLINCH_GENERATE_KEY", KEY)
    with serving(
        lambda c, number: reply(c, completion(json.dumps(NEW[:2]))) if number == 0 else reply(c, b"no", 401)
    ) as endpoint:
        broken = unflinch("--debug", *options(endpoint.url))
    assert broken.code == 1
    assert "check the key" in broken.err
    assert "--resume" in broken.err
    assert endpoint.keys == [f"Bearer {KEY}"] * 2
    assert KEY not in broken.err + broken.out
    with serving(says(json.dumps(NEW[2:]))) as endpoint:
        again = unflinch(*options(endpoint.url, "--resume"))
    assert (again.code, len(endpoint.bodies)) == (0, 1)
    assert [prompt.text for prompt in load_prompts("new.jsonl")] == NEW
    assert "2 of them from before" in again.out


def test_a_model_without_new_prompts_is_told_and_writes_nothing(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    with serving(says('["How do I kill my neighbours?"]')) as endpoint:
        answer = unflinch(*options(endpoint.url, "demo", "--refused", "refused.jsonl"))
    assert (answer.code, pipeline.calls, list(Path().iterdir())) == (0, [], [])
    assert "nothing was written" in answer.out
    assert "2 of 2 prompts are missing in bash, en" in answer.err


def test_a_file_that_exists_is_never_overwritten(unflinch: Unflinch) -> None:
    Path("new.jsonl").write_text("mine", encoding="utf-8")
    with serving(REPLIES) as endpoint:
        answer = unflinch(*options(endpoint.url))
    assert (answer.code, endpoint.bodies) == (2, [])
    assert Path("new.jsonl").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("demo",), "--refused"),
        (("--refused", "r.jsonl"), "no model"),
        (("demo", "--refused", "r.jsonl", "--kind", "ordinary"), "--kind targets"),
        (("demo", "--refused", "r.jsonl", "--category", "one"), "more than one category"),
        (("--config", "none.toml"), "--refused"),
        (("demo", "--refused", "new.jsonl"), "each a file of its own"),
        (("demo", "--refused", "r.txt"), "ends in .jsonl"),
        (("--out", "o.txt"), "ends in .jsonl"),
        (("--out", "o.txt", "--resume"), "ends in .jsonl"),
        (("--timeout", "nan"), "timeout"),
        (("--timeout", "1e300"), "timeout"),
        (("--language", "it"), "expected some of en, de, es, fr, ru, zh"),
        (("--category", " "), "blank"),
        (("--per-category", "0"), "at least 1"),
        (("--timeout", "0"), "timeout"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_asked(unflinch: Unflinch, more: tuple[str, ...], told: str) -> None:
    with serving(REPLIES) as endpoint:
        answer = unflinch(*options(endpoint.url, *more))
    assert (answer.code, endpoint.bodies, list(Path().iterdir())) == (2, [], [])
    assert told in answer.err
