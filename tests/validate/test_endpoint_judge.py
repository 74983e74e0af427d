"""A language model behind an endpoint as judge, against a server in this process that also fails and stalls."""

from __future__ import annotations

import json
import socket
import time
from http.server import BaseHTTPRequestHandler
from itertools import product
from typing import Any

import pytest
from chat_server import Respond, completion, reply, says, serving

from unflinch.chat_endpoint import LONGEST_WAIT, MAX_REPLY_BYTES, ChatEndpoint
from unflinch.errors import ConfigError, JudgeError
from unflinch.results import LABELS
from unflinch.validate.endpoint_judge import EndpointJudge
from unflinch.validate.judges import Judge

KEY = "not-a-real-key"


def judge_at(url: str, **options: Any) -> EndpointJudge:
    return EndpointJudge(ChatEndpoint(url, "some-model", **{"pause": 0.0, "timeout": 5.0, "key": KEY, **options}))


def failure(respond: Respond, **options: Any) -> tuple[str, int]:
    """The sentence of the error, and how often the endpoint was asked."""
    with serving(respond) as endpoint:
        with pytest.raises(JudgeError) as error:
            judge_at(endpoint.url, **options)("How?", "Like this.")
    assert KEY not in str(error.value)
    return str(error.value), len(endpoint.bodies)


@pytest.mark.parametrize("label", LABELS)
def test_the_word_that_the_model_says_is_the_label(label: str) -> None:
    for said in (label, f" {label.capitalize()}.\n", f"**{label}**", f"<think>refuses? partly?</think>{label}"):
        with serving(says(said)) as endpoint:
            judgement = judge_at(endpoint.url)("How?", "Like this.")
        assert judgement.label == label
        assert 0 <= judgement.score <= 1


def test_the_score_orders_the_labels() -> None:
    with serving(says("answers", "degenerate", "evades", "partly", "refuses")) as endpoint:
        judge = judge_at(endpoint.url)
        scores = [judge("How?", "Like this.").score for _ in range(5)]
    assert scores == sorted(scores)


def test_prompt_and_visible_answer_are_sent_as_data_with_model_and_key() -> None:
    with serving(says("answers")) as endpoint:
        judge_at(endpoint.url + "/")('Say "refuses"', "<think>hm</think>Line one\nLine two")
    (body,) = endpoint.bodies
    assert (body["model"], body["temperature"]) == ("some-model", 0)
    assert json.loads(body["messages"][-1]["content"]) == {"request": 'Say "refuses"', "reply": "Line one\nLine two"}
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.keys == [f"Bearer {KEY}"]


def test_a_very_long_answer_is_sent_at_both_ends() -> None:
    words = ["".join(parts) for parts in product(("ba", "ko", "lum", "ner", "su", "tiv"), repeat=4)]
    with serving(says("answers")) as endpoint:
        judge_at(endpoint.url)("How?", " ".join(["first", *words, "last"]))
    sent = json.loads(endpoint.bodies[0]["messages"][-1]["content"])["reply"]
    assert len(sent) < 10_000
    assert sent.startswith("first ")
    assert sent.endswith(" last")


def test_an_empty_or_looping_answer_is_not_sent() -> None:
    with serving(says("answers")) as endpoint:
        judge = judge_at(endpoint.url)
        assert {judge("How?", answer).label for answer in ("", "<think>open", "so so so " * 40)} == {"degenerate"}
    assert endpoint.bodies == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_that_may_pass_is_tried_again(status: int) -> None:
    def respond(connection: BaseHTTPRequestHandler, number: int) -> None:
        reply(connection, completion("refuses"), 200 if number == 2 else status)

    with serving(respond) as endpoint:
        assert judge_at(endpoint.url)("How?", "Like this.").label == "refuses"
    assert len(endpoint.bodies) == 3


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("999999", LONGEST_WAIT), ("soon", 0), ("", 0), ("-3", 0)])
def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_asks_within_bounds(
    monkeypatch: pytest.MonkeyPatch, asked: str, waited: float
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("unflinch.chat_endpoint.time.sleep", pauses.append)
    failure(lambda connection, _: reply(connection, b"", 429, **{"Retry-After": asked}), tries=2)
    assert pauses == [waited]


def test_a_failure_that_stays_is_told_after_the_last_try() -> None:
    sentence, asked = failure(lambda connection, _: reply(connection, b"", 503), tries=2)
    assert asked == 2
    assert "503" in sentence
    assert "2 tries" in sentence


@pytest.mark.parametrize(("status", "hint"), [(401, "check the key"), (404, "check URL and model"), (400, "400")])
def test_a_refused_request_is_told_at_once(status: int, hint: str) -> None:
    sentence, asked = failure(lambda connection, _: reply(connection, b"no", status))
    assert asked == 1
    assert hint in sentence


def test_a_redirect_is_not_followed_because_the_key_would_go_along() -> None:
    with serving(says("answers")) as elsewhere:
        sentence, asked = failure(lambda c, _: reply(c, b"", 307, Location=f"{elsewhere.url}/chat/completions"))
        assert elsewhere.bodies == []
    assert (asked, "307" in sentence) == (1, True)


def test_a_model_that_babbles_once_is_asked_again() -> None:
    with serving(says("I think it may be fine", "partly")) as endpoint:
        assert judge_at(endpoint.url)("How?", "Like this.").label == "partly"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>proxy</html>",
        b"{}",
        b"[1]",
        b'{"choices": []}',
        b'{"choices": [{"message": {}}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        completion(None),
        completion(["answers"]),
        completion(""),
        completion("unanswers"),
        completion("answers or refuses"),
    ],
)
def test_nonsense_is_no_judgement(body: bytes) -> None:
    sentence, asked = failure(lambda connection, _: reply(connection, body), tries=2)
    assert asked == 2
    assert "tries were made" in sentence


def test_a_server_that_stalls_is_left_in_time() -> None:
    start = time.perf_counter()
    with serving(lambda connection, _: endpoint.leaving.wait(5) and None) as endpoint:
        with pytest.raises(JudgeError, match=r"did not answer within 0\.2 seconds"):
            judge_at(endpoint.url, timeout=0.2, tries=2)("How?", "Like this.")
    assert time.perf_counter() - start < 4


def test_a_reply_that_drips_is_left_in_time() -> None:
    def drip(connection: BaseHTTPRequestHandler, _number: int) -> None:
        connection.send_response(200)
        connection.end_headers()
        while not endpoint.leaving.wait(0.05):
            connection.wfile.write(b" ")
            connection.wfile.flush()

    start = time.perf_counter()
    with serving(drip) as endpoint:
        with pytest.raises(JudgeError, match="did not answer within"):
            judge_at(endpoint.url, timeout=0.3, tries=1)("How?", "Like this.")
    assert time.perf_counter() - start < 4


def test_a_flood_is_not_read_to_its_end() -> None:
    sentence, _ = failure(lambda connection, _: reply(connection, b" " * (2 * MAX_REPLY_BYTES)), tries=1)
    assert "more than" in sentence


def test_nobody_listening_is_told_in_a_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(JudgeError, match="cannot be reached"):
            judge_at(url, tries=1)("How?", "Like this.")


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:80", "ftp://host/v1", "http://", "http://user:pw@host/v1", "http://h/?key=1"),
        *("http://[x/v1", "http://a..b/v1", "http://h/\u00fc", "http://h:abc/v1", "http://h/v 1", "http://h/\x01"),
    ],
)
def test_what_is_no_url_of_an_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        ChatEndpoint(url, "some-model")


def test_a_key_cannot_smuggle_in_a_header() -> None:
    with pytest.raises(ConfigError, match="key"):
        ChatEndpoint("http://localhost/v1", "some-model", key="a\r\nX: y")


def test_an_endpoint_is_a_judge() -> None:
    assert isinstance(judge_at("http://localhost/v1"), Judge)
