"""An open run: what every step gets, and how a step that has finished is read back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from unflinch.activations.scratch_space import Workspace, workspace
from unflinch.artifacts import LowRankFactors, Patch
from unflinch.config import RunConfig, as_settings
from unflinch.data.splits import PromptSets, Splits
from unflinch.models.layers import module_shape
from unflinch.models.load import Description, LoadedModel, describe, load_model
from unflinch.models.memory import GIB, give_back_memory
from unflinch.models.memory_plan import MemoryPlan
from unflinch.models.placement import Spreading
from unflinch.models.thinking import thinking_modes
from unflinch.models.workers import all_or_none, everyones
from unflinch.models.writers import choose_writers
from unflinch.options import FitOptions, ModelOptions
from unflinch.patch.attach import attached
from unflinch.run_folder import RunFolder
from unflinch.steps.memory import plan_run
from unflinch.steps.mirror import mirror_step, open_for_all
from unflinch.steps.prepare import load_splits, splits_in_modes
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
    plan: MemoryPlan
    progress: Progress
    step_done: StepDone

    def step(self, name: str, work: Callable[[], Any], headline: Callable[[Any], dict[str, Any]]) -> Any:
        """Return a step's stored result, computing it first if it has not finished yet."""
        if not self.folder.done(name):
            give_back_memory()
            started = time.perf_counter()
            self.folder.write_step(name, work(), time.perf_counter() - started)
            mirror_step(self.folder, name)
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
    splits = all_or_none(lambda: load_splits(config.prompts))
    described = all_or_none(lambda: describe_from(config.model))
    plans = everyones(all_or_none(lambda: plan_run(config, splits, described)))
    plan = min(plans, key=lambda found: found.allowed.sums)  # all workers sum the same modules in the same pass
    opened = open_for_all(folder, as_settings(config), resume)
    tell("memory", plan.headline(), time.perf_counter() - started)
    loaded = load_from(config.model, described, plan.beside_weights)
    check_patchable(loaded, config.fit)
    asked = splits_in_modes(splits, loaded.modes, loaded.system_prompt)
    return Run(config, opened, loaded, asked, plan, progress or silent, tell)


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
        inputs, outputs = module_shape(model, name)
        factors[name] = LowRankFactors(torch.zeros(1, inputs), torch.zeros(outputs, 1))
    with attached(model, Patch(factors, loaded.base_hash)):
        pass


def describe_from(options: ModelOptions) -> Description:
    """Return tokenizer and config of the model that the options name."""
    return describe(options.model, options.revision, options.trust_remote_code)


def load_from(options: ModelOptions, described: Description | None = None, beside: int | None = None) -> LoadedModel:
    """Return the model that the options name, with the way in which they have it asked.

    Args:
        options: name the model.
        described: what `describe_from` has already read of it.
        beside: bytes that the run needs beside the weights, if known.
    """
    most = int(options.max_memory * GIB) if options.max_memory else None
    spread = Spreading(options.spread, beside, most) if options.spread else None
    loaded = all_or_none(
        lambda: load_model(
            options.model,
            dtype=options.dtype,
            device=options.device,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            layers=options.layers,
            writers=options.writers,
            load_in=options.load_in,
            spread=spread,
            described=described,
        )
    )
    modes = thinking_modes(loaded.thinking, options.thinking, options.model)
    thinking = loaded.thinking and replace(loaded.thinking, most_tokens=options.thinking_tokens)
    return replace(loaded, modes=modes, thinking=thinking, system_prompt=options.system_prompt)
