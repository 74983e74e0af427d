"""`results.json` of a run folder, read into dataclasses and checked while reading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unflinch.errors import RunFolderError
from unflinch.results import (
    FitStage,
    GroupRate,
    KLReport,
    LayerSeparation,
    Outcome,
    PatchSummary,
    PromptSetHash,
    RefusalCounts,
    StoredVerdict,
    Yardstick,
)
from unflinch.robustness_results import FormReport, Mechanism, StressReport
from unflinch.run_folder import RESULTS, read_object
from unflinch.validation_results import DialogueReport, ModeFigures


@dataclass(frozen=True)
class ModelFacts:
    """The base model that was patched."""

    id: str
    hub_id: str | None
    """The model on the Hub that it is, or was converted from."""
    model_type: str
    revision: str | None
    dtype: str
    parameters: int
    layers: int
    base_hash: str

    @property
    def name(self) -> str:
        """The Hub id, or the last part of a local path: the rest would tell strangers about the maker's disk."""
        return self.hub_id or re.split(r"[/\\]", self.id.rstrip("/\\"))[-1]


@dataclass(frozen=True)
class ScanFacts:
    """What `scan` measured and chose."""

    separations: tuple[LayerSeparation, ...]
    method: str
    best_layer: int
    layers: tuple[int, ...]
    rank: int
    separation: float
    number_of_layers: int


@dataclass(frozen=True)
class FitFacts:
    """The fitting steps in order, and the patch they ended with."""

    stages: tuple[FitStage, ...]
    patch: PatchSummary


@dataclass(frozen=True)
class RunResults:
    """One run: the keys of `results.json`, each under its own name."""

    unflinch: str
    name: str
    created: str
    model: ModelFacts
    settings: dict[str, Any]
    prompts: dict[str, dict[str, int]]
    """For `fit`, `select` and `test`: how many prompts of each kind there are, and how many of them base refuses."""
    scan: ScanFacts
    fit: FitFacts
    targets: RefusalCounts
    keep: RefusalCounts
    guard: RefusalCounts
    groups: dict[str, tuple[GroupRate, ...]]
    kl: KLReport
    directional_ablation: Yardstick
    outcomes: tuple[Outcome, ...]
    seconds: dict[str, float]
    verdict: StoredVerdict
    dialogues: DialogueReport | None = None
    """None in runs of before dialogues were led."""
    mechanism: Mechanism | None = None
    """None without a thorough validation, like the two below."""
    forms: FormReport | None = None
    stress: StressReport | None = None
    modes: tuple[ModeFigures, ...] = ()
    """Figures with thinking off and on; empty where the model knows no thinking."""
    data: dict[str, dict[str, PromptSetHash]] = field(default_factory=dict)
    """For every split and kind of prompt, which prompts they were; empty in runs of before it was written down."""


_READER = TypeAdapter(RunResults)


def parse_results(results: Mapping[str, Any], source: str = RESULTS) -> RunResults:
    """Return `results` as checked dataclasses.

    Args:
        results: the JSON object of a run.
        source: where it came from, for the message.

    Raises:
        RunFolderError: a key is missing or holds something of another kind; names the first such key.
    """
    try:
        return _READER.validate_python(dict(results))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunFolderError(
            f"{source} does not hold a complete run ({key}: {first['msg'].lower()}); run it again with this version"
        ) from error


def read_results(run_folder: Path) -> RunResults:
    """Return the results of a run folder.

    Raises:
        RunFolderError: `results.json` is missing, is not JSON, or lacks a key.
    """
    path = run_folder / RESULTS
    if not path.is_file():
        raise RunFolderError(f"{run_folder} holds no {RESULTS}; give the folder of a run that finished `validate`")
    return parse_results(read_object(path), str(path))
