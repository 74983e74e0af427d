"""The README says what the committed results say, and names commands that exist."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def script(path: Path) -> ModuleType:
    """Return a script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_tables_equal_the_committed_results() -> None:
    tool = script(ROOT / "tools" / "update_readme.py")
    assert tool.updated(README) == README
    for name in tool.TABLES:
        assert README.count(f"<!-- {name} table -->") == 1
        assert README.count(f"<!-- /{name} table -->") == 1
    public = json.loads((tool.RESULTS / "public_sets.json").read_text(encoding="utf-8"))
    assert all(name in README for name in public["sets"])


@pytest.mark.parametrize("command", sorted(set(re.findall(r"unflinch (\w+) [A-Z-]|unflinch (\w+) Qwen", README))))
def test_every_command_of_the_readme_exists(command: tuple[str, str]) -> None:
    from unflinch.cli.main import app

    name = next(filter(None, command))
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_of_the_readme_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_every_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
