"""The base model that a command works on; imported where everything else that was given is known to be right."""

from __future__ import annotations

from unflinch.cli import console
from unflinch.errors import ConfigError
from unflinch.launch import workers
from unflinch.models.load import LoadedModel, load_model
from unflinch.models.placement import Spread, Spreading


def load_base(
    model: str,
    dtype: str | None,
    device: str | None,
    revision: str | None,
    trust_remote_code: bool | None,
    layers: str | None,
    writers: list[str] | None,
    load_in: str | None = None,
    spread: Spread | None = None,
) -> LoadedModel:
    """Return the model, loaded as the options say, and show meanwhile that it is being loaded.

    Raises:
        ConfigError: if several workers were started: only a run divides its prompts among them.
    """
    if workers() > 1:
        raise ConfigError(
            f"this command was started as {workers()} workers, but works alone; start it without torchrun or accelerate"
        )
    with console.waiting(f"loading {model}"):
        return load_model(
            model,
            dtype=dtype or "auto",
            device=device or "auto",
            revision=revision,
            trust_remote_code=bool(trust_remote_code),
            layers=layers,
            writers=tuple(writers or ()),
            load_in=load_in,
            spread=Spreading(spread) if spread else None,
        )
