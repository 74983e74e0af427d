"""`unflinch export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflinch.cli import arguments as arg


def export(
    model: arg.BaseModel,
    patch: arg.PatchFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for adapter.gguf and its README.")],
    strength: arg.Strength = 1.0,
    dtype: arg.DType = None,
    device: arg.Device = None,
    revision: arg.Revision = None,
    trust_remote_code: arg.TrustRemoteCode = None,
    layers: arg.Layers = None,
    writer: arg.Writer = None,
    spread: arg.Spread = None,
) -> None:
    """Write PATCH as a GGUF adapter, for llama.cpp and Ollama.

    It is loaded beside a GGUF file of MODEL, and can be left out again. PEFT and vLLM need no export: they load PATCH
    itself. For a copy of the whole model see `apply`.
    """
    from unflinch.cli.exporting import export_patch
    from unflinch.patch.gguf_adapter import write_gguf_adapter

    loaded_as = (dtype, device, revision, trust_remote_code, layers, writer, spread)
    export_patch(write_gguf_adapter, model, patch, out, strength, *loaded_as)
