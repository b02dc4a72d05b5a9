"""Models of random weights, by the shape of what they remember: all of it, a window, or a state."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx_lm.models import gemma3_text, lfm2, llama, llama4, mamba
from mlx_lm.models.cache import make_prompt_cache

from service.engine.model.load import LoadedModel

N_TOKENS = 1280
WINDOW = 64
CHUNK = 64
PULL = 5.5

_SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": N_TOKENS,
}


@functools.cache
def model(kind: str) -> nn.Module:
    """Return the small model of *kind* that all tests share."""
    return made(kind)


def made(kind: str) -> nn.Module:
    """
    Return a small model of one's own, always with the same weights.

    Args:
        kind: "full" attention, "window" for a sliding one in every other layer, "state" for a hybrid,
            "swallowing" for a state that padding moves as any token does, "chunks" for caches that
            no batch has.
    """
    mx.random.seed(7)
    if kind == "full":
        model = llama.Model(
            llama.ModelArgs(
                **_SHAPE, model_type="llama", intermediate_size=96, rms_norm_eps=1e-6, head_dim=32
            )
        )
    elif kind == "window":
        model = gemma3_text.Model(
            gemma3_text.ModelArgs(
                **_SHAPE,
                model_type="gemma3_text",
                intermediate_size=96,
                head_dim=32,
                sliding_window=WINDOW,
                sliding_window_pattern=2,
                query_pre_attn_scalar=32,
            )
        )
    elif kind == "swallowing":
        model = mamba.Model(
            mamba.ModelArgs(
                model_type="mamba",
                vocab_size=N_TOKENS,
                hidden_size=64,
                intermediate_size=96,
                state_size=16,
                num_hidden_layers=4,
                conv_kernel=4,
                use_bias=False,
                use_conv_bias=True,
                time_step_rank=8,
            )
        )
    elif kind == "chunks":
        text = {
            **_SHAPE,
            "model_type": "llama4_text",
            "attention_bias": False,
            "attention_chunk_size": CHUNK,
            "head_dim": 32,
            "interleave_moe_layer_step": 2,
            "intermediate_size": 96,
            "intermediate_size_mlp": 96,
            "max_position_embeddings": 4096,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "use_qk_norm": True,
        }
        model = llama4.Model(llama4.ModelArgs(model_type="llama4", text_config=text))
    else:
        model = lfm2.Model(
            lfm2.ModelArgs(
                **_SHAPE,
                model_type="lfm2",
                max_position_embeddings=4096,
                norm_eps=1e-6,
                conv_bias=False,
                conv_L_cache=3,
                block_dim=64,
                block_ff_dim=96,
                block_multiple_of=16,
                block_ffn_dim_multiplier=1.0,
                block_auto_adjust_ff_dim=False,
                full_attn_idxs=[1, 3],
                rope_theta=10000.0,
            )
        )
    model.apply(lambda weights: weights * 3)
    mx.eval(model.parameters())
    found: nn.Module = model
    return found


class Repeating(nn.Module):
    """A model that mostly goes round in a circle of seventeen tokens, and now and then where it wants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx's stubs
        self.model = model
        self.layers = model.layers
        self.make_cache = functools.partial(make_prompt_cache, model)

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Return logits, shape (rows, n, vocabulary)."""
        follower = 20 + (inputs * 5 + 1) % 17
        logits: mx.array = self.model(inputs, cache=cache)
        logits = logits / mx.std(logits, axis=-1, keepdims=True)
        return logits + PULL * (mx.arange(N_TOKENS) == follower[..., None])


def dressed(kind: str, like: LoadedModel, *, is_repeating: bool = False) -> LoadedModel:
    """Return the model of *kind*, or a `Repeating` one around it, with tokenizer and card of *like*."""
    card = msgspec.structs.replace(like.card, context_length=4096)
    chosen = Repeating(model(kind)) if is_repeating else model(kind)
    return LoadedModel(chosen, like.tokenizer, card, like.sampling)
