"""What `mine` and `generate` share: asking MODEL which candidates it refuses, and showing what was found."""

from __future__ import annotations

from pathlib import Path

from unflinch.cli import console, tables
from unflinch.config import RunConfig
from unflinch.data.mine import MinedPrompts, spectrum, write_prompts
from unflinch.data.prompts import Prompt
from unflinch.errors import InputError
from unflinch.launch import is_first
from unflinch.run_folder import plain


def check_new(file: Path, option: str) -> None:
    """Raise `InputError` unless a file of prompts does not exist yet and its folder does."""
    check_prompt_file(file, option)
    if file.exists() or not file.parent.is_dir():
        raise InputError(f"{option} {file} exists, or its folder does not; expected a new file in an existing folder")


def check_prompt_file(file: Path, option: str) -> None:
    """Raise `InputError` unless a file's name is one by which its prompts are read again."""
    if file.suffix != ".jsonl":
        raise InputError(f"{option} {file}; expected a name that ends in .jsonl, by which its prompts are read again")


def mine_to(out: Path, settings: RunConfig, candidates: tuple[Prompt, ...]) -> MinedPrompts:
    """Ask the model all candidates and write those that it refuses; nothing is written where it refuses none."""
    from unflinch.pipeline import mine  # only now: other mistakes are told at once

    with console.progress() as progress:
        found = mine(settings, candidates, progress=progress)
    if found.refused and is_first():
        write_prompts(out, found.refused)
    return found


def mined_facts(found: MinedPrompts, out: Path) -> dict[str, object]:
    """Return what was found, for JSON."""
    written = str(out) if found.refused else None
    counts = {"asked": found.asked, "refused": len(found.refused), "out": written}
    return {**counts, "spectrum": plain(spectrum(found.refused)), "warnings": found.warnings}


def show_mined(found: MinedPrompts, out: Path) -> None:
    """Show how many are refused, how broad they are, and where they are."""
    if not found.refused:
        console.show_line(f"none of {found.asked} prompts is refused, nothing was written")
        return
    console.show(tables.spectrum_summary(spectrum(found.refused)))
    console.show_line(f"{len(found.refused)} of {found.asked} prompts are refused, written to {out}")
    for sentence in found.warnings:
        console.warning(sentence)
