"""What all tests share: no network, two threads in all, shapes checked at run time, no GPU test without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("MPLBACKEND", "Agg")
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# Threads that spin while they wait make tiny matrices a hundred times slower where the cores are taken.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jaxtyping

# Before the first import of unflinch: from here on a wrong shape or type in any of its functions is an error.
jaxtyping.install_import_hook("unflinch", "typechecks.check")

import hypothesis
import pytest

# The same examples on every machine and no time limit for one: a red run can be repeated, a slow computer is not a bug.
hypothesis.settings.register_profile("unflinch", deadline=None, derandomize=True)
hypothesis.settings.load_profile("unflinch")


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the planted model."""
    from planted_model import build_planted_model

    if "PYTEST_XDIST_WORKER" in os.environ:
        # Trained once: whatever needs it is in one group of tests, which one process runs.
        (tmp_path_factory.getbasetemp().parent / "planted").touch(exist_ok=False)
    return build_planted_model(tmp_path_factory.mktemp("planted") / "model")


@pytest.fixture(scope="session")
def finished(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run with the planted model."""
    from planted_model import config_for

    from unflinch import pipeline

    folder = tmp_path_factory.mktemp("runs") / "whole"
    pipeline.run(config_for(planted), folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first; skip those marked `gpu` where torch sees none, which is not loaded if none asks."""
    items.sort(key=lambda item: (item.path.stem != "test_end_to_end", item.path.stem != "test_pipeline"))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU"))
