"""The examples do what they say."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest
from planted_model import ANSWER, REFUSAL, config_for

pytestmark = pytest.mark.xdist_group("planted")
"""One process trains the planted model and runs it, for all tests here and in the other file of this group."""

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_quickstart_runs_reads_the_verdict_and_turns_the_dial(
    planted: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    question = next(o["text"] for o in results["outcomes"] if (o["kind"], o["after"]) == ("target", "answers"))
    runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"](config_for(planted), folder, question)
    shown = capsys.readouterr().out
    targets = results["targets"]
    assert f"false refusals: {targets['n']} -> {targets['refused_after']} of {targets['n']}" in shown
    assert f"right refusals lost: {results['keep']['lost']} of {results['keep']['n']}" in shown
    on, _half, off = [line for line in shown.splitlines() if line.startswith("strength")]
    assert ANSWER.removesuffix(" for you.") in on  # so tiny a model may go round in circles at the end
    assert REFUSAL in off
