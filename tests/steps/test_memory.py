"""A run that cannot fit is refused before anything is written, with what would fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from planted_model import config_for, planted_splits
from thinking_models import save_thinking_model
from tiny_models import save_model, tiny_model

from unflinch import pipeline
from unflinch.config import RunConfig, with_model
from unflinch.data.splits import Splits
from unflinch.errors import NotEnoughMemoryError
from unflinch.models.memory import GIB, memory_in_use
from unflinch.models.memory_plan import MemoryPlan
from unflinch.steps.memory import plan_run
from unflinch.steps.opened import describe_from

VOCABULARY = 60_000
"""Large enough that the weights' type decides."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which the config is there, and weights that are not its own."""
    made = save_model(tiny_model("qwen2"), tmp_path_factory.mktemp("model"))
    config = tiny_model("qwen2").config
    config.vocab_size, config.hidden_size, config.intermediate_size = VOCABULARY, 4096, 8192
    config.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def splits() -> Splits:
    """The prompts of a small run."""
    return planted_splits()


def planned(config: RunConfig, splits: Splits) -> MemoryPlan:
    """What a run plans."""
    return plan_run(config, splits, describe_from(config.model))


def test_a_plan_is_made_without_reading_a_weight(folder: Path, splits: Splits) -> None:
    plan = planned(config_for(folder), splits)
    used = memory_in_use(torch.device("cpu"))
    assert plan.device == "cpu"
    assert plan.needs > used / 2 + 4 * VOCABULARY * 4096
    assert plan.fits


def test_a_run_that_cannot_fit_is_refused_before_its_folder_is_made(folder: Path, tmp_path: Path) -> None:
    config = with_model(config_for(folder), max_memory=0.01)
    with pytest.raises(NotEnoughMemoryError, match=r"needs [\d.]+ GiB of memory on cpu and has 0.0 GiB; .*max_memory"):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_named_as_fitting_fits(folder: Path, splits: Splits) -> None:
    config = config_for(folder)
    needs = planned(config, splits).needs / GIB
    with pytest.raises(NotEnoughMemoryError) as refused:
        planned(with_model(config, max_memory=0.9 * needs), splits)
    smaller = re.search(r"would fit: dtype bfloat16 \(([\d.]+) GiB\)", str(refused.value))
    assert smaller and float(smaller[1]) <= 0.9 * needs
    half = planned(with_model(config, max_memory=0.9 * needs, dtype="bfloat16"), splits)
    assert half.needs / GIB == pytest.approx(float(smaller[1]), rel=0.1)


def test_thoughts_and_both_modes_are_in_the_plan(tmp_path: Path, splits: Splits) -> None:
    save_thinking_model(tmp_path)
    config = with_model(config_for(tmp_path), thinking_tokens=200)
    off, on, both = (planned(with_model(config, thinking=mode), splits) for mode in ("off", "on", "both"))
    assert off.steps["baseline"] < on.steps["baseline"]
    assert off.allowed.gradients == on.allowed.gradients
    assert both.allowed.gradients == 2 * off.allowed.gradients


def test_a_model_that_does_not_fit_is_spread_where_that_is_asked_for_and_named(folder: Path, splits: Splits) -> None:
    config = config_for(folder)
    whole = planned(config, splits)
    layers = 3 * 4 * (3 * 4096 * 8192 + 2 * 4096 * 4096)  # and more
    allowed = (whole.needs - layers // 4) / GIB
    with pytest.raises(NotEnoughMemoryError, match=r"would fit: .*spread devices \("):
        planned(with_model(config, max_memory=allowed), splits)
    plan = planned(with_model(config, max_memory=allowed, spread="devices"), splits)
    assert plan.fits
    assert re.fullmatch(r"[1-3] of 3 layers", plan.headline()["fetched"])
    assert "fetched" not in planned(with_model(config, spread="devices"), splits).headline()
