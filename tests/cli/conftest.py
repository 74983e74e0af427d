"""The command line as a user calls it, on a made-up pipeline and on a tiny random model."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from cli.fake_pipeline import FUNCTIONS, Answer, FakePipeline, TinyModel, Unflinch

from unflinch.cli.main import main


@pytest.fixture
def unflinch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Unflinch:
    """Call the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "1" if name.startswith("HF") else "error")

    def call(*arguments: str | Path) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return Answer(int(stop.value.code or 0), shown.out, shown.err)

    return call


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    """A pipeline that takes no time, in place of the real one."""
    fake = FakePipeline()
    module = ModuleType("unflinch.pipeline")
    for name in FUNCTIONS:
        setattr(module, name, getattr(fake, name))
    monkeypatch.setitem(sys.modules, "unflinch.pipeline", module)
    return fake


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A random chat model, and a random patch that changes its answers."""
    import torch
    from tiny_models import save_model, tiny_model

    from unflinch.artifacts import LowRankFactors, Patch
    from unflinch.models.fingerprint import weight_hash
    from unflinch.patch.save import save_patch

    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model("llama")
    generator = torch.Generator().manual_seed(3)
    factors = {}
    for name in ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"):
        outer, inner = model.get_submodule(name).weight.shape
        a, b = torch.randn(2, inner, generator=generator), torch.randn(outer, 2, generator=generator)
        factors[name] = LowRankFactors(a, b)
    patch = Patch(factors, weight_hash(model))
    return TinyModel(save_model(model, root / "model"), save_patch(patch, root / "run" / "patch", "tiny"), patch)
