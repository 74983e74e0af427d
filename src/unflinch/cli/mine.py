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
    layers: arg.Layers = None,
    writer: arg.Writer = None,
    load_in: arg.LoadIn = None,
    spread: arg.Spread = None,
    json: arg.Json = False,
) -> None:
    """Find the harmless prompts that MODEL refuses.

    Writes them to a file for `run --targets`, and shows how broad they are.
    """
    given = locals()  # every parameter by name

    from unflinch.cli import console
    from unflinch.cli.job import config_from
    from unflinch.cli.mining import check_new, mine_to, mined_facts, show_mined
    from unflinch.data.prompts import bundled, load_prompts

    check_new(out, "--out")
    settings = config_from(given, {})
    found = mine_to(out, settings, load_prompts(candidates) if candidates else bundled("targets"))
    if json:
        console.show_json(mined_facts(found, out))
    else:
        show_mined(found, out)
