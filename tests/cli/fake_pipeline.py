"""A pipeline that takes no time, and the command line as tests call it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from report.conftest import fail_guard, make_results

from unflinch.config import RunConfig, as_settings
from unflinch.data.mine import MinedPrompts
from unflinch.data.prompts import Prompt
from unflinch.metrics.intervals import rate
from unflinch.results import LayerSeparation
from unflinch.robustness_results import Ablation, Mechanism
from unflinch.run_folder import open_run

MECHANISM = Mechanism(
    7, (0.6, 0.9), rate(9, 10), rate(0, 10), rate(1, 10), (Ablation(1, 14, rate(1, 20), rate(8, 20)),)
)
FUNCTIONS = ("run", "run_scan", "run_fit", "run_validate", "mine")


@dataclass
class Answer:
    """What a command returned and showed."""

    code: int
    out: str
    err: str


class Unflinch(Protocol):
    """The command line in an empty folder."""

    def __call__(self, *arguments: str | Path) -> Answer: ...


@dataclass(frozen=True)
class TinyModel:
    """A model folder and a patch folder for it, with the patch also as tensors."""

    folder: Path
    patch_folder: Path
    patch: Any


@dataclass
class FakePipeline:
    """The functions of `unflinch.pipeline`, which finish at once with made-up results, and what they were given."""

    results: dict[str, Any] = field(default_factory=make_results)
    error: BaseException | None = None
    """Raised after the first step."""
    calls: list[tuple[str, RunConfig, Path | None]] = field(default_factory=list)
    refused: int = 2
    """How many candidates `mine` finds refused."""
    thorough: bool = False
    """Whether the last run or validation was to be thorough."""
    warning: str = ""
    """Logged in the first step."""

    @property
    def config(self) -> RunConfig:
        """The config of the last call."""
        return self.calls[-1][1]

    @property
    def folder(self) -> Path | None:
        """The run folder of the last call."""
        return self.calls[-1][2]

    def fail_guard(self) -> None:
        """Make the next run one that loses guard refusals."""
        fail_guard(self.results)

    def _steps(self, names: Sequence[str], progress: Any, step_done: Any) -> None:
        for name in names:
            progress(f"{name}: asking targets", 0, 1000)
            progress(f"{name}: asking targets", 500, 1000)
            if self.warning:
                logging.getLogger("unflinch.data").warning(self.warning)
            if self.error:
                raise self.error
            step_done(name, {"targets_refused": 180, "separation": 0.97231, "method": "whitened"}, 96.0)

    def run(
        self,
        config: RunConfig,
        folder: Path,
        *,
        resume: bool = False,
        thorough: bool = False,
        progress: Any = None,
        step_done: Any = None,
    ) -> dict[str, Any]:
        self.thorough = thorough
        self.calls.append(("run", config, folder))
        open_run(folder, as_settings(config), resume)
        self._steps(("baseline", "scan", "fit", "validate", "report"), progress, step_done)
        self._write(folder)
        return self.results

    def run_scan(
        self, config: RunConfig, folder: Path, *, resume: bool = False, progress: Any = None, step_done: Any = None
    ) -> dict[str, Any]:
        self.calls.append(("run_scan", config, folder))
        open_run(folder, as_settings(config), resume)
        self._steps(("baseline", "scan"), progress, step_done)
        separations = [LayerSeparation(**one) for one in self.results["scan"]["separations"]]
        return {**self.results["scan"], "separations": separations, "mechanism": MECHANISM}

    def run_fit(
        self, config: RunConfig, folder: Path, *, resume: bool = False, progress: Any = None, step_done: Any = None
    ) -> dict[str, Any]:
        self.calls.append(("run_fit", config, folder))
        open_run(folder, as_settings(config), resume)
        self._steps(("baseline", "scan", "fit"), progress, step_done)
        return dict(self.results["fit"])

    def run_validate(
        self,
        config: RunConfig,
        folder: Path,
        *,
        thorough: bool = True,
        progress: Any = None,
        step_done: Any = None,
    ) -> dict[str, Any]:
        self.thorough = thorough
        self.calls.append(("run_validate", config, folder))
        self._steps(("validate", "report"), progress, step_done)
        self._write(folder)
        return self.results

    def mine(self, config: RunConfig, candidates: tuple[Prompt, ...], *, progress: Any = None) -> MinedPrompts:
        self.calls.append(("mine", config, None))
        progress("asking", 0, len(candidates))

        few = ["Only 2 prompts, fewer than 30: rates will be rough; add prompts."]
        return MinedPrompts(candidates[: self.refused], len(candidates), few)

    def _write(self, folder: Path) -> None:
        (folder / "results.json").write_text(json.dumps(self.results), encoding="utf-8")
        (folder / "report.html").write_text("<p>report</p>", encoding="utf-8")
        if self.results["verdict"]["passed"]:
            (folder / "patch").mkdir(exist_ok=True)
