"""
Four operations of training on a CPU, computed by NumPy.

MLX's CPU build for Linux is slow at matrix products (3 GFLOP/s) and exponentials (50 million a second).
Measured side by side on two busy cores: 6.2 s a step without the detour, 0.9 s with it. The model, its
derivatives and the optimizer stay MLX's; a test compares these kernels' derivatives with MLX's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.nn.layers.linear import Linear
from mlx_lm.models import gemma3_text
from mlx_lm.models.base import create_causal_mask


@mx.custom_function
def product(x: mx.array, weight: mx.array) -> mx.array:
    """Return x @ weight.T; shapes (..., n), (m, n) -> (..., m)."""
    return mx.array(np.asarray(x) @ np.asarray(weight).T)


@product.vjp
def _product_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, ...]:
    x, weight = (np.asarray(primal) for primal in primals)
    slope = np.asarray(cotangent).reshape(-1, weight.shape[0])
    flat = x.reshape(-1, weight.shape[1])
    return mx.array((slope @ weight).reshape(x.shape)), mx.array(slope.T @ flat)


_GELU_A, _GELU_B = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)


@mx.custom_function
def _gelu(x: mx.array) -> mx.array:
    """Return the tanh approximation of GELU, Gemma's activation; any shape."""
    value = np.asarray(x)
    return mx.array(
        0.5 * value * (1 + np.tanh(_GELU_A * (value + _GELU_B * value * value * value)))
    )


@_gelu.vjp
def _gelu_vjp(primal: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    value = np.asarray(primal)
    tanh = np.tanh(_GELU_A * (value + _GELU_B * value * value * value))
    inner = _GELU_A * (1 + 3 * _GELU_B * value * value)
    slope = 0.5 * (1 + tanh) + 0.5 * value * (1 - tanh * tanh) * inner
    return mx.array(slope * np.asarray(cotangent))


def _scores(queries: mx.array, keys: mx.array, mask: mx.array) -> Any:
    """Return attention probabilities; (b, h*g, n, d), (b, h, n, d) -> (b, h, g*n, n)."""
    batch, n_heads, n, dims = queries.shape
    grouped = np.asarray(queries).reshape(batch, keys.shape[1], -1, dims)
    logits = grouped @ np.asarray(keys).swapaxes(-1, -2)
    by_head = logits.reshape(batch, n_heads, n, n)
    by_head[:, :, ~np.asarray(mask)] = -np.inf
    by_head -= by_head.max(axis=-1, keepdims=True)
    np.exp(by_head, out=by_head)
    by_head /= by_head.sum(axis=-1, keepdims=True)
    return by_head.reshape(logits.shape)


@mx.custom_function
def _attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """Return attention over grouped heads; queries are scaled, *mask* (n, n) is true where seen."""
    out = _scores(queries, keys, mask) @ np.asarray(values)
    return mx.array(out.reshape(queries.shape))


@_attend.vjp
def _attend_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, ...]:
    queries, keys, values, mask = primals
    weights = _scores(queries, keys, mask)
    grouped = (keys.shape[0], keys.shape[1], -1, keys.shape[3])
    slope = np.asarray(cotangent).reshape(grouped)
    back = slope @ np.asarray(values).swapaxes(-1, -2)
    back -= (back * weights).sum(axis=-1, keepdims=True)
    back *= weights
    return (
        mx.array((back @ np.asarray(keys)).reshape(queries.shape)),
        mx.array(back.swapaxes(-1, -2) @ np.asarray(queries).reshape(grouped)),
        mx.array(weights.swapaxes(-1, -2) @ slope),
        mx.zeros_like(mask),
    )


def _log_softmax(logits: mx.array) -> Any:
    shifted = np.asarray(logits) - np.asarray(logits).max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@mx.custom_function
def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Return the mean loss in nats; shapes (n, vocabulary), (n,) -> ()."""
    chosen = np.take_along_axis(_log_softmax(logits), np.asarray(targets)[:, None], axis=-1)
    return mx.array(float(-chosen.mean()))


@cross_entropy.vjp
def _cross_entropy_vjp(
    primals: tuple[mx.array, ...], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, ...]:
    logits, targets = primals
    slope = np.exp(_log_softmax(logits))
    slope[np.arange(len(slope)), np.asarray(targets)] -= 1
    scale = np.float32(np.asarray(cotangent) / len(slope))
    return mx.array(slope * scale), mx.zeros_like(targets)


@contextmanager
def numpy_kernels() -> Iterator[None]:
    """Let mlx-lm's Gemma compute products, activation and attention by the kernels above."""

    def linear(layer: Linear, x: mx.array) -> mx.array:
        return cast(mx.array, product(x, layer.weight))

    def attention(
        queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any, cache: Any
    ) -> mx.array:
        del cache
        seen = mask if isinstance(mask, mx.array) else create_causal_mask(queries.shape[2])
        return cast(mx.array, _attend(queries * scale, keys, values, seen))

    patches = (
        (Linear, "__call__", linear),
        (nn, "gelu_approx", _gelu),
        (gemma3_text, "scaled_dot_product_attention", attention),
    )
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, replacement in patches:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
