"""Who may ask the page."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from unflinch.web.local_only import PAGE_POLICY, LocalOnly

PORT = 7860


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def own_policy(request: Request) -> Response:
    return PlainTextResponse("hello", headers={"content-security-policy": "sandbox"})


@pytest.fixture
def client() -> TestClient:
    methods = ["GET", "POST"]
    app = Starlette(routes=[Route("/", hello, methods=methods), Route("/own", own_policy)])
    return TestClient(LocalOnly(app, PORT), base_url=f"http://127.0.0.1:{PORT}")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:7860", None),
        ("localhost:7860", None),
        ("127.0.0.1:7860", "http://127.0.0.1:7860"),
        ("localhost:7860", "http://localhost:7860"),
    ],
)
def test_this_computers_own_pages_are_answered(client: TestClient, host: str, origin: str | None) -> None:
    answer = client.post("/", headers={"host": host, **({"origin": origin} if origin else {})})
    assert (answer.status_code, answer.text) == (200, "hello")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example", None),
        ("evil.example:7860", None),
        ("127.0.0.1.evil.example:7860", None),
        ("127.0.0.1:7861", None),
        ("127.0.0.1", None),
        ("", None),
        ("127.0.0.1:7860", "http://evil.example"),
        ("127.0.0.1:7860", "https://127.0.0.1:7860"),
        ("127.0.0.1:7860", "http://127.0.0.1:8000"),
        ("127.0.0.1:7860", "null"),
        ("evil.example:7860", "http://evil.example:7860"),
    ],
)
def test_another_host_or_origin_is_refused(client: TestClient, host: str, origin: str | None) -> None:
    answer = client.post("/", headers={"host": host, **({"origin": origin} if origin else {})})
    assert answer.status_code == 403
    assert "hello" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:80"])
def test_at_the_port_of_http_browsers_leave_it_out(host: str) -> None:
    client = TestClient(LocalOnly(Starlette(routes=[Route("/", hello)]), 80), base_url="http://localhost")
    assert client.get("/", headers={"host": host, "origin": f"http://{host}"}).status_code == 200
    assert client.get("/", headers={"host": host, "origin": "http://evil.example"}).status_code == 403
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403


def test_two_origins_of_which_one_is_foreign_are_refused(client: TestClient) -> None:
    both = [("origin", f"http://127.0.0.1:{PORT}"), ("origin", "http://evil.example")]
    assert client.get("/", headers=both).status_code == 403


def test_every_answer_says_that_nothing_is_loaded_from_elsewhere(client: TestClient) -> None:
    headers = client.get("/").headers
    assert headers["content-security-policy"] == PAGE_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    sources = {word for part in PAGE_POLICY.split("; ") for word in part.split()[1:]}
    assert sources <= {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}


def test_a_stricter_policy_of_a_page_stays(client: TestClient) -> None:
    assert client.get("/own").headers["content-security-policy"] == "sandbox"
