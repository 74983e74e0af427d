"""Write the tables of results into README and docs, from the committed results: `python tools/update_tables.py`."""

from __future__ import annotations

from pathlib import Path

from docs_tables import TABLES
from readme_tables import ROOT, updated

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def outdated() -> list[tuple[Path, str]]:
    """Return the pages whose tables are not those of the committed results, with what they should be."""
    texts = [(page, page.read_text(encoding="utf-8")) for page in PAGES]
    return [(page, new) for page, old in texts if (new := updated(old, TABLES)) != old]


if __name__ == "__main__":
    for page, text in outdated():
        page.write_text(text, encoding="utf-8")
        print(page)
