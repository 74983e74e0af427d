"""Plain LoRA training on the targets, by trl: supervised on answers, and by preference of answers over refusals.

The answers are the model's own, given under directional ablation to harmless `fit` targets that it refuses; they are
cut short and kept in memory. Needs `pip install trl==1.16.0`.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from yardsticks import Material, describe

from unflinch.data.prompts import Prompt
from unflinch.models.chat import encode
from unflinch.models.hooks import ablated_direction
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import ask

_DECISION_TOKENS = 11
_ANSWER_TOKENS = 32
_PROMPT_TOKENS = 64
"""Longer prompts are left out, so that no sequence has more than 96 tokens."""
_LORA = {"r": 16, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
_TRAINING: dict[str, Any] = {
    "num_train_epochs": 1,
    "max_length": _PROMPT_TOKENS + _ANSWER_TOKENS,
    "gradient_checkpointing": False,
    "lr_scheduler_type": "cosine",
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 5,
    "disable_tqdm": True,
    "use_cpu": not torch.cuda.is_available(),
    "seed": 0,
}


@dataclass(frozen=True)
class Pair:
    """A refused target with an answer and the refusal, as tokens: cut answers do not end."""

    prompt: Prompt
    asked: tuple[int, ...]
    answer: tuple[int, ...]
    refusal: tuple[int, ...]


def preference_pairs(material: Material, most: int) -> list[Pair]:
    """Return refused short `fit` targets with the ablated model's answer and the base model's refusal."""
    loaded, scan, judge = material.loaded, material.scan, BundledJudge()

    def short(prompt: Prompt) -> bool:
        return len(encode(loaded.tokenizer, prompt)) <= _PROMPT_TOKENS

    refused = [(a.prompt, a.tokens) for a in material.baseline.fit.refused("targets") if short(a.prompt)][:most]
    unasked = [p for p in material.baseline.fit.unasked_targets if short(p)][: 3 * (most - len(refused)) // 2]
    more = ask(loaded.model, loaded.tokenizer, unasked, judge, _DECISION_TOKENS)
    refused += [(p, a.tokens) for p, a in zip(unasked, more, strict=True) if a.judgement.label == "refuses"]
    with ablated_direction(loaded.model, loaded.architecture, scan.ablation_direction.to(loaded.model.device)):
        answers = ask(loaded.model, loaded.tokenizer, [prompt for prompt, _ in refused], judge, _ANSWER_TOKENS)
    pairs = [
        Pair(prompt, tuple(encode(loaded.tokenizer, prompt)), answer.tokens, tokens)
        for (prompt, tokens), answer in zip(refused, answers, strict=True)
        if answer.judgement.label == "answers"
    ]
    return pairs[:most]


def train_sft(material: Material, pairs: list[Pair], folder: Path) -> None:
    """Write an adapter from supervised fine-tuning on the answers."""
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"input_ids": [*pair.asked, *pair.answer], "labels": [-100] * len(pair.asked) + list(pair.answer)}
        for pair in pairs
    ]
    options = {"learning_rate": 2e-4, "per_device_train_batch_size": 8, **_TRAINING}
    with tempfile.TemporaryDirectory() as scratch:
        _train(material, SFTTrainer, SFTConfig(output_dir=scratch, **options), rows, folder)
    _describe(material, pairs, folder, "trl 1.16 SFT")


def train_dpo(material: Material, pairs: list[Pair], folder: Path) -> None:
    """Write an adapter from direct preference optimisation of the answers over the base model's refusals."""
    from trl import DPOConfig, DPOTrainer

    class OnTokens(DPOTrainer):
        """Takes rows that are tokens already: from texts, trl would have every cut answer end."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    rows = [{"prompt_ids": list(p.asked), "chosen_ids": list(p.answer), "rejected_ids": list(p.refusal)} for p in pairs]
    options = {"learning_rate": 5e-5, "beta": 0.1, "per_device_train_batch_size": 4, **_TRAINING}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = DPOConfig(output_dir=scratch, precompute_ref_log_probs=True, **options)
        _train(material, OnTokens, arguments, rows, folder)
    _describe(material, pairs, folder, "trl 1.16 DPO")


def _train(material: Material, trainer_class: Any, arguments: Any, rows: list[dict[str, Any]], folder: Path) -> None:
    """Train a LoRA of every linear module on a copy of the model and write it."""
    from datasets import Dataset

    torch.manual_seed(0)
    trainer = trainer_class(
        model=copy.deepcopy(material.loaded.model),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=material.loaded.tokenizer,
        peft_config=LoraConfig(**_LORA),
    )
    trainer.train()
    trainer.model.save_pretrained(folder)


def _describe(material: Material, pairs: list[Pair], folder: Path, what: str) -> None:
    note = f"{what}, rank 16 in every linear module, one epoch on {len(pairs)} harmless targets, scaled"
    describe(folder, material, note, [pair.prompt for pair in pairs])
