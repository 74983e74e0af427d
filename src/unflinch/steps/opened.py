"""An open run: what every step gets, and how a step that has finished is read back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.config import RunConfig, as_settings
from unflinch.data.splits import Splits
from unflinch.models.load import LoadedModel, load_model
from unflinch.models.writers import choose_writers
from unflinch.options import FitOptions, ModelOptions
from unflinch.patch.attach import attached
from unflinch.run_folder import RunFolder, open_run
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
    check_patchable(loaded, config.fit)
    return Run(config, opened, loaded, splits, progress or silent, step_done or (lambda *_: None))


def check_patchable(loaded: LoadedModel, options: FitOptions) -> None:
    """Attach a patch of zeros to every writer that a fit could change: now, as the fit itself begins much later.

    Raises:
        ArchitectureError: no layer has a writer that a patch can change.
        PatchError: peft does not put a patch where it belongs.
    """
    model = loaded.model
    chosen = choose_writers(model, loaded.architecture, range(loaded.depth), options.writers)
    factors = {}
    for name in chosen.modules:
        outputs, inputs = model.get_submodule(name).get_parameter("weight").shape
        factors[name] = LowRankFactors(torch.zeros(1, inputs), torch.zeros(outputs, 1))
    with attached(model, Patch(factors, loaded.base_hash)):
        pass


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
    )
