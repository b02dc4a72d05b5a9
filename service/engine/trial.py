"""Whether answers are the same with the prefix cache, tried before any client's request."""

from __future__ import annotations

import logging

from service.engine.cache.memory_plan import MemoryPlan
from service.engine.scheduler.scheduler import Batcher
from service.engine.warmup import answers_alike

_log = logging.getLogger(__name__)


def open_prefixes(batcher: Batcher, memory: MemoryPlan, prompt: list[int]) -> None:
    """Let *batcher* keep what it reads, unless an answer to *prompt* comes out otherwise then."""
    if not memory.prefixes.is_on:
        return
    try:
        is_true = answers_alike(batcher, prompt)
    except Exception:
        _log.exception("the prefix cache could not be tried")
        is_true = False
    memory.prefixes.clear()
    if not is_true:
        _log.error("the prefix cache is off: with this model it changes answers")
        memory.prefixes.turn_off()
        batcher.reset()
    elif memory.store:
        memory.prefixes.keep_on(memory.store)
