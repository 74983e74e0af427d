"""Writes docs/cli.md from the commands themselves; `--check` only says whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import typer

from unflinch.cli.main import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """# Command line

Written by `python tools/make_cli_docs.py` from the commands' own help; change that instead of this page.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    page = render()
    if not parser.parse_args().check:
        PAGE.write_text(page, encoding="utf-8")
        print(PAGE)
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
        print(f"{PAGE.name} is up to date.")
        return 0
    print(f"{PAGE.name} is out of date; run: python tools/make_cli_docs.py")
    return 1


def render() -> str:
    """Return the whole page as Markdown."""
    group: Any = typer.main.get_command(app)
    parts = [HEAD, section("unflinch", group, "COMMAND ...")]
    parts += [section(f"unflinch {name}", command) for name, command in group.commands.items()]
    return "\n".join(parts)


def section(name: str, command: Any, last: str = "") -> str:
    """Return heading, usage, help and tables of one command."""
    taken = [parameter for parameter in command.params if parameter.name != "help"]
    arguments = [parameter for parameter in taken if parameter.param_type_name == "argument"]
    options = [parameter for parameter in taken if parameter.param_type_name == "option"]
    needed = [f"{option.opts[0]} {option.metavar}" for option in options if option.required]
    words = [argument.metavar if argument.required else f"[{argument.metavar}]" for argument in arguments]
    usage = " ".join(filter(None, [name, *words, *needed, "[OPTIONS]", last]))
    text = f"## `{name}`\n\n```\n{usage}\n```\n\n{command.help.strip()}\n"
    rows = [(f"`{argument.metavar}`", argument.help) for argument in arguments]
    rows += [(f"`{written(option)}`", described(option)) for option in options]
    return (
        text
        + "\n| | |\n|---|---|\n"
        + "".join(f"| {left} | {right.replace('|', '&#124;')} |\n" for left, right in rows)
    )


def written(option: Any) -> str:
    """Return how an option is given; of a switch that is on unless told otherwise, both ways."""
    ways = [option.opts[0], *(option.secondary_opts[:1] if option.default is True else [])]
    return " ".join(filter(None, [" / ".join(ways), option.metavar]))


def described(option: Any) -> str:
    """Return the help of an option with its default, where that is shown beside the help and not in it."""
    if option.required or option.default in (None, False):
        return str(option.help) + (" **Required.**" if option.required else "")
    return f"{option.help} [default: {option.default}]"


if __name__ == "__main__":
    sys.exit(main())
