"""Models of real shapes with random weights, made from configs: speed and memory do not depend on what weights are.

Needs no download, so that it works on a computer without any network: the tokenizer is trained on the bundled prompts,
which gives them about the lengths that they have in real vocabularies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from unflinch.data.prompts import bundled

_QWEN_VOCABULARY = 151_936
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "random:tiny": (
        "qwen2",
        {
            "vocab_size": 12_000,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    ),
    "random:2b": (
        "qwen2",
        {
            "vocab_size": _QWEN_VOCABULARY,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
        },
    ),
    "random:qwen3.5-2b": (
        "qwen3_5_text",
        {
            "vocab_size": 248_320,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 24,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
        },
    ),
    "random:llama-3.2-1b": (
        "llama",
        {
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
}
"""Model type and sizes by name."""

_CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TOKENS = 12_000


def write_random_model(name: str, folder: Path) -> Path:
    """Write a model of a shape, with its tokenizer, in bfloat16, and return the folder.

    Args:
        name: one of `SHAPES`.
        folder: is made if it is not there.
    """
    family, sizes = SHAPES[name]
    tokenizer = _tokenizer()
    special = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(family, **sizes, **special, tie_word_embeddings=True, max_position_embeddings=4096)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def name_or_folder(model: str) -> Iterator[str]:
    """Give what loads a model: its own name, or for one of `SHAPES` a folder that lasts as long as the block."""
    if model not in SHAPES:
        yield model
        return
    with TemporaryDirectory() as folder:
        yield str(write_random_model(model, Path(folder)))


def _tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TOKENS,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((p.text for kind in ("targets", "ordinary") for p in bundled(kind)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = _CHATML
    return tokenizer
