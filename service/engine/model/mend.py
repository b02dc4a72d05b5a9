"""Where a model of mlx-lm computes wrongly beside others, and little is needed to have it right."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma2


class _GroupedAttention(gemma2.Attention):  # type: ignore[misc]  # mlx-lm ships no types
    """Gemma 2's attention, whose scores have an axis of groups that the mask of a batch lacks."""

    def __call__(self, x: mx.array, mask: mx.array | None = None, cache: Any = None) -> Any:
        if mask is not None and mask.ndim == 4 and self.repeats > 1:
            mask = mask[:, :, None]
        return super().__call__(x, mask, cache)


def mend(model: nn.Module) -> None:
    """Have *model* answer beside others as it does alone, where it is of a type that is known not to."""
    for _, module in model.named_modules():  # type: ignore[no-untyped-call]  # mlx's stubs
        if type(module) is gemma2.Attention:
            module.__class__ = _GroupedAttention
