"""
A model of 5 million random parameters: its answers mean nothing, its work is that of a model of its size.

It is a Llama with full attention and the built-in model's tokenizer and template. The tokens that end an
answer, and all others that are no text, are never the likeliest: their logits are always zero. So each
answer is as long as it may be, for every system, and each of its tokens is text.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx

from service.catalog.card import EMBEDDED_FOLDER

WIDTH, INNER, N_LAYERS, N_TOKENS = 256, 768, 6, 1280
N_HEADS, N_KV_HEADS, HEAD_WIDTH = 4, 2, 64
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_KV_HEADS,
    "head_dim": HEAD_WIDTH,
    "vocab_size": N_TOKENS,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 2,
    "eos_token_id": [1, 4],
    "torch_dtype": "float32",
}
# Rows and columns of a layer's matrices.
SHAPES = {
    "self_attn.q_proj": (N_HEADS * HEAD_WIDTH, WIDTH),
    "self_attn.k_proj": (N_KV_HEADS * HEAD_WIDTH, WIDTH),
    "self_attn.v_proj": (N_KV_HEADS * HEAD_WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, N_HEADS * HEAD_WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)


def make(folder: Path, seed: int = 0) -> Path:
    """Write the model's files into *folder*, which is made; return it."""
    folder.mkdir(parents=True)
    for name in _COPIED:
        shutil.copy(EMBEDDED_FOLDER / name, folder / name)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2), "utf-8")
    weights = _weights(seed)
    silent = mx.array(_tokens_without_text())
    weights["lm_head.weight"][silent] = 0
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


def _weights(seed: int) -> dict[str, mx.array]:
    """Return the weights; entries of a matrix of n columns have the variance 1 / n, and logits that of 16."""
    mx.random.seed(seed)

    def drawn(n_rows: int, n_columns: int, scale: float = 1.0) -> mx.array:
        return mx.random.normal((n_rows, n_columns), scale=scale / n_columns**0.5)

    weights = {
        "model.norm.weight": mx.ones(WIDTH),
        "model.embed_tokens.weight": drawn(N_TOKENS, WIDTH, scale=WIDTH**0.5),
        "lm_head.weight": drawn(N_TOKENS, WIDTH, scale=4),
    }
    for layer in (f"model.layers.{i}" for i in range(N_LAYERS)):
        weights |= {f"{layer}.{name}.weight": drawn(*shape) for name, shape in SHAPES.items()}
        weights[f"{layer}.input_layernorm.weight"] = mx.ones(WIDTH)
        weights[f"{layer}.post_attention_layernorm.weight"] = mx.ones(WIDTH)
    return weights


def _tokens_without_text() -> list[int]:
    """Return the ids of special tokens, and of bytes that are no character by themselves."""
    tokenizer = json.loads((EMBEDDED_FOLDER / "tokenizer.json").read_text("utf-8"))
    special = {token["id"] for token in tokenizer["added_tokens"]}
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    bytes_ = {id_ for text, id_ in vocabulary.items() if not text.replace("Ġ", " ").isascii()}
    return sorted(special | bytes_)
