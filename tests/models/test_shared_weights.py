"""Workers that hold the layers together read what one that holds them alone reads, each in its own time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ports import free_port
from tiny_models import save_model, tiny_model

from unflinch.errors import ConfigError
from unflinch.models.load import load_model
from unflinch.models.placement import Spreading

WORKER = Path(__file__).parent / "sharing_worker.py"
LONGEST = 240


def read_by(workers: int, model: Path, out: Path) -> list[dict[str, Any]]:
    """Return what each of some workers found."""
    out.mkdir()
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    paths = os.pathsep.join(sys.path)
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(model), str(out)],
            env={**os.environ, **place, "PYTHONPATH": paths, "WORLD_SIZE": str(workers), "RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(workers)
    ]
    for process in started:
        assert process.wait(LONGEST) == 0, process.communicate()[1]
        process.communicate()
    return [torch.load(out / f"{number}.pt") for number in range(workers)]


@pytest.mark.long
@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_three_workers_read_as_one_whatever_each_of_them_has_to_read(family: str, tmp_path: Path) -> None:
    model = save_model(tiny_model(family), tmp_path / "model")
    (alone,) = read_by(1, model, tmp_path / "one")
    together = read_by(3, model, tmp_path / "three")
    weights = sum(4 * p.numel() for p in tiny_model(family).get_decoder().layers.parameters())
    assert all(worker["held"] < 0.4 * weights for worker in together)  # a third, and padding
    for worker in together:
        assert worker["hash"] == alone["hash"]
        assert worker["everyone"] == 3
        for found, expected in zip(worker["alone"], alone["alone"], strict=False):
            assert torch.equal(found, expected)
        assert torch.equal(worker["first"], alone["first"])
        torch.testing.assert_close(worker["together"], alone["together"])
        for found, expected in zip(worker["gradients"], alone["gradients"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert [len(worker["alone"]) for worker in together] == [7, 0, 2]


def test_one_worker_shares_with_nobody(tmp_path: Path) -> None:
    folder = save_model(tiny_model("qwen2"), tmp_path)
    with pytest.raises(ConfigError, match="torchrun"):
        load_model(str(folder), dtype="float32", device="cpu", spread=Spreading("workers"))
