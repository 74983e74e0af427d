"""Configs of tiny models, by `model_type`: what each family needs beside the common sizes in `tiny_models`.

Every kind of layer that a family can have is in its tiny model: dense and sparse, recurrent and attending.
"""

from __future__ import annotations

from typing import Any

WINDOW = 8
"""Shorter than most test prompts, so that sliding windows matter."""
_SLIDING_FIRST = ["sliding_attention", "full_attention", "sliding_attention"]
_LINEAR_FIRST = ["linear_attention", "full_attention", "linear_attention"]
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT_ATTENTION = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
_DELTA_NET = {
    "head_dim": 8,
    "layer_types": _LINEAR_FIRST,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_GEMMA = {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_IMAGE_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

CONFIGS: dict[str, dict[str, Any]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "cohere2": {"head_dim": 8, "sliding_window": WINDOW, "layer_types": _SLIDING_FIRST, "logit_scale": 0.25},
    "cohere": {"logit_scale": 0.25},
    "deepseek_v2": {**_ROUTED_EXPERTS, **_LATENT_ATTENTION, "n_shared_experts": 1},
    "deepseek_v3": {**_ROUTED_EXPERTS, **_LATENT_ATTENTION, "n_shared_experts": 1},
    "exaone4": {"head_dim": 8, "sliding_window": WINDOW, "layer_types": _SLIDING_FIRST},
    "falcon_h1": {
        **_MAMBA,
        "mamba_d_ssm": 64,
        "head_dim": 8,
        "lm_head_multiplier": 0.5,
        "ssm_out_multiplier": 0.7,
        "attention_out_multiplier": 0.8,
        "embedding_multiplier": 2.0,
    },
    "gemma": {"head_dim": 8},
    "gemma2": {**_GEMMA, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "attn_implementation": "eager"},
    "gemma3_text": {**_GEMMA, "layer_types": _SLIDING_FIRST},
    "gemma4_text": {
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 320,
        "final_logit_softcapping": 3.0,
    },
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "glm4_moe": {**_ROUTED_EXPERTS, "head_dim": 8, "n_shared_experts": 1},
    "gpt_oss": {**_LOCAL_EXPERTS, "head_dim": 8, "sliding_window": WINDOW, "layer_types": _SLIDING_FIRST},
    "gpt2": {},
    "gpt_neox": {"num_key_value_heads": None},
    "granite": {
        "logits_scaling": 4.0,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
    },
    "granitemoe": {**_LOCAL_EXPERTS, "logits_scaling": 4.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    "granitemoehybrid": {
        **_MAMBA,
        **_LOCAL_EXPERTS,
        "shared_intermediate_size": 16,
        "layer_types": _LINEAR_FIRST,
        "logits_scaling": 4.0,
        "residual_multiplier": 0.5,
    },
    "granitemoeshared": {**_LOCAL_EXPERTS, "shared_intermediate_size": 16, "logits_scaling": 4.0},
    "jamba": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {**_EXPERTS, "layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "llama": {},
    "llama4_text": {
        **_LOCAL_EXPERTS,
        "num_experts_per_tok": 1,
        "head_dim": 8,
        "intermediate_size_mlp": 40,
        "moe_layers": [1, 2],
        "attention_chunk_size": WINDOW,
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "no_rope_layers": [1, 0, 1],
    },
    "ministral": {"head_dim": 8, "sliding_window": WINDOW, "layer_types": _SLIDING_FIRST},
    "ministral3": {"head_dim": 8},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {**_LOCAL_EXPERTS},
    "nemotron": {"head_dim": 8},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "num_hidden_layers": 4,
        "head_dim": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 8,
        "chunk_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": WINDOW, "layer_types": _SLIDING_FIRST},
    "olmoe": {**_EXPERTS},
    "phi": {},
    "phi3": {"sliding_window": WINDOW},
    "phimoe": {**_LOCAL_EXPERTS},
    "qwen2": {},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 16, "mlp_only_layers": [0]},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {**_EXPERTS, "head_dim": 8, "mlp_only_layers": [0]},
    "qwen3_next": {**_EXPERTS, **_DELTA_NET, "shared_expert_intermediate_size": 16, "mlp_only_layers": [0]},
    "qwen3_5_text": {**_DELTA_NET},
    "qwen3_5_moe_text": {**_EXPERTS, **_DELTA_NET, "shared_expert_intermediate_size": 16},
    "seed_oss": {"head_dim": 8},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "stablelm": {},
    "starcoder2": {"sliding_window": None},
    # Models that see images as well.
    "gemma3": {
        "text_config": {**_GEMMA, "layer_types": _SLIDING_FIRST},
        "vision_config": {**_VISION, "model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
    },
    "mistral3": {
        "text_config": {"model_type": "ministral3", "head_dim": 8},
        "vision_config": {**_VISION, "model_type": "pixtral", "head_dim": 8},
    },
    "qwen2_5_vl": {
        "text_config": {"rope_parameters": _IMAGE_ROPE},
        "vision_config": {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
        },
    },
    "qwen3_vl": {
        "text_config": {"head_dim": 8, "rope_parameters": {**_IMAGE_ROPE, "mrope_interleaved": True}},
        "vision_config": {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0],
        },
    },
}
