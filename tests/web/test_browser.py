"""The page as a person uses it, in headless Chromium."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from headless_browser import CHROMIUM, FLAGS
from playwright.sync_api import Page, expect, sync_playwright

from unflinch.web.actions import Actions
from unflinch.web.runs import Runs
from unflinch.web.server import make_server, open_port
from unflinch.web.speaker import Speaker

PATIENCE = 60_000
"""Milliseconds: for a computer whose cores are taken."""
MARKUP = "<img src=x onerror=\"document.title='run'\"> & <b>bold</b>"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium); the page was not used"
)


@dataclass
class Visit:
    """An open page, and every address that it asked for."""

    page: Page
    address: str
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def answer(self, side: str) -> str:
        """What one side said last."""
        return self.page.locator(f"#{side} .message.bot").last.inner_text()


@pytest.fixture(scope="module")
def address(runs: Runs, speaker: Speaker) -> Iterator[str]:
    """Where the page is served."""
    patched = pytest.MonkeyPatch()
    for name in ("ask", "ask_offered", "answer_again"):
        # Gradio looks whether a function is a generator, which the wrapper that checks types in tests hides.
        patched.setattr(Actions, name, inspect.unwrap(getattr(Actions, name)))
    listening = open_port(0)
    port = listening.getsockname()[1]
    server = make_server(runs, "demo", speaker, port)
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    serving.start()
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    serving.join()
    patched.undo()


@pytest.fixture(scope="module")
def visit(address: str) -> Iterator[Visit]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        visit = Visit(page, address)
        page.on("request", lambda request: visit.asked.append(request.url))
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.goto(address)
        expect(page.locator("#summary")).to_contain_text("Passed")
        yield visit
        browser.close()


def ask(visit: Visit, prompt: str) -> None:
    """Start anew, send a prompt and wait until both sides have answered it."""
    visit.page.locator("#anew").click()
    expect(visit.page.locator("#patched .message")).to_have_count(0)
    visit.page.locator("#prompt textarea").fill(prompt)
    visit.page.keyboard.press("Enter")
    settled(visit, "patched")


def settled(visit: Visit, side: str, differs: Callable[[str], bool] = bool) -> None:
    """Wait until a side's answer is as it should be, and does not grow any more."""
    expect(visit.page.locator(f"#{side} .message.bot")).to_have_count(1)
    before = None
    for _ in range(200):
        now = visit.answer(side)
        if now == before and differs(now):
            return
        before = now
        visit.page.wait_for_timeout(300)
    raise AssertionError(f"{side} still says {before!r}")


def test_both_models_answer_side_by_side_and_the_dial_goes_from_one_to_the_other(visit: Visit) -> None:
    ask(visit, "What is the capital")
    original, patched = visit.answer("original"), visit.answer("patched")
    assert original != patched
    dial = visit.page.locator("#dial input[type=number]")
    dial.fill("0")
    dial.blur()
    settled(visit, "patched", lambda text: text == original)
    dial.fill("1")
    dial.blur()
    settled(visit, "patched", lambda text: text == patched)
    assert visit.answer("original") == original


def test_markup_in_a_prompt_is_shown_as_text_and_never_run(visit: Visit) -> None:
    ask(visit, MARKUP)
    for side in ("original", "patched"):
        assert visit.page.locator(f"#{side} .message.user").inner_text().strip() == MARKUP
        assert visit.page.locator(f"#{side} .message.user :is(img, b)").count() == 0
    assert visit.page.title() == "unflinch"


def test_report_scan_and_comparison_open(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Report").click()
    expect(visit.page.frame_locator("#report iframe").locator("#verdict")).to_contain_text("Passed")
    visit.page.get_by_role("tab", name="Scan").click()
    expect(visit.page.locator("#scan svg").first).to_be_visible()
    visit.page.get_by_role("tab", name="Compare").click()
    expect(visit.page.locator("#comparison thead")).to_contain_text("demo")
    visit.page.get_by_role("tab", name="Chat").click()


def test_nothing_was_asked_of_another_computer_and_no_script_failed(visit: Visit) -> None:
    assert len(visit.asked) > 20
    assert [url for url in visit.asked if not url.startswith((visit.address, "data:", "blob:"))] == []
    assert visit.errors == []


@pytest.mark.parametrize("tab", ["Chat", "Report", "Scan", "Compare"])
def test_the_page_fits_a_phone(visit: Visit, tab: str) -> None:
    visit.page.set_viewport_size({"width": 420, "height": 900})
    visit.page.get_by_role("tab", name=tab).click()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 420


def test_a_page_under_another_name_is_refused(visit: Visit) -> None:
    foreign = visit.page.request.get(visit.address, headers={"Host": "evil.example"})
    assert foreign.status == 403
