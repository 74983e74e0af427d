"""`unflinch inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflinch.cli import arguments as arg


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Adapter, model or run folder, or a .gguf file.")],
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="Also say whether it fits this base model.")] = None,
    json: arg.Json = False,
    dtype: arg.DType = None,
    device: arg.Device = None,
    revision: arg.Revision = None,
    trust_remote_code: arg.TrustRemoteCode = None,
    layers: arg.Layers = None,
    writer: arg.Writer = None,
    load_in: arg.LoadIn = None,
    spread: arg.Spread = None,
) -> None:
    """Tell what an adapter or model folder is, without loading it.

    What it changes, whether unflinch made it and measured it, whether it is signed, and whether it holds files that
    can run code. Exit code: 0 all is well, 1 something is wrong with it, 2 bad input.
    """
    from unflinch.cli import console
    from unflinch.cli.base_model import load_base
    from unflinch.cli.folder_lines import folder_lines
    from unflinch.cli.job import patch_folder
    from unflinch.errors import PatchError
    from unflinch.release.inspect import check_made_for, inspect_folder
    from unflinch.run_folder import plain

    where = patch_folder(path)
    facts = inspect_folder(where)
    fits, wrong = None, bool(facts.dangers or facts.changed)
    if base is not None:
        loaded = load_base(base, dtype, device, revision, trust_remote_code, layers, writer, load_in, spread)
        try:
            fits = check_made_for(where, facts, loaded)
        except PatchError as error:
            fits, wrong = f"no: {error}", True
    if json:
        console.show_json({**plain(facts), "fits": fits})
    else:
        for name, text in folder_lines(facts, fits):
            console.show_line(f"{name:<12}{text}")
    raise typer.Exit(int(wrong))
