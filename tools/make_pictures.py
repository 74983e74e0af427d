"""Takes the README's pictures, of the page and of the report of a run: `python tools/make_pictures.py runs/demo`.

Needs Chromium, and the packages of `unflinch[web]` and Playwright. The question asked on the page is `--question`, or
the shortest English one that the results of the run show as refused before and answered after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headless_browser import CHROMIUM, FLAGS
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "images"
SIZE = ViewportSize(width=1180, height=860)
PATIENCE = 180_000
"""Milliseconds: a model is loaded, and two answers are written."""


def question(run: Path) -> str:
    """Return the shortest English target that was refused before and is answered now."""
    outcomes = json.loads((run / "results.json").read_text(encoding="utf-8"))["outcomes"]
    turned = [
        o["text"]
        for o in outcomes
        if o["kind"] == "target" and o["language"] == "en" and o["before"] == "refuses" and o["after"] == "answers"
    ]
    if not turned:
        sys.exit(f"no English target of {run} is answered now: nothing to show")
    return str(min(turned, key=len))


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Serve the page of a run for the time of the block; gives its address."""
    command = [sys.executable, "-m", "unflinch", "web", str(run), "--port", "0", "--max-tokens", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next((line.strip() for line in server.stdout if line.startswith("http")), None)
            if address is None:
                sys.exit(f"the page of {run} did not start")
            yield address
        finally:
            server.terminate()


def take_page(page: Page, address: str, asked: str, path: Path) -> None:
    """Ask the question, and take the page once both sides have answered."""
    page.goto(address)
    page.locator("#prompt textarea").fill(asked)
    page.keyboard.press("Enter")
    expect(page.locator("#patched .message.bot")).to_have_count(1)
    before = None
    while before != (before := page.locator("#patched .message.bot").last.inner_text()):
        page.wait_for_timeout(2_000)
    page.screenshot(path=path)


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--out", type=Path, default=PICTURES, help="where the pictures go")
    parser.add_argument("--question", help="what is asked on the page")
    parser.add_argument("--dark", action="store_true", help="as people see them who like it dark")
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("no Chromium is installed (Debian: apt-get install chromium)")
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, served(options.run) as address:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=SIZE, color_scheme="dark" if options.dark else "light")
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        take_page(page, address, options.question or question(options.run), options.out / "page.png")
        page.goto((options.run / "report.html").resolve().as_uri())
        page.screenshot(path=options.out / "report.png")
        browser.close()


if __name__ == "__main__":
    main()
