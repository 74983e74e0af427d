"""The command line as a user calls it, on a made-up pipeline and on a tiny random model."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unflinch.cli.main import main
from unflinch.config import RunConfig, as_settings
from unflinch.data.prompts import Prompt
from unflinch.results import LayerSeparation
from unflinch.run_folder import open_run

REPORT_FIXTURES = Path(__file__).parents[1] / "report" / "conftest.py"
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} \n{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"


@dataclass
class Answer:
    """What a command returned and showed."""

    code: int
    out: str
    err: str


@pytest.fixture
def unflinch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Call the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "1" if name.startswith("HF") else "error")

    def call(*arguments: str | Path) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return Answer(int(stop.value.code or 0), shown.out, shown.err)

    return call


def make_results() -> dict[str, Any]:
    """Return the made-up results on which the report is tested too."""
    return dict(_report_fixtures().make_results())


def _report_fixtures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_fixtures", REPORT_FIXTURES)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class FakePipeline:
    """The functions of `unflinch.pipeline`, which finish at once with made-up results."""

    results: dict[str, Any] = field(default_factory=make_results)
    error: BaseException | None = None
    """Raised after the first step."""
    calls: list[tuple[str, RunConfig, Path | None]] = field(default_factory=list)
    refused: int = 2

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
        _report_fixtures().fail_guard(self.results)

    def _steps(self, names: Sequence[str], progress: Any, step_done: Any) -> None:
        for name in names:
            progress(f"{name}: asking targets", 0, 1000)
            progress(f"{name}: asking targets", 500, 1000)
            if self.error:
                raise self.error
            step_done(name, {"targets_refused": 180, "separation": 0.97231, "method": "whitened"}, 96.0)

    def run(
        self, config: RunConfig, folder: Path, *, resume: bool = False, progress: Any = None, step_done: Any = None
    ) -> dict[str, Any]:
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
        return {**self.results["scan"], "separations": separations}

    def run_fit(
        self, config: RunConfig, folder: Path, *, resume: bool = False, progress: Any = None, step_done: Any = None
    ) -> dict[str, Any]:
        self.calls.append(("run_fit", config, folder))
        open_run(folder, as_settings(config), resume)
        self._steps(("baseline", "scan", "fit"), progress, step_done)
        return dict(self.results["fit"])

    def run_validate(
        self, config: RunConfig, folder: Path, *, progress: Any = None, step_done: Any = None
    ) -> dict[str, Any]:
        self.calls.append(("run_validate", config, folder))
        self._steps(("validate", "report"), progress, step_done)
        self._write(folder)
        return self.results

    def mine(self, config: RunConfig, candidates: tuple[Prompt, ...], *, progress: Any = None) -> Any:
        self.calls.append(("mine", config, None))
        progress("asking", 0, len(candidates))

        @dataclass
        class Mined:
            refused: tuple[Prompt, ...]
            asked: int
            warnings: list[str]

        few = ["Only 2 prompts, fewer than 30: rates will be rough; add prompts."]
        return Mined(candidates[: self.refused], len(candidates), few if self.refused else [])

    def _write(self, folder: Path) -> None:
        (folder / "results.json").write_text(json.dumps(self.results), encoding="utf-8")
        (folder / "report.html").write_text("<p>report</p>", encoding="utf-8")
        if self.results["verdict"]["passed"]:
            (folder / "patch").mkdir(exist_ok=True)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    """A pipeline that takes no time, in place of the real one."""
    fake = FakePipeline()
    module = ModuleType("unflinch.pipeline")
    for name in ("run", "run_scan", "run_fit", "run_validate", "mine"):
        setattr(module, name, getattr(fake, name))
    monkeypatch.setitem(sys.modules, "unflinch.pipeline", module)
    return fake
