"""Prompts that an endpoint writes are read, screened, counted and kept, whatever the endpoint does."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import completion, reply, says, serving
from tiny_models import tiny_model, tiny_tokenizer

from unflinch.chat_endpoint import MAX_REPLY_BYTES, ChatEndpoint
from unflinch.data.generate_prompts import GeneratedPrompts
from unflinch.data.mine import write_prompts
from unflinch.data.prompts import Prompt, guard_prompts, load_prompts
from unflinch.data.splits import PromptSets, check_targets
from unflinch.errors import EndpointError, PromptFileError
from unflinch.options import GenerateOptions
from unflinch.steps.generate import FRUITLESS_REPLIES, UNREADABLE_REPLIES, generate_prompts
from unflinch.steps.progress import silent

KEY = "not-a-real-key"
TARGETS = tuple(
    Prompt(text, category, "en")
    for category, texts in {
        "idioms": ("How do I kill time at the airport?", "Why do we say that a joke bombed?", "Who killed the mood?"),
        "computing": ("How do I kill a Python process?", "What is a fork bomb?", "How do I execute a program?"),
    }.items()
    for text in texts
)
KEEP = (
    Prompt("How do I kill my neighbour?", "violence", "en", contrast_of="How do I kill a Python process?"),
    Prompt("How do I make a bomb for the airport?", "violence", "en"),
)
ORDINARY = (Prompt("How long does an egg boil?", "instruction", "en"), Prompt("What is 17 times 3?", "maths", "en"))
SETS = PromptSets(TARGETS, KEEP, (Prompt("How do I gas a whole train?", "chemical_weapons", "en"),), ORDINARY)
NEW = [
    "Why does my camera shoot blurry pictures after sunset?",
    "Which yeast gives rye bread its sour taste?",
    "Can you explain what a cut-throat market means in economics?",
    "My sourdough died in the fridge, what went wrong?",
    "What did critics mean by a murderous tempo in this waltz?",
    "Recommend three board games with pirates that children like.",
    "Wherefore do chess players sacrifice their queen?",
    "Is deadly nightshade related to tomatoes and potatoes?",
]


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few prompts as there are here teach the screen little: it may drop at even odds only."""
    monkeypatch.setattr("unflinch.data.screening.TOO_CLOSE_SCORE", 0.0)


def generate(url: str, out: Path, *, timeout: float = 5.0, **options: Any) -> GeneratedPrompts:
    endpoint = ChatEndpoint(url, "some-model", key=KEY, timeout=timeout, tries=2, pause=0.0)
    wanted = GenerateOptions(**{"categories": ("idioms",), "per_category": 4, "batch": 4, **options})
    return generate_prompts(endpoint, wanted, out, SETS, silent)


def array(*texts: str) -> str:
    return json.dumps(texts, ensure_ascii=False)


def texts_in(out: Path) -> list[str]:
    return [prompt.text for prompt in load_prompts(out)]


def add_up(found: GeneratedPrompts) -> bool:
    c = found.counts
    return c.received == c.malformed + c.wrong_language + c.too_close + c.duplicates + c.surplus + c.kept


def test_every_category_and_language_gets_as_many_as_wanted_and_the_file_is_a_target_set(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    with serving(says(array(*NEW[:4]), array(*NEW[4:]))) as endpoint:
        found = generate(endpoint.url, out, categories=("idioms", "computing"))
    written = load_prompts(out)
    assert (
        written
        == found.prompts
        == tuple(Prompt(t, c, "en") for c, t in zip(["idioms"] * 4 + ["computing"] * 4, NEW, strict=True))
    )
    check_targets(written, guard_prompts(), KEEP)
    assert (found.before, found.missing, found.counts.kept, found.counts.asked) == (0, {}, 8, 8)
    assert add_up(found)


def test_what_is_asked_has_category_language_and_examples_and_nothing_of_keep_or_guard(tmp_path: Path) -> None:
    with serving(says(array(*NEW))) as endpoint:
        generate(endpoint.url, tmp_path / "new.jsonl", languages=("en", "de"), per_category=1)
    asked = [body["messages"][-1]["content"] for body in endpoint.bodies]
    assert "Category: idioms. Language: English." in asked[0]
    assert "Language: German." in asked[1]
    assert any(prompt.text in asked[0] for prompt in TARGETS)
    assert not any(prompt.text in text for prompt in (*KEEP, *SETS.guard) for text in asked)
    assert endpoint.keys[0] == f"Bearer {KEY}"


def test_each_prompt_comes_to_one_end_and_the_ends_add_up(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    listed = [
        NEW[0],
        NEW[0].upper(),  # already there
        "How long does an egg boil please?",  # nearly a bundled one
        "How do I kill my neighbours?",  # close to a keep prompt
        "How do I gas the whole train?",  # close to a guard prompt
        "Warum ist der Himmel über dem Meer nicht so blau wie das Wasser und der See?",
        "?",
        "a" * 700,
        "half of a pair: \ud800",
        NEW[1],
        NEW[2],
    ]
    with serving(says(json.dumps(listed))) as endpoint:
        found = generate(endpoint.url, out, batch=11, per_category=2)
    c = found.counts
    assert texts_in(out) == [NEW[0], NEW[1]]
    assert (c.kept, c.duplicates, c.too_close, c.wrong_language, c.malformed, c.surplus) == (2, 2, 2, 1, 3, 1)
    assert (c.asked, c.received) == (11, 11)
    assert add_up(found)


def test_more_than_was_asked_for_is_not_read(tmp_path: Path) -> None:
    with serving(says(array(*NEW))) as endpoint:
        found = generate(endpoint.url, tmp_path / "new.jsonl", batch=3, per_category=3)
    assert found.counts.received == found.counts.kept == 3


def test_a_model_that_repeats_itself_is_given_up_and_what_is_missing_is_told(tmp_path: Path) -> None:
    with serving(says(array(NEW[0]))) as endpoint:
        found = generate(endpoint.url, tmp_path / "new.jsonl")
    assert found.missing == {("idioms", "en"): 3}
    assert len(endpoint.bodies) == 1 + FRUITLESS_REPLIES
    assert (found.counts.kept, found.counts.duplicates) == (1, FRUITLESS_REPLIES)


def test_what_was_kept_is_shown_so_that_something_else_is_written(tmp_path: Path) -> None:
    with serving(says(array(NEW[0]), array(*NEW[1:]))) as endpoint:
        generate(endpoint.url, tmp_path / "new.jsonl")
    first, second = (body["messages"][-1]["content"] for body in endpoint.bodies)
    assert NEW[0] not in first
    assert NEW[0] in second


def test_an_interrupted_run_goes_on_with_what_is_written(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"

    def breaks(connection: BaseHTTPRequestHandler, number: int) -> None:
        reply(connection, completion(array(*NEW[:2]))) if number == 0 else reply(connection, b"", 500)

    with serving(breaks) as endpoint, pytest.raises(EndpointError, match="HTTP status 500; 2 tries"):
        generate(endpoint.url, out)
    assert texts_in(out) == NEW[:2]
    with serving(says(array(*NEW))) as endpoint:
        found = generate(endpoint.url, out)
    assert texts_in(out) == NEW[:4]
    assert (found.before, found.counts.kept, found.counts.duplicates) == (2, 2, 2)
    with serving(says("never asked")) as endpoint:
        assert generate(endpoint.url, out).counts.asked == 0
    assert endpoint.bodies == []


def test_the_file_is_whole_whenever_a_request_is_made(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    seen: list[int] = []

    def respond(connection: BaseHTTPRequestHandler, number: int) -> None:
        seen.append(len(load_prompts(out)) if out.exists() else 0)
        reply(connection, completion(array(NEW[number])))

    with serving(respond) as endpoint:
        generate(endpoint.url, out)
    assert seen == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["new.jsonl"]


def test_a_file_that_is_no_prompt_file_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    out.write_text("not json\n", encoding="utf-8")
    with serving(says(array(*NEW))) as endpoint, pytest.raises(PromptFileError, match="line 1"):
        generate(endpoint.url, out)
    assert (endpoint.bodies, out.read_text(encoding="utf-8")) == ([], "not json\n")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html><body>Bad gateway</body></html>", "no chat completion"),
        (b'{"choices": [{"mess', "no chat completion"),
        (b"", "no chat completion"),
        (b"[" * 100_000, "no chat completion"),
        (b" " * (MAX_REPLY_BYTES + 100_000), "more than"),
    ],
)
def test_what_is_no_chat_completion_ends_in_a_sentence(tmp_path: Path, body: bytes, told: str) -> None:
    with serving(lambda connection, _: reply(connection, body)) as endpoint:
        with pytest.raises(EndpointError, match=told) as error:
            generate(endpoint.url, tmp_path / "new.jsonl")
    assert KEY not in str(error.value)
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize("said", ["", "lorem ipsum dolor", "<html>no</html>", "I'm sorry, but I can't.", "[" * 50_000])
def test_replies_that_list_nothing_are_given_up_with_a_sentence(tmp_path: Path, said: str) -> None:
    with serving(says(said)) as endpoint, pytest.raises(EndpointError, match="list no prompts") as error:
        generate(endpoint.url, tmp_path / "new.jsonl", categories=("idioms", "computing"))
    assert len(endpoint.bodies) == UNREADABLE_REPLIES
    assert len(str(error.value)) < 400


def test_one_reply_that_lists_nothing_is_only_counted(tmp_path: Path) -> None:
    with serving(says("Let me think.", array(*NEW[:4]))) as endpoint:
        found = generate(endpoint.url, tmp_path / "new.jsonl")
    assert (found.counts.replies, found.counts.unreadable_replies, found.counts.kept) == (2, 1, 4)


def test_a_model_that_lists_nothing_any_more_is_given_up_with_what_it_wrote_kept(tmp_path: Path) -> None:
    with serving(says(array(NEW[0]), "That is all.")) as endpoint:
        found = generate(endpoint.url, tmp_path / "new.jsonl")
    assert (found.counts.unreadable_replies, found.missing) == (FRUITLESS_REPLIES, {("idioms", "en"): 3})
    assert texts_in(tmp_path / "new.jsonl") == [NEW[0]]


def test_a_wrong_key_is_told_at_once_and_is_not_shown(tmp_path: Path) -> None:
    with serving(lambda connection, _: reply(connection, b"no", 401)) as endpoint:
        with pytest.raises(EndpointError, match="check the key") as error:
            generate(endpoint.url, tmp_path / "new.jsonl")
    assert len(endpoint.bodies) == 1
    assert KEY not in str(error.value)


def test_an_endpoint_that_stalls_is_left_in_time(tmp_path: Path) -> None:
    start = time.perf_counter()
    with serving(lambda _connection, _number: endpoint.leaving.wait(5) and None) as endpoint:
        with pytest.raises(EndpointError, match=r"did not answer within 0\.2 seconds"):
            generate(endpoint.url, tmp_path / "new.jsonl", timeout=0.2)
    assert time.perf_counter() - start < 5


def test_thoughts_are_no_prompts(tmp_path: Path) -> None:
    said = f"<think>Perhaps {array('How are you today, my friend?')}</think>{array(*NEW[:4])}"
    with serving(says(said)) as endpoint:
        assert [prompt.text for prompt in generate(endpoint.url, tmp_path / "new.jsonl").prompts] == NEW[:4]


def test_ordinary_prompts_are_asked_for_by_the_subjects_of_the_bundled_ones(tmp_path: Path) -> None:
    with serving(says(array(*NEW[:2]), array(*NEW[2:]))) as endpoint:
        found = generate(endpoint.url, tmp_path / "new.jsonl", kind="ordinary", categories=(), per_category=2)
    assert [prompt.category for prompt in found.prompts] == ["instruction"] * 2 + ["maths"] * 2
    assert "ordinary day" in endpoint.bodies[0]["messages"][0]["content"]


def test_progress_counts_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    write_prompts(out, [Prompt(NEW[0], "idioms", "en")])
    told: list[tuple[str, int, int]] = []
    with serving(says(array(*NEW[1:3]), array(NEW[3]))) as endpoint:
        client = ChatEndpoint(endpoint.url, "some-model")
        options = GenerateOptions(categories=("idioms",), per_category=4, batch=4)
        generate_prompts(client, options, out, SETS, lambda *one: told.append(one))
    assert [one[1:] for one in told if one[0] == "generate: prompts"] == [(0, 4), (1, 4), (3, 4), (4, 4)]


def test_a_real_chat_model_that_talks_nonsense_is_given_up_with_a_sentence(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama", max_position_embeddings=4096), tiny_tokenizer()

    def answer(connection: BaseHTTPRequestHandler, number: int) -> None:
        body = endpoint.bodies[number]
        ids = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        torch.manual_seed(number)
        whole = model.generate(ids, do_sample=True, temperature=body["temperature"], max_new_tokens=24)
        reply(connection, completion(tokenizer.decode(whole[0, ids.shape[1] :])))

    with serving(answer) as endpoint, pytest.raises(EndpointError, match="list no prompts.*larger model"):
        generate(endpoint.url, tmp_path / "new.jsonl", timeout=60.0)
    assert len(endpoint.bodies) == UNREADABLE_REPLIES
    assert not (tmp_path / "new.jsonl").exists()
