"""`unflinch apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflinch.cli import arguments as arg


def apply(
    model: arg.BaseModel,
    patch: arg.PatchFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the copy; MODEL itself is not changed.")],
    strength: arg.Strength = 1.0,
    dtype: arg.DType = None,
    device: arg.Device = None,
    revision: arg.Revision = None,
    trust_remote_code: arg.TrustRemoteCode = None,
    layers: arg.Layers = None,
    writer: arg.Writer = None,
    spread: arg.Spread = None,
) -> None:
    """Write a copy of MODEL with PATCH merged into its weights.

    The copy is for programs that load no adapters. It says in its README, config and metadata that it
    was modified.
    """
    from unflinch.cli.exporting import export_patch
    from unflinch.patch.merge import merge_into_copy

    loaded_as = (dtype, device, revision, trust_remote_code, layers, writer, spread)
    export_patch(merge_into_copy, model, patch, out, strength, *loaded_as)
