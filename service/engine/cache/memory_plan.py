"""
What an engine may remember, planned at its start, so that no number of requests takes more than there is.

    what the machine lets the process have, the weights in memory already
    ├── reserve       what nobody counts
    ├── step          what the largest step takes, its logits included
    ├── KV cache      of all rows together, at least of one as long as the context, if there is room
    └── prefix cache  as it was asked for, or what is left: it gives way first

Where even one row of the model's context has no room, the context is cut to what has. `MEMORY_MB` bounds the
whole, weights included. `KV_MEMORY_MB`, where it is set, is the KV cache's part exactly, whatever the machine
says.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import msgspec

from service.catalog.card import UnfitModel
from service.engine.cache.kv import Caches, trimmable_below
from service.engine.cache.machine import usable_bytes, working_set_bytes
from service.engine.cache.prefix_cache import PrefixCache
from service.engine.cache.prefix_store import DiskStore, fingerprint
from service.engine.cache.step_memory import StepMemory, measured
from service.engine.model.load import LoadedModel, locate, size_bytes
from service.protocol import Budget, Load

_log = logging.getLogger(__name__)

MB = 1_000_000
MIN_CONTEXT = 16  # the least that CONTEXT_LENGTH can be set to
RESERVE = 0.1
"""
Part of the machine's memory that is left alone. Taste, for what nobody counts: an array that grows is there
twice for a moment, steps are foretold from small ones (the built-in model's were, within a third), texts and
grammars take memory, and where it is not Metal's working set, other processes grow as well.
"""
MAX_STEP_TOKENS = 2048  # as many as decoding reads in one step at most
MIN_STEP_TOKENS = 64  # taste: with fewer the weights are read for too little
STEP_SHARE = 0.25  # taste: of memory for a step; where it would take more, steps are smaller and not contexts
BUFFERS_BYTES = 32 << 20  # MLX's own choice where there is no Metal: memory is had anew in no time


@dataclass(frozen=True)
class MemoryPlan:
    """
    What a batch remembers with, and how much of it.

    Attributes:
        caches: makes each row's.
        sequence_bytes: what a row of so many tokens takes, with what a draft model remembers of it.
        kv_budget_bytes: for all rows together; holds one row of `context_length` tokens at least.
        prefixes: what has been read before.
        store: where that outlives the process; None: nowhere.
        context_length: longest prompt and answer together, in tokens.
        model_context_length: what it would be with any amount of memory.
        max_step_tokens: how many tokens of prompts one step may read, of all rows together.
        step_bytes: what such a step takes beside weights and caches.
        weights_bytes: what the model's weights take.
        usable_bytes: what the process may take beside all that it had when this was planned.
    """

    caches: Caches
    sequence_bytes: Callable[[int], int]
    kv_budget_bytes: int
    prefixes: PrefixCache
    store: DiskStore | None
    context_length: int
    model_context_length: int
    max_step_tokens: int
    step_bytes: int
    weights_bytes: int
    usable_bytes: int

    @property
    def window(self) -> float:
        """How long a prompt must be for what is kept of it not to be shortened; may be infinite."""
        return trimmable_below(self.caches.make()) if self.prefixes.is_on else math.inf

    @property
    def budget(self) -> Budget:
        """What the API process is told of it."""
        return Budget(
            self.weights_bytes,
            self.kv_budget_bytes,
            self.context_length,
            self.model_context_length,
            self.kv_budget_bytes // max(self.sequence_bytes(self.context_length), 1),
        )

    def close(self) -> None:
        """Write to disk what waits for it."""
        if self.store:
            self.store.close()


def plan(
    loaded: LoadedModel,
    order: Load,
    draft_bytes: Callable[[int], int] | None = None,
    on_fault: Callable[[str], None] = lambda _: None,
) -> tuple[LoadedModel, MemoryPlan]:
    """
    Plan the memory of a model that is loaded, and its draft model with it.

    Args:
        loaded: the model.
        order: what the engine was told.
        draft_bytes: what a draft model remembers of a row of so many tokens; None: there is none.
        on_fault: told why prefixes are not kept on disk; from any thread.

    Returns:
        The model, its card with the context that there is memory for, and the plan.

    Raises:
        UnfitModel: it can't do with what *order* says, or there is no memory for it.
    """
    caches = Caches(loaded.model, order.kv_bits, order.max_kv_size)
    if draft_bytes is not None and not trimmable_below(caches.make()):
        raise UnfitModel(
            "DRAFT_MODEL is of no use: nothing can be taken back out of what it remembers"
        )

    def sequence_bytes(n_tokens: int) -> int:
        return caches.n_bytes(n_tokens) + (draft_bytes(n_tokens) if draft_bytes else 0)

    longest = loaded.card.context_length
    step = measured(loaded.model, caches, longest)
    n_drawn = order.max_concurrency * (1 + order.num_draft_tokens)
    usable = _usable_bytes(loaded, order)
    left = int(usable * (1 - RESERVE)) - step.logits_bytes(n_drawn)
    if order.kv_memory_mb is None:
        context_length = _longest(longest, sequence_bytes, step, left)
        if context_length < MIN_CONTEXT:
            raise UnfitModel(
                f"the {usable // MB} MB that {'MEMORY_MB' if order.memory_mb else 'the machine'} has left "
                "beside its weights "
                f"have room for {context_length} tokens of it"
            )
    else:
        kv_bytes = order.kv_memory_mb * MB
        context_length = bisect_right(range(longest + 1), kv_bytes, key=sequence_bytes) - 1
        if context_length < MIN_CONTEXT:
            raise UnfitModel(f"KV_MEMORY_MB has room for {context_length} tokens of it")
    for_step = min(left * STEP_SHARE, left - sequence_bytes(context_length))
    step_tokens = _step_tokens(step, context_length, for_step)
    step_bytes = step.n_bytes(step_tokens, context_length)
    prefix_bytes = order.prefix_cache_mb * MB
    left -= step_bytes
    if order.kv_memory_mb is not None:
        if kv_bytes + prefix_bytes > left:
            _log.warning(
                "KV_MEMORY_MB and PREFIX_CACHE_MB are more than the %d MB left", left // MB
            )
    else:
        kv_bytes = max(left - prefix_bytes, min(left, sequence_bytes(context_length)))
        prefix_bytes = min(prefix_bytes, left - kv_bytes)
    made = MemoryPlan(
        caches=caches,
        sequence_bytes=sequence_bytes,
        kv_budget_bytes=kv_bytes,
        prefixes=PrefixCache(prefix_bytes),
        store=_store(order, on_fault) if prefix_bytes else None,
        context_length=context_length,
        model_context_length=longest,
        max_step_tokens=step_tokens,
        step_bytes=step_bytes + step.logits_bytes(n_drawn),
        weights_bytes=size_bytes(loaded.model),
        usable_bytes=usable,
    )
    card = msgspec.structs.replace(loaded.card, context_length=context_length)
    return replace(loaded, card=card), made


def set_limits(made: MemoryPlan) -> None:
    """
    Hold MLX itself to the plan; called once, by the engine, before it serves.

    Its memory limit is all that it has now and may take: beyond it MLX frees what it keeps for reuse, and
    waits for what it has begun. With that and a bound on its buffer cache nobody needs to clear that cache
    after each piece of a prompt. On Metal it holds what the largest step gives back, as the next step asks
    for the same again; and as much as the system recommends stays wired, or what has not been used for a
    while would be compressed and come back slowly. Elsewhere it holds little, and nothing is wired.
    """
    mx.set_memory_limit(mx.get_active_memory() + made.usable_bytes)
    mx.set_cache_limit(BUFFERS_BYTES)
    if mx.metal.is_available():
        mx.set_cache_limit(max(made.step_bytes, BUFFERS_BYTES))
        mx.set_wired_limit(working_set_bytes())


def _usable_bytes(loaded: LoadedModel, order: Load) -> int:
    """Return what there is beside the weights: in the machine, and by `MEMORY_MB`."""
    if order.memory_mb is None:
        return usable_bytes()
    return max(min(usable_bytes(), order.memory_mb * MB - size_bytes(loaded.model)), 0)


def _longest(
    most: int, sequence_bytes: Callable[[int], int], step: StepMemory, left_bytes: int
) -> int:
    """Return how long one row may become with so many bytes left for it and for the smallest step."""

    def n_bytes(n_tokens: int) -> int:
        return sequence_bytes(n_tokens) + step.n_bytes(MIN_STEP_TOKENS, n_tokens)

    return max(bisect_right(range(most + 1), left_bytes, key=n_bytes) - 1, 0)


def _step_tokens(step: StepMemory, context_length: int, most_bytes: float) -> int:
    """Return how many tokens a step may read, so that it takes no more than it should."""
    n_tokens = MAX_STEP_TOKENS
    while n_tokens > MIN_STEP_TOKENS and step.n_bytes(n_tokens, context_length) > most_bytes:
        n_tokens //= 2
    return n_tokens


def _store(order: Load, on_fault: Callable[[str], None]) -> DiskStore | None:
    """Return where prefixes are kept on disk; None: nowhere, as was asked for or can't be helped."""
    if order.prefix_cache_path is None:
        return None
    _, folder = locate(order.model_path)
    settings: tuple[object, ...] = (order.kv_bits, order.max_kv_size)
    if order.adapter_path is not None:
        settings += (fingerprint(locate(order.adapter_path, "ADAPTER_PATH")[1]),)
    name = fingerprint(folder, *settings)
    try:
        return DiskStore(
            Path(order.prefix_cache_path).expanduser() / name,
            order.prefix_cache_disk_mb * MB,
            on_fault,
        )
    except OSError as error:
        on_fault(f"PREFIX_CACHE_PATH can't be made: {error.strerror}")
        return None
