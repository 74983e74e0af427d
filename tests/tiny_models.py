"""Tiny random models and a tokenizer, made in the process from configs: no network, no file.

`pythonpath` in pyproject.toml makes this module importable from every test.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
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
_WINDOW = 8
"""Shorter than most test prompts, so that sliding windows matter."""
_CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "mistral": (MistralConfig, {"sliding_window": _WINDOW}),
    "gemma2": (
        Gemma2Config,
        {
            "head_dim": 8,
            "sliding_window": _WINDOW,
            "query_pre_attn_scalar": 8,
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 5.0,
            "attn_implementation": "eager",
        },
    ),
    "gemma3_text": (
        Gemma3TextConfig,
        {
            "head_dim": 8,
            "sliding_window": _WINDOW,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "smollm3": (SmolLM3Config, {"no_rope_layers": [1, 0, 1]}),
    "olmo2": (Olmo2Config, {}),
    "granite": (
        GraniteConfig,
        {
            "logits_scaling": 4.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
        },
    ),
    "phi3": (Phi3Config, {"sliding_window": _WINDOW}),
    "stablelm": (StableLmConfig, {}),
    "cohere": (CohereConfig, {"logit_scale": 0.25}),
    "gpt_neox": (GPTNeoXConfig, {"num_key_value_heads": None}),
    "gpt2": (GPT2Config, {}),
}
KNOWN = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "smollm3", "olmo2", "granite", "phi3")
"""Families that have a row in the table of architectures."""
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
    kind, own = _CONFIGS[family]
    tokenizer = tiny_tokenizer()
    values = {**_COMMON, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **own, **changes}
    return kind(**values)


def tiny_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """Return a frozen random model; its weights are large enough that every part of it moves the logits."""
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
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
