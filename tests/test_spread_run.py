"""A run whose layers are fetched from the disk while they run ends as one that holds them all."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_model import config_for
from run_results import comparable, differences
from safetensors.torch import load_file

from unflinch import pipeline
from unflinch.config import with_model
from unflinch.models import placement

pytestmark = pytest.mark.xdist_group("planted")
"""In the process that has trained the planted model."""


@pytest.mark.long
def test_a_run_on_fetched_layers_ends_with_the_figures_and_factors_of_one_that_holds_them(
    planted: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "place_layers", lambda layers, _others, _room: ["disk"] * len(layers))
    pipeline.run(with_model(config_for(planted), spread="devices"), tmp_path / "run")
    found, expected = comparable(tmp_path / "run"), comparable(finished)
    assert differences(expected, found) == {".settings.model.spread": (None, "devices")}
    for name, factor in load_file(finished / "patch" / "adapter_model.safetensors").items():
        other = load_file(tmp_path / "run" / "patch" / "adapter_model.safetensors")[name]
        assert float((other - factor).norm()) < 0.01 * float(factor.norm())
