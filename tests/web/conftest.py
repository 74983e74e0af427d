"""Run folders of a tiny random model, to be looked at and talked to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report.conftest import fail_guard, make_results
from tiny_models import save_model, tiny_model
from tiny_patches import random_patch

from unflinch.models.fingerprint import weight_hash
from unflinch.patch.save import save_patch
from unflinch.report.build import build_report
from unflinch.web.runs import Runs
from unflinch.web.speaker import Speaker, SpeakerOptions


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `demo` and `other`, which passed, and `failed`, which did not."""
    folder = tmp_path_factory.mktemp("web")
    model = tiny_model("llama")
    save_model(model, folder / "model")
    for seed, name in enumerate(("other", "demo", "failed")):
        results = make_results()
        results["name"] = name
        results["model"] |= {"id": str(folder / "model"), "revision": None}
        results["settings"] = {**results["settings"], "model": {"model": str(folder / "model"), "dtype": "float32"}}
        if name == "failed":
            fail_guard(results)
        else:
            patch = random_patch(model, seed=seed, base_hash=weight_hash(model))
            save_patch(patch, folder / "runs" / name / "patch", "tiny")
        write_results(folder / "runs" / name, results)
    build_report(folder / "runs" / "demo")
    return folder / "runs"


def write_results(run: Path, results: dict[str, Any]) -> None:
    """Write `results.json` of a run folder."""
    run.mkdir(exist_ok=True, parents=True)
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")


@pytest.fixture(scope="session")
def runs(root: Path) -> Runs:
    return Runs(root)


@pytest.fixture(scope="session")
def speaker() -> Iterator[Speaker]:
    """What answers, six tokens at most."""
    made = Speaker(SpeakerOptions(max_tokens=6, device="cpu"))
    yield made
    made.close()
