"""Chat templates of models that think, and a tiny model that does as they say, written by hand: no training."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

_TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_REMEMBERS_ANSWERS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
)

SWITCHED = _TURNS + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""As Qwen3: the model opens its thought itself; off, the prompt holds an empty one."""
ALWAYS_OPENED = _REMEMBERS_ANSWERS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
"""As DeepSeek-R1: every prompt ends inside a thought."""
UNOPENED = _REMEMBERS_ANSWERS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
"""As QwQ: the model thinks by itself, and the template only forgets its thoughts."""
OFF_BY_DEFAULT = _TURNS + (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '<think>' if thinking else '</think>' }}{% endif %}"
)
"""As DeepSeek-V3.1: another name of the switch, and a thought that is closed without having been opened."""
CHANNELS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking is defined %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""As gpt-oss."""

ANSWER = "Sure, here is a short answer about that topic for you."
REFUSAL = "I'm sorry, but I can't assist with that."
FORBIDDEN, ENDLESS = "forbidden", "endless"
"""Words in a prompt at which the model refuses, and at which its thought does not end."""
_ADDED = ("<think>", "hm", "</think>", "\n\n", ANSWER, REFUSAL, FORBIDDEN, ENDLESS, "?")
_LAYERS = 3
_SURE = 0.4
"""Weight in the head of what follows: likely enough to be written, and not so sure that nothing could be moved."""


def thinking_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tiny tokenizer with `SWITCHED` as its template, and a token for each thing that the model says."""
    core = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    core.add_tokens(list(_ADDED))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = SWITCHED
    return tokenizer


def thinking_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return a model for `SWITCHED` that thinks "hm", and refuses what is `FORBIDDEN` or asked with a question mark.

    States are the last token, one-hot, and how much of either kind of word was read so far, which the attention of the
    first layer averages. The head says what follows on the last token. Feed-forward modules write nothing, yet.
    """
    size = len(tokenizer)
    forbidden, endless, width = size, size + 1, size + 2 + size % 2
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=_LAYERS,
        num_attention_heads=1,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    token = {text: tokenizer.convert_tokens_to_ids(text) for text in (*_ADDED, "<|im_end|>")}
    start = tokenizer.encode("\n")[-1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * 0.1 if "gate_proj" in name or "up_proj" in name else noise * 0)
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        first = model.model.layers[0].self_attn
        for text, place in ((FORBIDDEN, forbidden), ("?", forbidden), (ENDLESS, endless)):
            first.v_proj.weight[place, token[text]] = 1.0
        first.o_proj.weight[forbidden, forbidden] = first.o_proj.weight[endless, endless] = 1.0
        head = model.lm_head.weight
        for now, then in (
            (start, "<think>"),
            (token["<think>"], "hm"),
            (token["hm"], "</think>"),
            (token["</think>"], "\n\n"),
            (token["\n\n"], ANSWER),
            (token[ANSWER], "<|im_end|>"),
            (token[REFUSAL], "<|im_end|>"),
        ):
            head[token[then], now] = _SURE
        for then, place, only in ((REFUSAL, forbidden, "\n\n"), ("hm", endless, "hm")):
            head[token[then], :size] -= 100 * _SURE
            head[token[then], token[only]] = 0.0
            head[token[then], place] = 20 * _SURE  # thrice an answer for one word of a hundred
        head[token["hm"], token["<think>"]] = _SURE
    model.generation_config.max_length = None
    return model.eval().requires_grad_(False)


def save_thinking_model(folder: Path) -> Path:
    """Write the model with its tokenizer, and return the folder."""
    tokenizer = thinking_tokenizer()
    thinking_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
