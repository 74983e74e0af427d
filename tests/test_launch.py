"""How threads wait depends on what else the computer does."""

from __future__ import annotations

import psutil
import pytest

from unflinch.launch import spins


@pytest.mark.parametrize(("others", "processors", "expected"), [(0.0, 2, 10_000), (10.0, 2, 10_000), (50.0, 2, 1_000)])
def test_threads_spin_for_long_on_a_quiet_computer_only(
    others: float, processors: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: others)
    monkeypatch.setattr(psutil, "cpu_count", lambda: processors)
    assert spins() == expected


def test_a_tenth_of_many_processors_is_work_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 10.0)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 64)
    assert spins() == 1_000
