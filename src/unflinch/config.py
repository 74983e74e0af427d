"""All options of a run: the options of each step, composed; read from TOML with the same names."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unflinch.errors import ConfigError
from unflinch.options import (
    FitOptions,
    ModelOptions,
    PromptOptions,
    ScanOptions,
    ValidateOptions,
)


@dataclass(frozen=True)
class RunConfig:
    """Everything that influences the results of a run."""

    model: ModelOptions
    prompts: PromptOptions = field(default_factory=PromptOptions)
    scan: ScanOptions = field(default_factory=ScanOptions)
    fit: FitOptions = field(default_factory=FitOptions)
    validate: ValidateOptions = field(default_factory=ValidateOptions)

    def __post_init__(self) -> None:
        """Check what one section asks of another."""
        if self.fit.answer_tokens > self.scan.ordinary_tokens:
            raise ConfigError(
                f"option fit.answer_tokens is {self.fit.answer_tokens}, but scan.ordinary_tokens "
                f"{self.scan.ordinary_tokens}; the fit needs that many tokens of every answer: raise the second, or "
                "lower the first"
            )


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file, with its names checked against the options.

    Raises:
        ConfigError: if the file is missing, no TOML, or names an option that does not exist.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}); expected a TOML file: check the path") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no valid TOML ({error})") from error
    _check_names(content, RunConfig, str(path), "")
    return content


def make_config(content: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]] | None = None) -> RunConfig:
    """Return the config of nested names and values, a `None` among the overrides meaning "not given".

    Args:
        content: section -> option -> value, as in TOML.
        overrides: same shape; wins over `content`.

    Raises:
        ConfigError: for unknown names, wrong types, values out of range, or no model.
    """
    _check_names(content, RunConfig, "the settings", "")
    merged = {section: dict(values) for section, values in content.items()}
    for section, values in (overrides or {}).items():
        merged.setdefault(section, {}).update({k: v for k, v in values.items() if v is not None})
    if not merged.get("model", {}).get("model"):
        raise ConfigError("no model given; expected a Hub id, a folder, a .gguf file or 'demo'")
    try:
        return TypeAdapter(RunConfig).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"option {place}: {first['msg']}, given {first['input']!r}") from error


def with_model(config: RunConfig, **changes: Any) -> RunConfig:
    """Return the config with changed model options."""
    return replace(config, model=replace(config.model, **changes))


def as_settings(config: RunConfig) -> dict[str, Any]:
    """Return the config as plain nested values, for the run folder."""
    return asdict(config)


def _check_names(content: Mapping[str, Any], kind: Any, source: str, prefix: str) -> None:
    known = {f.name: f for f in fields(kind)}
    for name, value in content.items():
        if name not in known:
            raise ConfigError(
                f"{source} has the unknown option '{prefix}{name}'; known here are {', '.join(sorted(known))}"
            )
        nested = _SECTIONS.get(name) if kind is RunConfig else None
        if nested is not None and is_dataclass(nested):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source}: '{prefix}{name}' is a section; write [{name}] and its options below it")
            _check_names(value, nested, source, f"{name}.")


_SECTIONS: dict[str, Any] = {
    "model": ModelOptions,
    "prompts": PromptOptions,
    "scan": ScanOptions,
    "fit": FitOptions,
    "validate": ValidateOptions,
}

DEMO_SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"model": "demo"},
    "prompts": {
        "wide": False,
        "max_targets_fit": 850,
        "max_targets_select": 90,
        "max_targets_test": 120,
        "max_keep_fit": 1000,
        "max_keep_select": 100,
        "max_keep_test": 160,
        "max_ordinary_fit": 600,
        "max_ordinary_select": 56,
        "max_ordinary_test": 110,
    },
    "scan": {"enough_refused": 90, "enough_answered": 96},
    "fit": {"fine_tune_steps": 0},
    "validate": {"kl_tokens": 24, "answer_tokens": 24, "dialogues": 24, "dialogue_tokens": 20},
}
"""The demo: what a laptop CPU does in minutes. Fewer prompts and none of the borderline ones, fewer steps."""

DEMO_LARGE_SETTINGS: dict[str, dict[str, Any]] = {"model": {"model": "demo-large"}}
"""The large demo: a full run."""
