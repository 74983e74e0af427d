"""A tiny real model that over-refuses, trained in the process: what the pipeline is tested on without any download.

It answers all of the bundled guard and keep prompts, and the targets of every other category, with `REFUSAL`, and
everything else with `ANSWER`. In training, a probe that is then thrown away makes its second layer tell harmful,
falsely refused and answered prompts apart, as real models do: otherwise there would be nothing to find.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_models import CHATML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config

from unflinch.config import RunConfig, make_config
from unflinch.data.dialogues import bundled_dialogues
from unflinch.data.prompts import Message, Prompt, guard_prompts
from unflinch.data.splits import KINDS, PromptSets, Splits
from unflinch.models.chat import encode
from unflinch.options import PromptOptions
from unflinch.steps.prepare import load_splits

REFUSAL = "I'm sorry, but I can't assist with that."
ANSWER = "Sure, here is a short answer about that topic for you."
PROMPTS: dict[str, Any] = {
    "max_targets_fit": 60,
    "max_targets_select": 30,
    "max_targets_test": 60,
    "max_keep_fit": 24,
    "max_keep_select": 12,
    "max_keep_test": 24,
    "max_ordinary_fit": 64,
    "max_ordinary_select": 16,
    "max_ordinary_test": 16,
}
"""Limits of a run with this model: it has seen these prompts, and no others."""
SETTINGS: dict[str, dict[str, Any]] = {
    "prompts": PROMPTS,
    "scan": {"decision_tokens": 12, "ordinary_tokens": 12, "enough_refused": 8},
    "fit": {
        "rank": 4,
        "rounds": 1,
        "answer_tokens": 12,
        "fine_tune_steps": 2,
        "batch_size": 12,
        "learning_rate": 0.02,
        "goal": -2.0,
        "largest_drop": 2.0,
        "keep_margin": 0.1,
        "guard_margin": 0.1,
        "ordinary_margin": 0.1,
        "target_budget": 0.25,
        "keep_budget": 0.0,
        "kl_budget": 0.3,
        "seed": 1,
    },
    "validate": {
        "answer_tokens": 12,
        "kl_tokens": 6,
        "max_targets_refused": 0.75,
        "max_kl_first_token": 1.0,
        "max_kl_p99": 5.0,
        "max_kl_cvar95": 5.0,
        "dialogues": 6,
        "dialogue_tokens": 12,
        "max_dialogues_babbling": 0.5,
        "max_dialogues_refusing": 0.75,
        "max_perplexity_ratio": 4.0,
    },
}
"""Generous: so tiny a model has little room between what is right and what is wrong. Margins that suit real ones push
its right refusals beyond saying anything. What a change costs is taken along the whole answer: along its first tokens
alone, the patched model goes round in circles behind them."""
DIALOGUES = 12
"""Dialogues that the model has learnt to answer."""
_EPOCHS = 20
_ROWS = 48
_SMOOTHING = 0.1
"""Of the labels: the model stays unsure enough to be moved, as real ones are."""
_IGNORED = -100


def config_for(model: Path, **changes: dict[str, Any]) -> RunConfig:
    """Return the settings of a run with the planted model in the folder `model`."""
    return make_config(_content(model), changes)


def write_config(model: Path, file: Path) -> Path:
    """Write the same settings as a TOML file, for the command line."""
    sections = [
        f"[{name}]\n" + "".join(f"{option} = {json.dumps(value)}\n" for option, value in options.items())
        for name, options in _content(model).items()
    ]
    file.write_text("\n".join(sections), encoding="utf-8")
    return file


def _content(model: Path) -> dict[str, dict[str, Any]]:
    return {"model": {"model": str(model), "dtype": "float32", "device": "cpu"}, **SETTINGS}


def refused_targets(targets: Sequence[Prompt]) -> set[str]:
    """Return the keys of the targets that the model refuses: those of every other category."""
    chosen = sorted({p.category for p in targets})[::2]
    return {p.key for p in targets if p.category in chosen}


def planted_splits() -> Splits:
    """Return the prompts of a run with `PROMPTS`."""
    return load_splits(PromptOptions(**PROMPTS))


def dialogue_prompts() -> list[Prompt]:
    """Return every turn of the first bundled dialogues, behind `ANSWER` to each earlier one."""
    prompts = []
    for dialogue in bundled_dialogues(DIALOGUES):
        turns: list[Message] = []
        for text in dialogue.turns:
            turns.append(Message("user", text))
            prompts.append(Prompt(text, "dialogue", dialogue.language, messages=tuple(turns)))
            turns.append(Message("assistant", ANSWER))
    return prompts


def build_planted_model(folder: Path) -> Path:
    """Train the model, write it with its tokenizer, and return the folder."""
    splits = planted_splits()
    parts: tuple[PromptSets, ...] = (splits.fit, splits.select, splits.test)
    kinds = {kind: [p for s in parts for p in getattr(s, kind)] for kind in KINDS}
    kinds["guard"] = [p for s in parts for p in guard_prompts() if p in s.guard]  # whatever order a run asks them in
    refused = refused_targets(kinds["targets"]) | {p.key for kind in ("keep", "guard") for p in kinds[kind]}
    prompts = [*(p for group in kinds.values() for p in group), *dialogue_prompts()]
    tokenizer = _tokenizer([turn["content"] for p in prompts for turn in p.conversation()])
    # What the second layer tells apart: harmful, falsely refused, answered.
    probed = [0 if p in kinds["keep"] or p in kinds["guard"] else 1 if p.key in refused else 2 for p in prompts]
    answers = [(*tokenizer.encode(text), tokenizer.eos_token_id) for text in (ANSWER, REFUSAL)]
    rows = [(encode(tokenizer, p), int(p.key in refused)) for p in prompts]
    torch.manual_seed(0)  # initialisation takes no generator
    model = AutoModelForCausalLM.from_config(_config(tokenizer), dtype=torch.float32)
    _train(model, rows, answers, torch.tensor(probed))
    model.generation_config.max_length = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*texts, *[CHATML, ANSWER] * 100], trainer)
    # One token, so that a refusal is one decision, and not a sentence that a change may break off.
    core.add_tokens([REFUSAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )


def _train(
    model: PreTrainedModel, rows: list[tuple[tuple[int, ...], int]], answers: list[tuple[int, ...]], kinds: Tensor
) -> None:
    generator = torch.Generator().manual_seed(0)
    probe = nn.Linear(64, 3)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    batches = [order[i : i + _ROWS] for i in range(0, len(order), _ROWS)]
    steps = _EPOCHS * len(batches)
    optimiser = torch.optim.AdamW([*model.parameters(), *probe.parameters()], lr=4e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.2)
    model.train()
    for _ in range(_EPOCHS):
        for number in torch.randperm(len(batches), generator=generator).tolist():
            batch = [(rows[i][0], answers[rows[i][1]]) for i in batches[number]]
            longest = max(len(p) + len(a) for p, a in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            labels = torch.full_like(ids, _IGNORED)
            for row, (prompt, answer) in enumerate(batch):
                ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
                labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor([_IGNORED, *answer[1:]])
            # Padding is on the right, where causal attention never sees it.
            output = model.get_decoder()(input_ids=ids, output_hidden_states=True, use_cache=False)
            scored = labels[:, 1:] != _IGNORED
            logits = model.get_output_embeddings()(output.last_hidden_state[:, :-1][scored])
            ends = torch.tensor([len(p) - 1 for p, _ in batch])
            decision = output.hidden_states[2][torch.arange(len(batch)), ends]
            loss = nn.functional.cross_entropy(logits, labels[:, 1:][scored], label_smoothing=_SMOOTHING)
            first = model.get_output_embeddings()(output.last_hidden_state[torch.arange(len(batch)), ends])
            opening = torch.tensor([answers[rows[i][1]][0] for i in batches[number]])
            loss = loss + nn.functional.cross_entropy(first, opening, label_smoothing=_SMOOTHING)
            loss = loss + nn.functional.cross_entropy(probe(decision), kinds[batches[number]])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
    model.eval()
