"""
Small models that see, of random weights, as folders, which load as any other does; needs mlx-vlm.

    python -m tests.models.small_vision TYPE FOLDER
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer

from service.catalog.card import EMBEDDED_FOLDER

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
_QWEN = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_SMOL = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOL_TEMPLATE = (
    "{% for m in messages %}{{ m.role | capitalize }}{% if m.content is string %}: {{ m.content }}"
    "{% else %}{% if m.content[0].type == 'image' %}:{% else %}: {% endif %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

_GEMMA = ("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<end_of_turn>")
_GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% if m.content is string %}{{ m.content | trim }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}{% endif %}{% endfor %}"
    "{% endif %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_WORDS = {
    "qwen2_vl": (_QWEN, _QWEN_TEMPLATE, "<|im_end|>"),
    "smolvlm": (_SMOL, _SMOL_TEMPLATE, "<end_of_utterance>"),
    "gemma3": (_GEMMA, _GEMMA_TEMPLATE, "<end_of_turn>"),
}


def make(model_type: str, folder: Path) -> dict[str, Any]:
    """Make a model of *model_type* in *folder*, always with the same weights; return its config."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, n_tokens = _tokenizer(folder, *_WORDS.get(model_type, _WORDS["qwen2_vl"]))
    config, processor = _SHAPES[model_type](ids, n_tokens)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
    if model_type in {"smolvlm", "gemma3"}:
        n_tokens_each = {"image_seq_len": 4, "image_seq_length": 4}
        (folder / "processor_config.json").write_text(json.dumps(n_tokens_each))
    module = importlib.import_module(f"mlx_vlm.models.{model_type}")
    mx.random.seed(7)
    made = module.ModelConfig.from_dict(json.loads(json.dumps(config)))
    for name in ("text_config", "vision_config"):
        part = getattr(module, name.title().replace("_", ""))
        setattr(made, name, part.from_dict(config.get(name) or config))
    model = module.Model(made)
    weights: Any = tree_flatten(model.parameters(), destination={})
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        {name: _lively(value) for name, value in weights.items()},
        metadata={"format": "mlx"},
    )
    return config


def _tokenizer(
    folder: Path, marks: tuple[str, ...], template: str, end: str
) -> tuple[dict[str, int], int]:
    """Write the built-in model's tokenizer with further *marks*; return their ids, and how many it has."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED_FOLDER / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copy(EMBEDDED_FOLDER / "tokenizer_config.json", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length")
    settings |= {"eos_token": end, "chat_template": template}
    if marks is _GEMMA:
        names = ("image_token", "boi_token", "eoi_token")
        settings["extra_special_tokens"] = dict(zip(names, marks, strict=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return {mark: tokenizer.token_to_id(mark) or 0 for mark in marks}, tokenizer.get_vocab_size()


def _lively(weights: mx.array) -> mx.array:
    """Return *weights* such that another image changes what is said."""
    if weights.ndim < 2:
        return weights
    if (weights == weights.reshape(-1)[0]).all().item():
        return mx.random.normal(weights.shape, scale=0.3).astype(weights.dtype)
    return weights * 2


def _qwen2_vl(ids: dict[str, int], n_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    config = {
        **_TEXT,
        "model_type": "qwen2_vl",
        "vocab_size": n_tokens,
        "tie_word_embeddings": True,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "mlp_ratio": 2,
            "in_channels": 3,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }
    return config, {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 784,
        "max_pixels": 78400,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }


def _smolvlm(ids: dict[str, int], n_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    config = {
        "model_type": "smolvlm",
        "text_config": {**_TEXT, "model_type": "llama", "head_dim": 32, "vocab_size": n_tokens},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "num_attention_heads": 2,
            "patch_size": 14,
            "num_hidden_layers": 2,
            "intermediate_size": 64,
            "image_size": 56,
        },
        "scale_factor": 2,
        "vocab_size": n_tokens,
        "image_token_id": ids["<image>"],
        "eos_token_id": ids["<end_of_utterance>"],
    }
    return config, {
        "image_processor_type": "SmolVLMImageProcessor",
        "processor_class": "SmolVLMProcessor",
        "do_image_splitting": False,
        "size": {"longest_edge": 56},
        "max_image_size": {"longest_edge": 56},
    }


def _newer_qwen(
    model_type: str, ids: dict[str, int], n_tokens: int, **tower: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    config, processor = _qwen2_vl(ids, n_tokens)
    text = {
        **_TEXT,
        "model_type": f"{model_type}_text",
        "head_dim": 32,
        "vocab_size": n_tokens,
        "tie_word_embeddings": True,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    }
    own = {
        "model_type": model_type,
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        **tower,
    }
    named = {key: config[key] for key in config if key.endswith("token_id")}
    return {
        **named,
        **text,
        "text_config": text,
        "vision_config": own,
        "model_type": model_type,
    }, processor


def _qwen2_5_vl(ids: dict[str, int], n_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    config, processor = _newer_qwen("qwen2_5_vl", ids, n_tokens)
    return config, processor | {"processor_class": "Qwen2_5_VLProcessor"}


def _qwen3_vl(ids: dict[str, int], n_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    config, processor = _newer_qwen(
        "qwen3_vl", ids, n_tokens, deepstack_visual_indexes=[0], num_position_embeddings=64
    )
    return config, processor | {"processor_class": "Qwen3VLProcessor"}


def _gemma3(ids: dict[str, int], n_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    text = {
        **_TEXT,
        "model_type": "gemma3_text",
        "head_dim": 32,
        "vocab_size": n_tokens,
        "sliding_window": 512,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 32,
        "mm_tokens_per_image": 4,
    }
    config = {
        "model_type": "gemma3",
        "hidden_size": 64,
        "vocab_size": n_tokens,
        "text_config": text,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": 56,
        },
        "image_token_index": ids["<image_soft_token>"],
        "eos_token_id": ids["<end_of_turn>"],
        "mm_tokens_per_image": 4,
    }
    return config, {
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "size": {"height": 56, "width": 56},
        "image_seq_length": 4,
    }


_SHAPES = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
}
TYPES = tuple(_SHAPES)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
