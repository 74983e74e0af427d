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
) -> None:
    """Write a copy of MODEL with PATCH merged into its weights.

    The copy is for programs that load no adapters. It says in its README and config that it was modified.
    """
    from unflinch.cli import console
    from unflinch.cli.base_model import load_base
    from unflinch.cli.job import patch_folder
    from unflinch.patch.merge import check_copy_folder, merge_into_copy
    from unflinch.patch.save import load_patch

    check_copy_folder(out, model)
    factors = load_patch(patch_folder(patch))
    if strength > 1:
        console.warning(f"strength {strength:g} goes beyond the patch that was validated: right refusals may be lost")
    loaded = load_base(model, dtype, device, revision, trust_remote_code, layers, writer)
    with console.waiting(f"writing {out}"):
        console.show_line(str(merge_into_copy(loaded, factors, out, strength)))
