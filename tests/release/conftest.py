"""A patch folder as a run that passed leaves it; its base model is not needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from report.conftest import make_results

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.patch.save import save_patch
from unflinch.provenance import write_provenance
from unflinch.report.model_card import model_card
from unflinch.report.provenance import patch_provenance

Make = Callable[..., Path]


@pytest.fixture
def make_patch(tmp_path: Path) -> Make:
    """Return a function that makes the folder from results."""

    def make(results: dict[str, Any] | None = None) -> Path:
        found = results or make_results()
        modules = [f"model.layers.{layer}.mlp.down_proj" for layer in (3, 4, 5)]
        factors = {name: LowRankFactors(torch.ones(2, 8), torch.ones(4, 2)) for name in modules}
        factors["model.layers.4.self_attn.q_proj"] = LowRankFactors(torch.ones(1, 4), torch.ones(4, 1))
        patch = Patch(factors, found["model"]["base_hash"])
        folder = save_patch(patch, tmp_path / "patch", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "ea3f2471cf1b")
        write_provenance(folder, patch_provenance(found))
        (folder / "README.md").write_text(model_card(found), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def patch_folder(make_patch: Make) -> Path:
    """The folder of a run that passed."""
    return make_patch()
