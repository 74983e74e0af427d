"""What a command works on: the config and the run folder that its options name, and the pipeline called on them."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from unflinch.cli import console
from unflinch.config import RunConfig, make_config, read_toml
from unflinch.errors import ConfigError, RunFolderError
from unflinch.options import ModelOptions
from unflinch.run_folder import REPORT, RESULTS, SETTINGS, RunFolder, read_object
from unflinch.steps.progress import Progress

_PLACES: dict[str, tuple[str, ...]] = {
    "model": ("model.model",),
    "dtype": ("model.dtype",),
    "device": ("model.device",),
    "revision": ("model.revision",),
    "trust_remote_code": ("model.trust_remote_code",),
    "layers": ("model.layers",),
    "writer": ("model.writers",),
    "load_in": ("model.load_in",),
    "spread": ("model.spread",),
    "max_memory": ("model.max_memory",),
    "thinking": ("model.thinking",),
    "system_prompt": ("model.system_prompt",),
    "targets": ("prompts.targets",),
    "keep": ("prompts.keep",),
    "ordinary": ("prompts.ordinary",),
    "max_targets": tuple(f"prompts.max_targets_{part}" for part in ("fit", "select", "test")),
    "seed": ("prompts.seed", "fit.seed"),
    "kl_budget": ("fit.kl_budget",),
    "keep_best": ("validate.keep_best",),
}
"""Where each command-line option goes in the config."""


@dataclass(frozen=True)
class Job:
    """One call of a pipeline function."""

    config: RunConfig
    folder: Path
    resume: bool
    again: str
    """The command line that continues it."""


def config_from(given: Mapping[str, Any], stored: Mapping[str, Any]) -> RunConfig:
    """Return the config of a command: what was given, over --config or else `stored`, over the defaults.

    Args:
        given: the command's parameters by name; None means not given.
        stored: settings of the run folder that is continued.

    Raises:
        ConfigError: for an unknown option, a value out of range, or no model.
    """
    overrides: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for name, places in _PLACES.items():
        for place in places if given.get(name) is not None else ():
            section, _, option = place.partition(".")
            overrides[section][option] = given[name]
    return make_config(read_toml(given["config"]) if given.get("config") else stored, overrides)


def loading_options(model: Mapping[str, Any]) -> list[str]:
    """Return the options with which another command loads the model of a run as the run did.

    Args:
        model: the run's settings of that section. What only workers can share is fetched by a process that works alone.
    """
    words: list[str] = []
    for name in ("dtype", "device", "revision", "trust_remote_code", "layers", "writer", "load_in", "spread"):
        key = _PLACES[name][0].removeprefix("model.")
        value = model.get(key)
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value and value != getattr(ModelOptions, key, None):
            several = value if isinstance(value, (list, tuple)) else [value]
            words += [word for one in several for word in (option, "devices" if one == "workers" else str(one))]
    return words


def new_job(again: str, given: Mapping[str, Any], preset: Mapping[str, Any] | None = None) -> Job:
    """Return the job of `run`, `demo`, `scan` or `fit`, and say where it is kept.

    Args:
        again: the command that continues it, to which name and place of the run folder are added.
        given: the command's parameters by name.
        preset: settings of a run that is not continued, below what was given.
    """
    runs, name, resume = given["runs"], given["name"], given["resume"]
    if name is None and resume:
        name = newest_run(runs)
    stored = stored_settings(runs / name) if resume else {}
    if resume and not (stored or preset or given.get("model") or given.get("config")):
        raise RunFolderError(f"{runs / name} holds no run to continue; check --name and --runs, or give MODEL to start")
    config = config_from(given, stored or preset or {})
    name = default_name(config.model.model) if name is None else name
    check_name(name)
    place = ["--name", name] if runs == Path("runs") else ["--name", name, "--runs", str(runs)]
    console.note(f"run folder {runs / name}")
    return Job(config, runs / name, resume, f"{again} {shlex.join(place)}")


def carry_out(call: Callable[..., dict[str, Any]], job: Job) -> dict[str, Any]:
    """Return what a pipeline function returns for the job, with its progress shown.

    Raises:
        typer.Exit: with code 130 on Ctrl-C, after saying how to continue.
    """
    with stoppable(f"finished steps are kept, continue with: {job.again}") as progress:
        return call(job.config, job.folder, progress=progress, step_done=console.step_done)


@contextmanager
def stoppable(kept: str) -> Iterator[Progress]:
    """Show the progress of what is done inside, and end on Ctrl-C with a note of what is kept.

    Raises:
        typer.Exit: with code 130 on Ctrl-C.
    """
    try:
        with console.progress() as progress:
            yield progress
    except KeyboardInterrupt:
        console.note(f"stopped; {kept}")
        raise typer.Exit(130) from None


def stored_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that a run folder was started with; empty if it was never started."""
    file = folder / SETTINGS
    return read_object(file) if file.is_file() else {}


def finished(folder: Path) -> bool:
    """Whether a run folder holds results and report, and its patch was either accepted or discarded."""
    waiting = RunFolder(folder).unverified_patch.exists()
    return (folder / RESULTS).is_file() and (folder / REPORT).is_file() and not waiting


def patch_folder(path: Path) -> Path:
    """Return the patch folder itself, where a run folder that holds one was given.

    Raises:
        RunFolderError: if a run folder was given that holds none.
    """
    inside = RunFolder(path).patch
    if not inside.is_dir() and (path / SETTINGS).is_file():
        raise RunFolderError(
            f"the run in {path} has written no patch: it is not finished, or its patch missed a limit; see its {REPORT}"
        )
    return inside if inside.is_dir() else path


def default_name(model: str) -> str:
    """Return the model's own name with date and time: `Qwen2.5-0.5B-Instruct_2026-07-01_14-03-22`."""
    own = re.split(r"[/\\]", model.rstrip("/\\"))[-1].removesuffix(".gguf")
    safe = re.sub(r"[^\w.-]+", "-", own).strip(".-") or "model"
    return f"{safe}_{datetime.now():%Y-%m-%d_%H-%M-%S}"


def check_name(name: str) -> None:
    """Raise `ConfigError` if a run name would lead out of its folder."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"option --name is {name!r}; expected letters, digits, '.', '_' and '-' only")


def free_name(runs: Path, name: str) -> str:
    """Return `name`, or the first of `name-2`, `name-3`, ... of which there is no run folder."""
    number, free = 2, name
    while (runs / free).exists():
        number, free = number + 1, f"{name}-{number}"
    return free


def newest_run(runs: Path) -> str:
    """Return the name of the run folder that was started last.

    Raises:
        RunFolderError: if there is none.
    """
    started = [(file.stat().st_mtime, file.parent.name) for file in runs.glob(f"*/{SETTINGS}")]
    if not started:
        raise RunFolderError(f"{runs} holds no run to continue; leave out --resume to start one, or give --runs")
    return max(started)[1]
