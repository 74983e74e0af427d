"""`unflinch web` up to the moment when it serves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli.fake_pipeline import Unflinch
from report.conftest import make_results
from web.conftest import write_results

from unflinch.web.server import open_port


def test_without_a_run_it_is_said_how_to_make_one(unflinch: Unflinch) -> None:
    answer = unflinch("web")
    assert answer.code == 2
    assert "unflinch demo" in answer.err


def test_a_folder_that_is_no_finished_run_is_named(unflinch: Unflinch) -> None:
    answer = unflinch("web", "runs/nothing")
    assert answer.code == 2
    assert "no finished run 'nothing'" in answer.err


def test_where_gradio_is_missing_its_extra_is_named(
    unflinch: Unflinch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path / "runs" / "demo", make_results())
    monkeypatch.setitem(sys.modules, "gradio", None)
    answer = unflinch("web")
    assert answer.code == 2
    assert "unflinch[web]" in answer.err


def test_a_taken_port_is_told(unflinch: Unflinch, tmp_path: Path) -> None:
    write_results(tmp_path / "runs" / "demo", make_results())
    with open_port(0) as listening:
        listening.listen()
        answer = unflinch("web", "--port", str(listening.getsockname()[1]))
    assert answer.code == 2
    assert "give another --port" in answer.err
