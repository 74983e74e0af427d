"""An open run: what every step gets, and how a step that has finished is read back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unflinch.activations.scratch_space import Workspace, workspace
from unflinch.config import RunConfig, as_settings
from unflinch.data.splits import Splits
from unflinch.models.load import LoadedModel, load_model
from unflinch.models.memory_plan import MemoryPlan
from unflinch.options import ModelOptions
from unflinch.run_folder import RunFolder, open_run
from unflinch.steps.memory import plan_run
from unflinch.steps.prepare import load_splits
from unflinch.steps.progress import Progress, silent

StepDone = Callable[[str, dict[str, Any], float], None]
"""Called when a step ends: its name, headline figures, seconds."""


@dataclass(frozen=True)
class Run:
    """An open run: the folder, the model, the prompts, and who is told."""

    config: RunConfig
    folder: RunFolder
    loaded: LoadedModel
    splits: Splits
    plan: MemoryPlan
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

    def workspace(self) -> AbstractContextManager[Workspace]:
        """Give the place for large statistics: in memory as far as planned, the rest below the run folder."""
        allowed = self.plan.allowed
        return workspace(self.folder.scratch, allowed.metrics, allowed.gradients, allowed.sums)


def start_run(
    config: RunConfig, folder: Path, resume: bool, progress: Progress | None, step_done: StepDone | None
) -> Run:
    """Return an open run: prompts and memory are checked first, then the folder is made, then the model is loaded."""
    started = time.perf_counter()
    tell = step_done or (lambda *_: None)
    splits = load_splits(config.prompts)
    plan = plan_run(config, splits)
    opened = open_run(folder, as_settings(config), resume)
    tell("memory", plan.headline(), time.perf_counter() - started)
    return Run(config, opened, load_from(config.model), splits, plan, progress or silent, tell)


def load_from(options: ModelOptions) -> LoadedModel:
    """Return the model that the options name."""
    return load_model(
        options.model,
        dtype=options.dtype,
        device=options.device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
        layers=options.layers,
        writers=options.writers,
        load_in=options.load_in,
    )
