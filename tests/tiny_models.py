"""Tiny random models and a tokenizer, made in the process from configs: no network, no file.

`pythonpath` in pyproject.toml makes this module importable from every test.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tiny_families import CONFIGS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

WIDTH = 32
DEPTH = 3
SYSTEM = "You are a helpful assistant."
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = (
    SYSTEM,
    "How do I kill a process that does not react?",
    "What is the capital of France? Paris is the capital.",
    "I'm sorry, but I can't help with that request.",
    "user assistant system",
)

_COMMON: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "pad_token_id": None,
}
KNOWN = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "smollm3", "olmo2", "granite", "phi3")
"""Families on which all properties are tested, not only those that `models/test_families.py` asks of every row."""
READ_OFF = ("stablelm", "cohere", "gpt_neox")
"""Families without a row whose structure can be read off."""


@lru_cache(maxsize=1)
def _trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def tiny_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer, ChatML by default."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    """Return the config of a tiny model of the family; `eos_token_id` is the tokenizer's."""
    tokenizer = tiny_tokenizer()
    sizes = {**_COMMON, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    own = CONFIGS[family]
    if "text_config" in own:
        return AutoConfig.for_model(family, **{**own, "text_config": {**sizes, **own["text_config"]}, **changes})
    return AutoConfig.for_model(family, **{**sizes, **own, **changes})


def tiny_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """Return a frozen random model; its weights are large enough that every part of it moves the logits."""
    config = tiny_config(family, **changes)
    kind = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(seed)  # initialisation takes no generator
        model = kind.from_config(config, dtype=dtype)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * 0.25)
            else:
                parameter.add_(noise * 0.25)
    model.generation_config.max_length = None
    return model.eval().requires_grad_(False)


def save_model(model: PreTrainedModel, folder: Path, chat_template: str | None = CHATML) -> Path:
    """Write model and tokenizer as transformers does, and return the folder."""
    model.save_pretrained(folder)
    tiny_tokenizer(chat_template).save_pretrained(folder)
    return folder


def random_ids(lengths: tuple[int, ...], start: tuple[int, ...] = (), seed: int = 0) -> list[tuple[int, ...]]:
    """Return sequences of these lengths without special tokens, all with the same `start`."""
    generator = torch.Generator().manual_seed(seed)
    size = len(tiny_tokenizer())
    rows = [torch.randint(3, size, (length - len(start),), generator=generator).tolist() for length in lengths]
    return [(*start, *row) for row in rows]


def own_logits(model: PreTrainedModel, ids: tuple[int, ...]) -> torch.Tensor:
    """Return the model's own float32 logits `(tokens, vocab)` of one unpadded row."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float()
