"""Plain LoRA training on the targets, by trl: supervised on answers, and by preference of answers over refusals.

The answers are the model's own, given under directional ablation to the harmless `fit` targets that it refuses. Needs
`pip install trl`.
"""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from yardsticks import Material, Method, patched, read_adapter

from unflinch.artifacts import Patch
from unflinch.models.hooks import ablated_direction
from unflinch.validate.judges import RuleJudge
from unflinch.validate.refusal_rate import ask

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5)
_ASKED = 400
"""Most `fit` targets that are asked for this, besides those that the run has asked."""
_DECISION_TOKENS = 11
_ANSWER_TOKENS = 48
_LORA = {"r": 16, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
_TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1,
    "lr_scheduler_type": "cosine",
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 10_000,
    "disable_tqdm": True,
    "use_cpu": not torch.cuda.is_available(),
    "seed": 0,
}


def sft_lora(material: Material) -> Method:
    """Return supervised fine-tuning on the answers."""
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in _preferences(material)]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(output_dir=scratch, learning_rate=2e-4, max_length=256, **_TRAINING)
        patch = _trained(material, SFTTrainer, arguments, rows)
    return _method("SFT LoRA", material, patch, len(rows))


def dpo_lora(material: Material) -> Method:
    """Return direct preference optimisation of the answers over the base model's refusals."""
    from trl import DPOConfig, DPOTrainer

    rows = _preferences(material)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = DPOConfig(output_dir=scratch, learning_rate=5e-5, beta=0.1, max_length=256, **_TRAINING)
        patch = _trained(material, DPOTrainer, arguments, rows)
    return _method("DPO LoRA", material, patch, len(rows))


@cache
def _preferences(material: Material) -> list[dict[str, Any]]:
    """Return refused `fit` targets with the ablated model's answer and the base model's refusal, as messages."""
    loaded, scan = material.loaded, material.scan
    fit, judge = material.baseline.fit, RuleJudge()
    unasked = fit.unasked_targets[:_ASKED]
    more = ask(loaded.model, loaded.tokenizer, unasked, judge, _DECISION_TOKENS)
    refused = [(a.prompt, a.tokens) for a in fit.refused("targets")]
    refused += [(p, a.tokens) for p, a in zip(unasked, more, strict=True) if a.judgement.label == "refuses"]
    prompts = [prompt for prompt, _ in refused]
    direction = scan.ablation_direction.to(loaded.model.device)
    with ablated_direction(loaded.model, loaded.architecture, direction):
        answers = ask(loaded.model, loaded.tokenizer, prompts, judge, _ANSWER_TOKENS)
    return [
        {
            "prompt": prompt.conversation(),
            "chosen": [{"role": "assistant", "content": answer.text}],
            "rejected": [{"role": "assistant", "content": str(loaded.tokenizer.decode(list(tokens)))}],
        }
        for (prompt, tokens), answer in zip(refused, answers, strict=True)
        if answer.judgement.label == "answers"
    ]


def _trained(material: Material, trainer_class: Any, arguments: Any, rows: list[dict[str, Any]]) -> Patch:
    """Train a LoRA of every linear module on a copy of the model and return it as a patch."""
    from datasets import Dataset

    loaded = material.loaded
    torch.manual_seed(0)
    trainer = trainer_class(
        model=copy.deepcopy(loaded.model),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        peft_config=LoraConfig(**_LORA),
    )
    trainer.train()
    with tempfile.TemporaryDirectory() as scratch:
        trainer.model.save_pretrained(scratch)
        return read_adapter(Path(scratch), loaded.base_hash)


def _method(name: str, material: Material, patch: Patch, rows: int) -> Method:
    note = f"rank 16 in every linear module, one epoch on {rows} targets, scaled"
    return patched(name, material, patch, STRENGTHS, note)
