"""
A small model of each type that mlx-lm knows: its config, made by the names of its fields.

A field is a size, a switch or a list; most have the same name in every type, and `COMMON` says what a small
model has there. What a type calls otherwise, or needs by its own kind, is in `OWN`. Nothing here is a copy
of a published config: four layers, heads of 32, windows of 16 tokens, four experts of which two are asked.
"""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import mlx_lm.models
from mlx_lm.utils import MODEL_REMAPPING

N_LAYERS = 4
N_CONTEXT = 2048
WINDOW = 16
WINDOWS = ["sliding_attention", "full_attention"] * 2
STATES = ["linear_attention", "full_attention"] * 2
PLAIN_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
STRETCHED_ROPE = PLAIN_ROPE | {
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 1024,
    "type": "default",
}

COMMON: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "hidden_dim", "n_embd", "d_model", "model_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), N_LAYERS),
    "num_transformer_layers": N_LAYERS,
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "n_kv_heads", "num_kv_heads"), 1),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 32),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "index_head_dim", "swa_head_dim"), 32),
    **dict.fromkeys(("swa_v_head_dim", "kv_channels", "hidden_size_per_head"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "intermediate_size_mlp"), 96),
    **dict.fromkeys(("n_inner", "mlp_hidden_size", "ff_intermediate_size"), 96),
    "dense_intermediate_size": 96,
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("expert_ffn_hidden_size", "share_expert_dim", "moe_hidden_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "moe_num_experts": 4,
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk"), 2),
    **dict.fromkeys(("moe_k", "moe_top_k"), 2),
    **dict.fromkeys(("num_shared_experts", "n_shared_experts", "num_shared_expert"), 1),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("decoder_sparse_step", "moe_layer_freq"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), N_CONTEXT),
    **dict.fromkeys(("model_max_length", "block_size"), N_CONTEXT),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "window_size"), WINDOW),
    **dict.fromkeys(("attention_window_size", "loop_window_size"), WINDOW),
    **dict.fromkeys(("sliding_window_pattern", "full_attention_interval"), 2),
    "layer_group_size": 2,
    "rotary_dim": 16,
    "rope_theta": 10000.0,
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 16),
    **dict.fromkeys(("mamba_d_conv", "conv_kernel", "short_conv_kernel_size"), 4),
    **dict.fromkeys(("linear_conv_kernel_dim", "conv1d_width"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 2),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 32),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "group_norm_size"), 1),
    "mamba_d_ssm": 64,
    **dict.fromkeys(("mamba_expand", "expand"), 2),
    "time_step_rank": 8,
    "time_step_limit": [0.001, 100.0],
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 32),
    **dict.fromkeys(("a_low_rank_dim", "v_low_rank_dim"), 16),
    **dict.fromkeys(("gate_low_rank_dim", "decay_low_rank_dim"), 16),
    "index_n_heads": 2,
    "conv_L_cache": 3,
}

REQUIRED: dict[str, Any] = {
    **dict.fromkeys(("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon"), 1e-5),
    **dict.fromkeys(("layernorm_epsilon", "norm_epsilon", "post_norm_eps"), 1e-5),
    **dict.fromkeys(("rope_theta", "swa_rope_theta", "rope_local_base_freq"), 10000.0),
    "rotary_emb_base": 10000,
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), 0.5),
    **dict.fromkeys(("routed_scaling_factor", "logits_scaling", "embedding_multiplier"), 1.0),
    **dict.fromkeys(("residual_multiplier", "scale_emb", "output_multiplier"), 1.0),
    "attention_multiplier": 0.2,
    **dict.fromkeys(("final_logit_softcapping", "logits_soft_cap"), 30.0),
    "scale_depth": 1.4,
    "dim_model_base": 64,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "hidden_act": "silu",
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rope_scaling": None,
}
"""What a field gets where its type has no default for it."""

_SHORT_CONVOLUTIONS = {"conv_bias": False, "full_attn_idxs": [1, 3]}
_SEVERAL_HEADS = {"num_key_value_heads": 2}
_SCALED_BY_NTK = {"rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"}}
_DELTA_NETS = {"layer_types": STATES, "rope_parameters": PLAIN_ROPE | {"type": "default"}}
_YARN = {
    "type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 1024,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
_KDA = {
    "linear_attn_config": {
        "kda_layers": [1, 3],
        "full_attn_layers": [2, 4],
        "num_heads": 2,
        "head_dim": 32,
        "short_conv_kernel_size": 4,
    },
    **_SEVERAL_HEADS,
}

OWN: dict[str, dict[str, Any]] = {
    "afm7": {"num_kv_reuse_layers": 1, "hidden_dim_scale_factor": 1.5},
    "afmoe": {"layer_types": WINDOWS},
    "apertus": {"post_norm": True, "qk_norm": True},
    "baichuan_m1": {"sliding_window_layers": [1, 3], "conv_window": 2},
    "bailing_hybrid": _SEVERAL_HEADS,
    "bailing_moe_linear": _SEVERAL_HEADS,
    "bailing_moe_v3": {
        "model_type": "bailing_hybrid",
        "architectures": ["BailingMoeV3ForCausalLM"],
    },
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 1, "clip_qkv": 8, "rope_theta": 10000.0},
    },
    "deepseek_v2": _SEVERAL_HEADS | {"rope_scaling": _YARN},
    "deepseek_v3": _SEVERAL_HEADS,
    "deepseek_v32": _SEVERAL_HEADS,
    "ernie4_5_moe": {"moe_layer_start_index": 1, "moe_layer_end_index": 3},
    "exaone4": {"sliding_window_pattern": "LG", "layer_types": WINDOWS},
    "exaone_moe": {"is_moe_layer": [False, True, True, True], "layer_types": WINDOWS},
    "gear": {"layer_types": WINDOWS},
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3_text": {"query_pre_attn_scalar": 32},
    "gemma3n": {
        "intermediate_size": [96] * N_LAYERS,
        "layer_types": WINDOWS,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "altup_num_inputs": 2,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "laurel_rank": 8,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 16,
    },
    "gemma4_text": {
        "layer_types": WINDOWS,
        "global_head_dim": 64,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 16,
    },
    "glm_moe_dsa": _SEVERAL_HEADS | {"rope_parameters": PLAIN_ROPE, "index_topk": 2048},
    "gpt_oss": {"layer_types": WINDOWS},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 4},
    "hunyuan": _SCALED_BY_NTK
    | {"use_mixed_mlp_moe": True, "use_cla": False, "cla_share_factor": 2},
    "hunyuan_v1_dense": _SCALED_BY_NTK,
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
    },
    "kimi_linear": _KDA,
    "kimi_k3": _KDA,
    "laguna": {"layer_types": WINDOWS},
    "lfm2": _SHORT_CONVOLUTIONS
    | {
        "block_dim": 64,
        "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 96,
    },
    "lfm2_moe": _SHORT_CONVOLUTIONS | {"use_expert_bias": True},
    "llama4": {
        "num_experts_per_tok": 1,
        "attention_chunk_size": WINDOW,
        "interleave_moe_layer_step": 2,
        "use_qk_norm": True,
    },
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0], "use_qk_norm": True},
    "longcat_flash": {
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "zero_expert_num": 2,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "num_layers": 2,
        **_SEVERAL_HEADS,
    },
    "longcat_flash_ngram": {
        "zero_expert_num": 2,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "num_layers": 2,
        "ngram_vocab_size_ratio": 2,
        "emb_neighbor_num": 2,
        "emb_split_num": 2,
        **_SEVERAL_HEADS,
    },
    "mamba2": {"num_heads": 4},
    "mellum": {
        "layer_types": WINDOWS,
        "rope_parameters": dict.fromkeys(set(WINDOWS), PLAIN_ROPE),
    },
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0, 1],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 1,
    },
    "minicpm3": _SEVERAL_HEADS
    | {
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 16,
            "long_factor": [1.0] * 16,
            "original_max_position_embeddings": N_CONTEXT,
        }
    },
    "minimax_m3_vl": {"moe_layer_freq": [0, 1, 1, 1]},
    "ministral3": {"rope_parameters": STRETCHED_ROPE, "layer_types": WINDOWS},
    "mistral4": _SEVERAL_HEADS | {"rope_parameters": STRETCHED_ROPE},
    "muse_glimmer": {
        "layer_types": WINDOWS,
        "rope_parameters": PLAIN_ROPE,
        "layer_rope_theta": [10000.0, 0, 10000.0, 0],
    },
    "muse_spark": {
        "layer_types": WINDOWS,
        "rope_parameters": PLAIN_ROPE,
        "layer_rope_theta": [10000.0, 0, 10000.0, 0],
        "num_shared_experts": 0,
    },
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"n_heads_in_group": 1}, "ffn": {"no_op": True}},
            {"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}},
        ]
    },
    "nemotron_h": {
        "hybrid_override_pattern": ["M", "*", "-", "M", "E"],
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    },
    "olmo3": {"layer_types": WINDOWS},
    "olmo_hybrid": _DELTA_NETS | {"linear_allow_neg_eigval": True},
    "openelm": {
        "ffn_dim_divisor": 16,
        "num_query_heads": [2] * N_LAYERS,
        "num_kv_heads": [1] * N_LAYERS,
        "ffn_multipliers": [1.0] * N_LAYERS,
    },
    "phi3small": {
        "dense_attention_every_n_layers": 2,
        "gegelu_limit": 20.0,
        "vocab_size": 100352,  # tokens that are none are masked by their numbers
    },
    "phimoe": {
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.0] * 16,
            "short_factor": [1.0] * 16,
            "long_mscale": 1.0,
            "short_mscale": 1.0,
        }
    },
    "plamo": {"n_shared_head": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "spark2_5": {
        "layer_types": WINDOWS,
        "rope_parameters": dict.fromkeys(set(WINDOWS), PLAIN_ROPE),
    },
    "step3p5": {
        "num_attention_groups": 1,
        "layer_types": WINDOWS,
        "moe_layers_enum": "1,2,3",
    },
}

AT_TOP = {"muse_spark": {"audio_config": {"out_hidden_size": 64}}}
"""What transformers wants to see beside a text model that it checks as a part of another."""

WRAPPED = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "lfm2-vl": "lfm2",
    "mistral3": "ministral3",
    "pixtral": "llama",
    "qwen2_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "kimi_k25": "deepseek_v3",
}
"""Types that hold a text model of another type under `text_config`."""

FAULTS = {
    "bitnet": "MLX: its kernel is written for Metal alone",
    "muse_spark": "MLX: its kernel is written for Metal alone",
    "olmo": "mlx-lm: it asks for a package that asks for PyTorch",
    "phi3small": "mlx-lm: what its model computes depends on how a prompt is cut into pieces",
    "plamo3": "mlx-lm: the mask of its windows lets them see a token that their caches forget",
    "prism_hadamard_qwen35": "this table: its packed weights can't be made up here",
}
"""Whose fault it is that a type is not right, as far as it was sought."""

_TEXT_CLASSES = ("TextArgs", "TextConfig", "TextModelArgs")


def names() -> list[str]:
    """Return every type that mlx-lm loads, those under another name included."""
    found = {each.name for each in pkgutil.iter_modules(mlx_lm.models.__path__)}
    return sorted({each for each in found if _is_model(each)} | set(MODEL_REMAPPING))


def _is_model(module: str) -> bool:
    """Whether a *module* of mlx-lm is a model's, by its text: to import it may need what isn't there."""
    spec = importlib.util.find_spec(f"mlx_lm.models.{module}")
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        return "class ModelArgs" in file.read()


def config_of(model_type: str, n_tokens: int) -> dict[str, Any]:
    """
    Return the config of a small model.

    Args:
        model_type: one of `names`.
        n_tokens: how many tokens its tokenizer has.
    """
    module_name = MODEL_REMAPPING.get(model_type, model_type)
    module = importlib.import_module(f"mlx_lm.models.{module_name}")
    own = OWN.get(module_name, {})
    tokens = dict.fromkeys(("vocab_size", "num_vocab", "embedding_size"), n_tokens)
    tokens["vocab_size_per_layer_input"] = n_tokens
    known = COMMON | tokens | {"model_type": model_type} | own
    at_top = own
    outer = _fields(module.ModelArgs)
    text = next((getattr(module, name) for name in _TEXT_CLASSES if hasattr(module, name)), None)
    if module_name == "qwen3_5_moe":  # the text model of another module, by the same section
        known["text_config"] = config_of("qwen3_5", n_tokens)["text_config"]
    elif module_name in WRAPPED:
        known["text_config"] = config_of(WRAPPED[module_name], n_tokens)
    elif "text_config" in outer and text is not None:
        known["text_config"] = _filled(_fields(text), known) | own
        at_top = AT_TOP.get(module_name, {})
    return _filled(outer, known) | {"model_type": known["model_type"]} | at_top


def _fields(args: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(args).parameters


def _filled(fields: Mapping[str, inspect.Parameter], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for each of *fields* that is known or has to be there."""
    config: dict[str, Any] = {}
    for name, field in fields.items():
        if name in known:
            config[name] = known[name]
        elif field.default is inspect.Parameter.empty:
            config[name] = REQUIRED[name] if name in REQUIRED else _nothing(field.annotation)
    return config


def _nothing(annotation: Any) -> Any:
    """Return what says no to a field of this type."""
    if "bool" in str(annotation):
        return False
    raise KeyError(f"a field of type {annotation} is not known")
