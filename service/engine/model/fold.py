"""What a model computes from its weights alone, in every step anew: done once, when it is loaded."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten


def fold_norms(model: nn.Module) -> int:
    """
    Let the norms of *model* that add one to their weights, as Gemma's do, have that one in them.

    A step of few rows is bound by how many operations it has, and these are six in each layer of a Gemma 3.
    What the model says stays the same to the bit.

    Returns:
        How many norms that were.
    """
    modules: list[tuple[str, Any]] = model.named_modules()  # type: ignore[no-untyped-call]  # mlx's stubs
    norms = [(name, norm, _folded(norm)) for name, norm in modules if _may_add(norm)]
    same = [(name, folded) for name, norm, folded in norms if _is_same(norm, folded)]
    model.update_modules(tree_unflatten(same))
    return len(same)


def _may_add(module: Any) -> bool:
    is_own = type(module).__name__ == "RMSNorm" and type(module) is not nn.RMSNorm
    return is_own and hasattr(module, "weight") and hasattr(module, "eps")


def _folded(norm: Any) -> nn.RMSNorm:
    folded = nn.RMSNorm(norm.weight.size, eps=norm.eps)
    folded.weight = 1.0 + norm.weight
    return folded


def _is_same(norm: Any, folded: nn.RMSNorm) -> bool:
    """Whether both give the same: other models' norms of this name may do something else."""
    x = mx.random.normal((2, folded.weight.size), dtype=folded.weight.dtype, key=mx.random.key(0))
    return bool(mx.array_equal(norm(x), folded(x)))
