"""The documents of the project as tests read them: code blocks, the commands in these, and scripts as modules.

`pythonpath` in pyproject.toml makes this module importable from every test.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
MODEL = "Qwen/Qwen2.5-1.5B-Instruct"
"""The model that the documents take as an example."""

_BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    title: str
    """Name of the file that it shows; empty if it shows none."""
    code: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown file."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def command_lines(page: Path, program: str = "unflinch") -> list[list[str]]:
    """Return the words of every call of a program in the shell blocks of a page, without its name."""
    shell = [block.code for block in blocks(page) if block.language in ("", "bash")]
    lines = [shlex.split(line, comments=True) for code in shell for line in code.splitlines()]
    return [words[1:] for words in lines if words[:1] == [program]]


def inline_code(page: Path) -> list[str]:
    """Return what stands between single backticks outside of blocks."""
    return _INLINE.findall(_BLOCK.sub("", page.read_text(encoding="utf-8")))


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the parameters of a command line of `unflinch` by name, without running it.

    Raises:
        Exception: what the command line raises for an unknown command or option, or a missing or wrong value.
    """
    name, *rest = words
    return dict(_commands()[name].make_context(name, list(rest)).params)


@cache
def options(command: str | None = None) -> frozenset[str]:
    """Return the options of a command, or of all."""
    commands = _commands()
    chosen = commands.values() if command is None else [commands[command]]
    parameters = [parameter for one in chosen for parameter in one.params]
    named = (name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts))
    return frozenset({"--version", "--debug", "--install-completion", "--show-completion", *named})


def script(path: Path) -> ModuleType:
    """Return a script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@cache
def _commands() -> dict[str, Any]:
    import typer

    from unflinch.cli.main import app

    group: Any = typer.main.get_command(app)
    return dict(group.commands)
