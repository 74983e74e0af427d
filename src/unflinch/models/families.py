"""The table: one row a `model_type`, tested on a tiny model of the family; `docs/MODELS.md` is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "feed-forward",
    "shared expert",
    "experts",
    "attention",
    "gated DeltaNet",
    "short convolution",
    "Mamba",
    "per-layer input",
    "mixer",
    "named",
]
"""What a block is. `mixer`: anything but the last block of a model that is in no table; `named`: named by the user."""

EXPERTS = "fused experts, each for a few of the tokens"
_TAKEN_FOR_EXPERTS = "PEFT puts a LoRA of it on the fused experts"
"""Of families whose experts were linear modules of that name in transformers 4: PEFT converts old adapters by it."""
_PAST_LORA = "fused Mamba kernels read its weight past a LoRA"
OVERRIDE = "name them yourself with --layers and --writer (model.layers and model.writers in TOML)"
"""What a user can do where modules are not recognised."""


@dataclass(frozen=True)
class Block:
    """One kind of block that decoder layers have, and the module through which it writes into the residual stream."""

    kind: Kind
    writer: str
    """In a layer with such a block: a linear module, or of fused experts the parameter."""
    output: str = ""
    """Module whose output enters the residual stream if that is not the writer's: a norm, or a whole mixture."""
    left: str = ""
    """Why a patch never changes it; empty for a linear module that it may change."""


@dataclass(frozen=True)
class Architecture:
    """Module names of one model family."""

    model_type: str
    blocks: tuple[Block, ...]
    """All kinds of block that a layer of the family can have; a layer has those whose writer it has."""
    layers: str = "model.layers"
    """Path of the decoder layers' `ModuleList`."""
    source: Literal["table", "structure", "named"] = "table"
    """`structure` where the names were read off the model, `named` where the user gave them."""


def _mixture(path: str, shared: str = "", left: str = "") -> tuple[Block, ...]:
    """Return the blocks of layers that hold fused experts or, some of them, one dense feed-forward block."""
    every_token = [Block("shared expert", f"{path}.{shared}.down_proj", path, left)] if shared else []
    dense = Block("feed-forward", f"{path}.down_proj", "", left)
    return (dense, *every_token, Block("experts", f"{path}.experts.down_proj", path, EXPERTS))


_ATTENTION = Block("attention", "self_attn.o_proj")
_DELTA_NET = Block("gated DeltaNet", "linear_attn.out_proj")
_MAMBA = Block("Mamba", "mamba.out_proj", "", _PAST_LORA)
_DENSE = (_ATTENTION, Block("feed-forward", "mlp.down_proj"))
_SPARSE = (_ATTENTION, *_mixture("mlp"))
_SHARED_EXPERT = (_ATTENTION, *_mixture("mlp", "shared_expert"))
_CONVERTED = (_ATTENTION, *_mixture("mlp", "", _TAKEN_FOR_EXPERTS))
_CONVERTED_EXPERT = (_ATTENTION, *_mixture("mlp", "shared_expert", _TAKEN_FOR_EXPERTS))
_CONVERTED_EXPERTS = (_ATTENTION, *_mixture("mlp", "shared_experts", _TAKEN_FOR_EXPERTS))
_NORMS_BEHIND = (
    Block("attention", "self_attn.o_proj", "post_attention_layernorm"),
    Block("feed-forward", "mlp.down_proj", "post_feedforward_layernorm"),
)
"""Families with a norm between a writer and the residual stream."""
_GRANITE_SPARSE = (
    _ATTENTION,
    Block("shared expert", "shared_mlp.output_linear"),
    Block("experts", "block_sparse_moe.experts.down_proj", "block_sparse_moe", EXPERTS),
)

_BLOCKS: dict[str, tuple[Block, ...]] = {
    "bamba": (_ATTENTION, _MAMBA, Block("feed-forward", "feed_forward.down_proj")),
    "cohere2": _DENSE,
    "deepseek_v2": _CONVERTED_EXPERTS,
    "deepseek_v3": _CONVERTED_EXPERTS,
    "exaone4": _NORMS_BEHIND,
    "falcon_h1": (_ATTENTION, _MAMBA, Block("feed-forward", "feed_forward.down_proj")),
    "gemma": _DENSE,
    "gemma2": _NORMS_BEHIND,
    "gemma3_text": _NORMS_BEHIND,
    "gemma4_text": (
        _NORMS_BEHIND[0],
        Block("per-layer input", "per_layer_projection", "post_per_layer_input_norm"),
        _NORMS_BEHIND[1],
        Block("experts", "experts.down_proj", "post_feedforward_layernorm", EXPERTS),
    ),
    "glm": _DENSE,
    "glm4": (
        Block("attention", "self_attn.o_proj", "post_self_attn_layernorm"),
        Block("feed-forward", "mlp.down_proj", "post_mlp_layernorm"),
    ),
    "glm4_moe": _CONVERTED_EXPERTS,
    "gpt_oss": _SPARSE,
    "granite": _DENSE,
    "granitemoe": _GRANITE_SPARSE,
    "granitemoehybrid": (_MAMBA, *_GRANITE_SPARSE),
    "granitemoeshared": _GRANITE_SPARSE,
    "jamba": (_ATTENTION, _MAMBA, *_mixture("feed_forward")),
    "lfm2": (
        Block("attention", "self_attn.out_proj"),
        Block("short convolution", "conv.out_proj"),
        Block("feed-forward", "feed_forward.w2"),
    ),
    "lfm2_moe": (
        Block("attention", "self_attn.out_proj"),
        Block("short convolution", "conv.out_proj"),
        Block("feed-forward", "feed_forward.w2"),
        Block("experts", "feed_forward.experts.down_proj", "feed_forward", EXPERTS),
    ),
    "llama": _DENSE,
    "llama4_text": (_ATTENTION, *_mixture("feed_forward", "shared_expert")),
    "ministral": _DENSE,
    "ministral3": _DENSE,
    "mistral": _DENSE,
    "mixtral": _SPARSE,
    "nemotron": _DENSE,
    "nemotron_h": (Block("attention", "mixer.o_proj"), Block("Mamba", "mixer.out_proj", "", _PAST_LORA))
    + _mixture("mixer", "shared_experts"),
    "olmo": _DENSE,
    "olmo2": _NORMS_BEHIND,
    "olmo3": _NORMS_BEHIND,
    "olmoe": _CONVERTED,
    "phi": (Block("attention", "self_attn.dense"), Block("feed-forward", "mlp.fc2")),
    "phi3": _DENSE,
    "phimoe": _SPARSE,
    "qwen2": _DENSE,
    "qwen2_moe": _SHARED_EXPERT,
    "qwen2_5_vl_text": _DENSE,
    "qwen3": _DENSE,
    "qwen3_moe": _CONVERTED,
    "qwen3_next": (_DELTA_NET, *_CONVERTED_EXPERT),
    "qwen3_vl_text": _DENSE,
    "qwen3_5_text": (_DELTA_NET, *_DENSE),
    "qwen3_5_moe_text": (_DELTA_NET, *_SHARED_EXPERT),
    "seed_oss": _DENSE,
    "smollm3": _DENSE,
    "starcoder2": (_ATTENTION, Block("feed-forward", "mlp.c_proj")),
}

ARCHITECTURES = {model_type: Architecture(model_type, blocks) for model_type, blocks in _BLOCKS.items()}
