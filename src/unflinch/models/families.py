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
    covers: str = ""
    """Models of the family, for readers."""
    layers: str = "model.layers"
    """Path of the decoder layers' `ModuleList`."""
    source: Literal["table", "structure", "named"] = "table"
    """`structure` where the names were read off the model, `named` where the user gave them."""

    def layer_of(self, module: str) -> int:
        """Return the number of the decoder layer that a module of this name is in."""
        return int(module.removeprefix(f"{self.layers}.").split(".")[0])


def _mixture(path: str, shared: str = "", left: str = "") -> tuple[Block, ...]:
    """Return the blocks of layers that hold fused experts or, some of them, one dense feed-forward block."""
    every_token = [Block("shared expert", f"{path}.{shared}.down_proj", path, left)] if shared else []
    dense = Block("feed-forward", f"{path}.down_proj", "", left)
    return (dense, *every_token, Block("experts", f"{path}.experts.down_proj", path, EXPERTS))


_ATTENTION = Block("attention", "self_attn.o_proj")
_DELTA_NET = Block("gated DeltaNet", "linear_attn.out_proj")
_MAMBA = Block("Mamba", "mamba.out_proj", "", _PAST_LORA)
_DENSE = (_ATTENTION, Block("feed-forward", "mlp.down_proj"))
_SPARSE = (_ATTENTION, Block("experts", "mlp.experts.down_proj", "mlp", EXPERTS))
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

_ROWS = (
    Architecture(
        "bamba",
        (_ATTENTION, _MAMBA, Block("feed-forward", "feed_forward.down_proj")),
        "Bamba: Mamba layers with attention layers among them",
    ),
    Architecture("cohere2", _DENSE, "Command R7B, Command A"),
    Architecture("deepseek_v2", _CONVERTED_EXPERTS, "DeepSeek V2, V2-Lite and V2.5"),
    Architecture("deepseek_v3", _CONVERTED_EXPERTS, "DeepSeek V3, V3.1 and R1"),
    Architecture("exaone4", _NORMS_BEHIND, "EXAONE 4"),
    Architecture(
        "falcon_h1",
        (_ATTENTION, _MAMBA, Block("feed-forward", "feed_forward.down_proj")),
        "Falcon-H1: attention beside Mamba in every layer",
    ),
    Architecture("gemma", _DENSE, "Gemma 1"),
    Architecture("gemma2", _NORMS_BEHIND, "Gemma 2"),
    Architecture("gemma3_text", _NORMS_BEHIND, "Gemma 3, text models and text parts"),
    Architecture(
        "gemma4_text",
        (
            _NORMS_BEHIND[0],
            Block("per-layer input", "per_layer_projection", "post_per_layer_input_norm"),
            _NORMS_BEHIND[1],
            Block("experts", "experts.down_proj", "post_feedforward_layernorm", EXPERTS),
        ),
        "Gemma 4, text models and text parts, dense and with experts",
    ),
    Architecture("glm", _DENSE, "GLM-4 of 2024 (9B)"),
    Architecture(
        "glm4",
        (
            Block("attention", "self_attn.o_proj", "post_self_attn_layernorm"),
            Block("feed-forward", "mlp.down_proj", "post_mlp_layernorm"),
        ),
        "GLM-4 of 2025 (0414), GLM-Z1",
    ),
    Architecture("glm4_moe", _CONVERTED_EXPERTS, "GLM-4.5 and 4.6"),
    Architecture("gpt_oss", _SPARSE, "gpt-oss"),
    Architecture("granite", _DENSE, "Granite 3, dense"),
    Architecture("granitemoe", (_ATTENTION, _GRANITE_SPARSE[-1]), "Granite 3 with experts"),
    Architecture(
        "granitemoehybrid", (_MAMBA, *_GRANITE_SPARSE), "Granite 4: Mamba layers with attention layers among them"
    ),
    Architecture("granitemoeshared", _GRANITE_SPARSE, "Granite with experts and a shared one"),
    Architecture(
        "jamba", (_ATTENTION, _MAMBA, *_mixture("feed_forward")), "Jamba: Mamba layers with attention layers among them"
    ),
    Architecture(
        "lfm2",
        (
            Block("attention", "self_attn.out_proj"),
            Block("short convolution", "conv.out_proj"),
            Block("feed-forward", "feed_forward.w2"),
        ),
        "LFM2: short convolutions with attention layers among them",
    ),
    Architecture(
        "lfm2_moe",
        (
            Block("attention", "self_attn.out_proj"),
            Block("short convolution", "conv.out_proj"),
            Block("feed-forward", "feed_forward.w2"),
            Block("experts", "feed_forward.experts.down_proj", "feed_forward", EXPERTS),
        ),
        "LFM2 with experts",
    ),
    Architecture("llama", _DENSE, "Llama 1 to 3.3, and the many models that are built like it"),
    Architecture(
        "llama4_text", (_ATTENTION, *_mixture("feed_forward", "shared_expert")), "Llama 4 Scout and Maverick, text part"
    ),
    Architecture("ministral", _DENSE, "Ministral"),
    Architecture("ministral3", _DENSE, "Ministral 3, text part"),
    Architecture("mistral", _DENSE, "Mistral 7B, Nemo and Small"),
    Architecture("mixtral", _SPARSE, "Mixtral"),
    Architecture("nemotron", _DENSE, "Nemotron 4, Minitron"),
    Architecture(
        "nemotron_h",
        (Block("attention", "mixer.o_proj"), Block("Mamba", "mixer.out_proj", "", _PAST_LORA))
        + _mixture("mixer", "shared_experts"),
        "Nemotron-H, Nemotron Nano 2 and 3: layers of one block each",
    ),
    Architecture("olmo", _DENSE, "OLMo 1"),
    Architecture("olmo2", _NORMS_BEHIND, "OLMo 2"),
    Architecture("olmo3", _NORMS_BEHIND, "OLMo 3"),
    Architecture("olmoe", _SPARSE, "OLMoE"),
    Architecture("phi", (Block("attention", "self_attn.dense"), Block("feed-forward", "mlp.fc2")), "Phi 1, 1.5 and 2"),
    Architecture("phi3", _DENSE, "Phi 3, 3.5 and 4"),
    Architecture("phimoe", _SPARSE, "Phi 3.5 with experts"),
    Architecture("qwen2", _DENSE, "Qwen 1.5, 2, 2.5, QwQ, DeepSeek R1 distilled into Qwen"),
    Architecture("qwen2_moe", _SHARED_EXPERT, "Qwen 1.5 and 2 with experts"),
    Architecture("qwen2_5_vl_text", _DENSE, "Qwen 2.5 VL, text part"),
    Architecture("qwen3", _DENSE, "Qwen 3, dense"),
    Architecture("qwen3_moe", _CONVERTED, "Qwen 3 with experts"),
    Architecture(
        "qwen3_next",
        (_DELTA_NET, *_CONVERTED_EXPERT),
        "Qwen 3 Next: gated DeltaNets with attention layers among them, experts",
    ),
    Architecture("qwen3_vl_text", _DENSE, "Qwen 3 VL, dense, text part"),
    Architecture(
        "qwen3_5_text", (_DELTA_NET, *_DENSE), "Qwen 3.5, dense: gated DeltaNets with attention layers among them"
    ),
    Architecture(
        "qwen3_5_moe_text",
        (_DELTA_NET, _ATTENTION, *_mixture("mlp", "shared_expert")[1:]),
        "Qwen 3.5 with experts, gated DeltaNets with attention layers among them",
    ),
    Architecture("seed_oss", _DENSE, "Seed-OSS"),
    Architecture("smollm3", _DENSE, "SmolLM3"),
    Architecture("starcoder2", (_ATTENTION, Block("feed-forward", "mlp.c_proj")), "StarCoder2"),
)

ARCHITECTURES = {row.model_type: row for row in _ROWS}
