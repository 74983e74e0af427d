"""An open run: what every step gets, and how a step that has finished is read back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from unflinch.config import RunConfig, as_settings
from unflinch.data.splits import PromptSets, Splits
from unflinch.models.load import LoadedModel, load_model
from unflinch.models.thinking import thinking_modes
from unflinch.options import ModelOptions
from unflinch.run_folder import RunFolder, open_run
from unflinch.steps.prepare import load_splits
from unflinch.steps.progress import Progress, silent

Sets = TypeVar("Sets", bound=PromptSets)
StepDone = Callable[[str, dict[str, Any], float], None]
"""Called when a step ends: its name, headline figures, seconds."""


@dataclass(frozen=True)
class Run:
    """An open run: the folder, the model, the prompts, and who is told."""

    config: RunConfig
    folder: RunFolder
    loaded: LoadedModel
    splits: Splits
    progress: Progress
    step_done: StepDone

    def step(self, name: str, work: Callable[[], Any], headline: Callable[[Any], dict[str, Any]]) -> Any:
        """Return a step's stored result, computing it first if it has not finished yet."""
        if not self.folder.done(name):
            started = time.perf_counter()
            self.folder.write_step(name, work(), time.perf_counter() - started)
        stored = self.folder.read_step(name)
        self.step_done(name, headline(stored["data"]), stored["seconds"])
        return stored["data"]


def start_run(
    config: RunConfig, folder: Path, resume: bool, progress: Progress | None, step_done: StepDone | None
) -> Run:
    """Return an open run: prompts are checked first, then the folder is made, then the model is loaded."""
    splits = load_splits(config.prompts)
    opened = open_run(folder, as_settings(config), resume)
    loaded = load_from(config.model)
    asked = Splits(_in_modes(loaded, splits.fit), _in_modes(loaded, splits.select), _in_modes(loaded, splits.test))
    return Run(config, opened, loaded, asked, progress or silent, step_done or (lambda *_: None))


def _in_modes(loaded: LoadedModel, sets: Sets) -> Sets:
    """Return every prompt as it is asked: once a mode, under the run's system prompt."""
    kinds = ("targets", "keep", "guard", "ordinary")
    return replace(sets, **{kind: loaded.in_modes(getattr(sets, kind)) for kind in kinds})


def load_from(options: ModelOptions) -> LoadedModel:
    """Return the model that the options name, with the way in which they have it asked."""
    loaded = load_model(
        options.model,
        dtype=options.dtype,
        device=options.device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    modes = thinking_modes(loaded.thinking, options.thinking, options.model)
    thinking = loaded.thinking and replace(loaded.thinking, most_tokens=options.thinking_tokens)
    return replace(loaded, modes=modes, thinking=thinking, system_prompt=options.system_prompt)
