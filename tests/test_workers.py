"""Runs of several workers: they end as a run of one does, and one that dies is told and leaves a run that goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from planted_model import config_for, write_config
from ports import free_port
from run_results import comparable, differences
from safetensors.torch import load_file

from unflinch import pipeline

pytestmark = pytest.mark.xdist_group("planted")
"""In the process that has trained the planted model."""

LONGEST = 400
"""Seconds that a run may take on a computer that is busy."""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.long
@pytest.mark.parametrize("spread", [(), ("--spread", "workers")])
def test_two_workers_end_with_the_figures_and_factors_of_one(
    spread: tuple[str, ...], planted: Path, finished: Path, tmp_path: Path
) -> None:
    settings = write_config(planted, tmp_path / "run.toml")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    options = ["--config", str(settings), "--name", "two", "--runs", str(tmp_path), "--json", *spread]
    command = ["-m", "unflinch", "run", *options]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [*launcher, *command],
        env=environment(TMPDIR=str(scratch)),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "two"  # one of them prints, once
    assert done.stderr.count("run folder") == 1
    assert not list(scratch.rglob("*.safetensors"))
    changed = {".settings.model.spread": (None, spread[1])} if spread else {}
    assert differences(comparable(finished), comparable(tmp_path / "two")) == changed
    for name, expected in load_file(finished / "patch" / "adapter_model.safetensors").items():
        found = load_file(tmp_path / "two" / "patch" / "adapter_model.safetensors")[name]
        assert float((found - expected).norm()) < 0.01 * float(expected.norm())


@pytest.mark.long
def test_where_a_worker_dies_the_other_says_so_and_the_run_goes_on_later(
    planted: Path, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "patch")
    for name in ("steps/validate.json", "steps/report.json", "results.json", "report.html"):
        (folder / name).unlink()
    command = [sys.executable, "-m", "unflinch", "run", "--resume", "--name", "run", "--runs", str(tmp_path)]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    start = partial(subprocess.Popen, command, stdout=subprocess.DEVNULL, text=True)
    with (
        start(env=environment(RANK="0", **place), stderr=subprocess.PIPE) as first,
        start(env=environment(RANK="1", **place), stderr=subprocess.DEVNULL) as second,
    ):
        try:
            heard = []
            while not any("validate: " in line for line in heard):
                heard.append(first.stderr.readline())
                assert heard[-1], heard
            second.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            _, rest = first.communicate(timeout=LONGEST)
        finally:
            first.kill()
            second.kill()
    assert first.returncode == 1
    assert time.monotonic() - killed < 60
    errors = [line for line in (*heard, *rest.splitlines()) if "error" in line.lower()]
    assert len(errors) == 1 and "worker 1 of 2 has lost the others" in errors[0] and "--resume" in errors[0]
    pipeline.run(config_for(planted), folder, resume=True)
    assert comparable(folder) == comparable(finished)
