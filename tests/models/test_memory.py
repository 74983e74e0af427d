"""Free memory is what the container leaves, where there is one."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch

from unflinch.models import memory
from unflinch.models.memory import free_memory, give_back_memory, left_in_container, memory_in_use


@pytest.mark.parametrize(
    ("limit", "usage", "reclaimable"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_what_the_container_leaves_is_its_limit_less_what_cannot_be_reclaimed(
    tmp_path: Path, limit: str, usage: str, reclaimable: str
) -> None:
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / usage).write_text("700\n")
    (tmp_path / limit).with_name("memory.stat").write_text(f"anon 500\n{reclaimable} 150\n")
    assert left_in_container(tmp_path) == 1000 - 700 + 150


def test_without_a_limit_the_container_says_nothing(tmp_path: Path) -> None:
    assert left_in_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert left_in_container(tmp_path) is None


def test_no_more_is_free_on_the_cpu_than_the_machine_has() -> None:
    assert 0 < free_memory(torch.device("cpu")) <= psutil.virtual_memory().total


def test_workers_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "left_in_container", lambda _root: 1000)
    free = [free_memory(torch.device("cpu"))]
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
        free.append(free_memory(torch.device("cpu")))
    assert free == [1000, 250, 500]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' allocators keep less")
def test_what_a_step_has_freed_is_given_back() -> None:
    cpu = torch.device("cpu")
    give_back_memory()
    before = memory_in_use(cpu)
    pieces = [torch.ones(5000) for _ in range(10_000)]  # 200 MB in pieces that are not mapped one by one
    kept = pieces[::1000]
    held = memory_in_use(cpu) - before
    del pieces
    give_back_memory()
    assert held > 150e6
    assert memory_in_use(cpu) - before < 0.2 * held
    assert float(kept[0].sum()) == 5000
