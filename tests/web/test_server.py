"""The page over HTTP, without a browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from unflinch.errors import ConfigError
from unflinch.web.runs import Runs
from unflinch.web.server import ADDRESS, build_app, open_port
from unflinch.web.speaker import Speaker

PORT = 7860


@pytest.fixture(scope="module")
def client(runs: Runs, speaker: Speaker) -> Iterator[TestClient]:
    async def build() -> ASGIApp:  # in an event loop, as the server does it
        return build_app(runs, "demo", speaker, PORT)

    with TestClient(asyncio.run(build()), base_url=f"http://127.0.0.1:{PORT}") as made:
        yield made


def test_the_page_loads_its_parts_from_itself_and_reports_to_no_one(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"([^\"]+)\"", page.text)
    assert loaded
    assert [url for url in loaded if re.match(r"(https?:)?//", url) and f"//127.0.0.1:{PORT}/" not in url] == []
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False


def test_the_style_is_that_of_the_report_and_loads_nothing(client: TestClient) -> None:
    answer = client.get("/unflinch.css")
    assert answer.headers["content-type"].startswith("text/css")
    assert "--before:" in answer.text and ".run-page {" in answer.text
    assert "url(" not in answer.text and "@import" not in answer.text


def test_a_report_is_served_where_nothing_in_it_can_run_or_load(client: TestClient, runs: Runs) -> None:
    answer = client.get("/runs/demo/report.html")
    assert answer.content == (runs.folder("demo") / "report.html").read_bytes()
    policy = answer.headers["content-security-policy"].split("; ")
    assert "sandbox" in policy and "default-src 'none'" in policy
    assert not any(part.startswith("script-src") for part in policy)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/runs/other/report.html", "unflinch report"),
        ("/runs/nothing/report.html", "no finished run"),
        ("/runs/%2e%2e/report.html", ""),
        ("/runs/demo/results.json", ""),
        ("/runs/..%2f..%2fetc/report.html", ""),
    ],
)
def test_what_is_no_report_is_not_found(client: TestClient, path: str, said: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert said in answer.text


@pytest.mark.parametrize("path", ["/", "/config", "/unflinch.css", "/runs/demo/report.html", "/gradio_api/info"])
@pytest.mark.parametrize("header", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
def test_a_page_from_elsewhere_reaches_nothing(client: TestClient, path: str, header: dict[str, str]) -> None:
    assert client.get(path, headers=header).status_code == 403


def test_only_this_computer_reaches_the_port_and_a_taken_one_is_told() -> None:
    with open_port(0) as listening:
        listening.listen()
        address, port = listening.getsockname()
        assert address == ADDRESS == "127.0.0.1"
        with pytest.raises(ConfigError, match=f"port {port} cannot be used"):
            open_port(port)
