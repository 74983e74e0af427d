"""`unflinch mine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflinch.cli import arguments as arg

Candidates = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Harmless prompts to ask: a .jsonl or .csv file, or hub:owner/name:split:column. [default: bundled]",
    ),
]


def mine(
    out: Annotated[Path, typer.Option(metavar="FILE", help="New .jsonl file for the prompts that MODEL refuses.")],
    model: arg.Model = None,
    candidates: Candidates = None,
    config: arg.Config = None,
    thinking: arg.Thinking = None,
    system_prompt: arg.SystemPrompt = None,
    dtype: arg.DType = None,
    device: arg.Device = None,
    revision: arg.Revision = None,
    trust_remote_code: arg.TrustRemoteCode = None,
    json: arg.Json = False,
) -> None:
    """Find the harmless prompts that MODEL refuses.

    Writes them to a file for `run --targets`, and shows how broad they are.
    """
    given = locals()  # every parameter by name

    from unflinch.cli import console, tables
    from unflinch.cli.job import config_from
    from unflinch.data.mine import spectrum, write_prompts
    from unflinch.data.prompts import bundled, load_prompts
    from unflinch.errors import InputError
    from unflinch.run_folder import plain

    if out.exists() or not out.parent.is_dir():
        raise InputError(f"--out {out} exists, or its folder does not; expected a new file in an existing folder")
    settings = config_from(given, {})
    asked = load_prompts(candidates) if candidates else bundled("targets")

    from unflinch.pipeline import mine as ask_model  # only now: a mistake above is told at once

    with console.progress() as progress:
        found = ask_model(settings, asked, progress=progress)
    if found.refused:
        write_prompts(out, found.refused)
    spread = spectrum(found.refused)
    if json:
        written = str(out) if found.refused else None
        counts = {"asked": found.asked, "refused": len(found.refused), "out": written}
        console.show_json({**counts, "spectrum": plain(spread), "warnings": found.warnings})
        return
    if not found.refused:
        console.show_line(f"none of {found.asked} prompts is refused, nothing was written")
        return
    console.show(tables.spectrum_summary(spread))
    console.show_line(f"{len(found.refused)} of {found.asked} prompts are refused, written to {out}")
    for sentence in found.warnings:
        console.warning(sentence)
