"""What `apply` and `export` share: a patch read, its base model loaded, and another form of it written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unflinch.cli import console
from unflinch.cli.base_model import load_base
from unflinch.cli.job import patch_folder
from unflinch.models.placement import Spread
from unflinch.patch.export import check_new_folder, check_strength
from unflinch.patch.save import load_patch
from unflinch.report.model_card import export_card


def export_patch(
    write: Callable[..., Path],
    model: str,
    patch: Path,
    out: Path,
    strength: float,
    dtype: str | None,
    device: str | None,
    revision: str | None,
    trust_remote_code: bool | None,
    layers: str | None,
    writers: list[str] | None,
    spread: Spread | None,
) -> None:
    """Write an export of a patch and show its folder; what is wrong with the arguments is found before the model loads.

    Args:
        write: `merge_into_copy` or `write_gguf_adapter`.
        model: the base model.
        patch: folder of the patch, or of the run that holds it.
        out: new folder.
        strength: 1 is the patch as it was validated.
        dtype: of the base model, like the remaining ones.
        device: where it is loaded.
        revision: of a Hub model.
        trust_remote_code: run code that comes with the model.
        layers: path of the decoder layers of an unknown family.
        writers: modules that are changed there.
        spread: over what its weights are spread.
    """
    check_strength(strength)
    check_new_folder(out, model)
    factors = load_patch(patch_folder(patch))
    if strength > 1:
        console.warning(f"strength {strength:g} goes beyond the patch that was validated: right refusals may be lost")
    loaded = load_base(model, dtype, device, revision, trust_remote_code, layers, writers, spread=spread)
    with console.waiting(f"writing {out}"):
        console.show_line(str(write(loaded, factors, out, export_card, strength)))
