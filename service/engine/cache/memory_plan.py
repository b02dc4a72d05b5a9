"""What an engine may remember: its rows' caches, and what was read before, as it was told at its start."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from service.catalog.card import UnfitModel
from service.engine.cache.kv import Caches, trimmable_below
from service.engine.cache.prefix_cache import PrefixCache
from service.engine.cache.prefix_store import DiskStore, fingerprint
from service.engine.decoding.draft_model import DraftModel
from service.engine.model.load import LoadedModel, locate
from service.engine.scheduler.scheduler import Scheduler
from service.engine.warmup import answers_alike
from service.protocol import Load

_log = logging.getLogger(__name__)

MB = 1_000_000
MIN_CONTEXT = 16


@dataclass(frozen=True)
class Memory:
    """
    What a batch remembers with.

    Attributes:
        caches: makes each row's.
        row_bytes: what a row of so many tokens takes, with what a draft model remembers of it.
        max_kv_bytes: of all rows together; may be infinite.
        prefixes: what has been read before.
        files: where that outlives the process; None: nowhere.
    """

    caches: Caches
    row_bytes: Callable[[int], int]
    max_kv_bytes: float
    prefixes: PrefixCache
    files: DiskStore | None

    @property
    def window(self) -> float:
        """How long a prompt must be for what is kept of it not to be shortened; may be infinite."""
        return trimmable_below(self.caches.make()) if self.prefixes.is_on else math.inf

    def open(self, batcher: Scheduler, prompt: list[int]) -> None:
        """Let *batcher* keep what it reads, unless an answer to *prompt* comes out otherwise then."""
        if not self.prefixes.is_on:
            return
        try:
            is_true = answers_alike(batcher, prompt)
        except Exception:
            _log.exception("the prefix cache could not be tried")
            is_true = False
        self.prefixes.clear()
        if not is_true:
            _log.error("the prefix cache is off: with this model it changes answers")
            self.prefixes.turn_off()
            batcher.reset()
        elif self.files:
            self.prefixes.keep_on(self.files)

    def close(self) -> None:
        """Write to disk what waits for it."""
        if self.files:
            self.files.close()


def plan(
    loaded: LoadedModel, order: Load, draft: DraftModel | None = None
) -> tuple[LoadedModel, Memory]:
    """
    Return the model with no more context than there is memory for, and what it remembers with.

    Raises:
        UnfitModel: it can't do with what *order* says.
    """
    caches = Caches(loaded.model, order.kv_bits, order.max_kv_size)
    max_kv_bytes = (order.kv_memory_mb or math.inf) * MB
    if draft is not None and not trimmable_below(caches.make()):
        raise UnfitModel(
            "DRAFT_MODEL is of no use: nothing can be taken back out of what it remembers"
        )

    def row_bytes(n_tokens: int) -> int:
        return caches.n_bytes(n_tokens) + (draft.n_bytes(n_tokens) if draft else 0)

    lengths = range(loaded.card.context_length + 1)
    context_length = bisect_right(lengths, max_kv_bytes, key=row_bytes) - 1
    if context_length < MIN_CONTEXT:
        raise UnfitModel(f"KV_MEMORY_MB has room for {context_length} tokens of it")
    card = msgspec.structs.replace(loaded.card, context_length=context_length)
    prefixes = PrefixCache(order.prefix_cache_mb * MB)
    memory = Memory(caches, row_bytes, max_kv_bytes, prefixes, _files(order))
    return replace(loaded, card=card), memory


def _files(order: Load) -> DiskStore | None:
    """Return where prefixes are kept on disk; None: nowhere."""
    if order.prefix_cache_path is None or not order.prefix_cache_mb:
        return None
    _, folder = locate(order.model_path)
    name = fingerprint(folder, order.kv_bits, order.max_kv_size)
    try:
        return DiskStore(
            Path(order.prefix_cache_path).expanduser() / name, order.prefix_cache_disk_mb * MB
        )
    except OSError as error:
        raise UnfitModel(f"PREFIX_CACHE_PATH can't be made: {error.strerror}") from error
