"""The README says what the committed results say, and its links lead somewhere; `test_docs` reads its code."""

from __future__ import annotations

import json
import re

import pytest
from documents import README, ROOT, script

TEXT = README.read_text(encoding="utf-8")


def test_the_tables_equal_the_committed_results() -> None:
    tool = script(ROOT / "tools" / "readme_tables.py")
    assert tool.updated(TEXT, tool.TABLES) == TEXT
    for name in tool.TABLES:
        assert TEXT.count(f"<!-- {name} table -->") == 1
        assert TEXT.count(f"<!-- /{name} table -->") == 1
    public = json.loads((tool.RESULTS / "public_sets.json").read_text(encoding="utf-8"))
    assert all(name in TEXT for name in public["sets"])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_every_link_of_the_readme_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()
