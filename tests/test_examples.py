"""The examples do what they say."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
from planted_model import ANSWER, REFUSAL, config_for, planted_splits, refused_targets

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_quickstart_runs_reads_the_verdict_and_turns_the_dial(
    planted: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    targets = planted_splits().fit.targets
    question = next(p.text for p in targets if p.key in refused_targets(targets))
    runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"](config_for(planted), folder, question)
    shown = capsys.readouterr().out
    for expected in ("false refusals:", "right refusals lost: 0 of", "guard refusals lost: 0 of"):
        assert expected in shown
    on, _half, off = [line for line in shown.splitlines() if line.startswith("strength")]
    assert ANSWER in on
    assert REFUSAL in off
