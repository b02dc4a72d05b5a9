"""From a model that is loaded to a scheduler that has answered with it, before any client's request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx

from service.catalog.card import UnfitModel
from service.engine.cache.memory_plan import MemoryPlan, plan
from service.engine.constrain.prover import Prover
from service.engine.decoding.draft_model import load_draft
from service.engine.model.load import LoadedModel, check_logits
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler.scheduler import Batching, Scheduler
from service.engine.text.call_format import formats
from service.engine.text.prompt import RefusedPrompt
from service.engine.trial import open_batches, open_prefixes, trial_prompt
from service.engine.warmup import warm_up
from service.protocol import Chat, Load, Turn, WarmedUp

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """
    A model with all that serves it.

    Attributes:
        loaded: the model, its card with the context that there is memory for.
        memory: what it may remember.
        vocabulary: its tokens.
        preparer: makes prompts of jobs.
        scheduler: without any request.
        dtype: what its logits are computed as.
        prompt: a first prompt; a template that hangs has done so with it, and not on a request.
    """

    loaded: LoadedModel
    memory: MemoryPlan
    vocabulary: Vocabulary
    preparer: Preparer
    scheduler: Scheduler
    dtype: mx.Dtype
    prompt: list[int]


def start(
    loaded: LoadedModel, order: Load, on_fault: Callable[[str], None] = lambda _: None
) -> Started:
    """
    Plan the memory of a model, and make what serves it.

    Args:
        loaded: the model.
        order: what the engine was told.
        on_fault: told why prefixes are not kept on disk; from any thread.

    Raises:
        UnfitModel: it can't be served, with what *order* says or at all; the message says why.
    """
    try:
        return _started(loaded, order, on_fault)
    except UnfitModel:
        raise
    except Exception as error:  # whatever a model of a kind that nobody tried makes of its cache
        _log.exception("the model does not run")
        name = type(error).__name__
        raise UnfitModel(f"it does not run in this engine ({name}); see the log") from error


def _started(loaded: LoadedModel, order: Load, on_fault: Callable[[str], None]) -> Started:
    logits = loaded.model(mx.array([[0]]))
    check_logits(logits)
    loaded = replace(loaded, card=formats(loaded.tokenizer).confirmed(loaded.card))
    draft = load_draft(order, loaded, logits.shape[-1])
    loaded, memory = plan(loaded, order, draft.n_bytes if draft else None, on_fault)
    vocabulary = Vocabulary(loaded.tokenizer, logits.shape[-1])
    preparer = Preparer(
        loaded.tokenizer,
        loaded.card.context_length,
        vocabulary,
        allow_grammars=order.allow_grammars,
        window=memory.window,
        model_context_length=memory.model_context_length,
        prover=None if vocabulary.ll_tokenizer is None else Prover(vocabulary.ll_tokenizer),
        images=loaded.images,
    )
    scheduler = Scheduler(
        loaded,
        vocabulary,
        order.max_concurrency,
        caches=memory.caches,
        prefixes=memory.prefixes,
        sequence_bytes=memory.sequence_bytes,
        kv_budget_bytes=memory.kv_budget_bytes,
        max_step_tokens=memory.max_step_tokens,
        max_tokens_ahead=order.num_draft_tokens,
        draft=draft,
    )
    prompt = _first_prompt(preparer)
    return Started(loaded, memory, vocabulary, preparer, scheduler, logits.dtype, prompt)


def prove(started: Started, order: Load) -> WarmedUp:
    """Let the model answer: beside others, to warm up where *order* says so, and with its prefix cache."""
    scheduler, memory = started.scheduler, started.memory
    n_tokens, dtype = started.vocabulary.n_tokens, started.dtype
    error = None
    try:
        open_batches(scheduler, n_tokens, dtype)
        if order.warmup:
            warm_up(scheduler, started.prompt, scheduler.max_rows)
            scheduler.reset()  # what was slow because it was the first is no measure
            warm_up(scheduler, started.prompt, scheduler.max_rows)
    except Exception as failure:
        _log.exception("the model does not answer")
        scheduler.reset()
        error = type(failure).__name__
    tried = trial_prompt(scheduler, started.prompt, n_tokens)
    open_prefixes(scheduler, memory.prefixes, memory.store, tried, dtype)
    is_usual = scheduler.batching is Batching.PADDED
    return WarmedUp(error, () if is_usual else (scheduler.batching.value,))


def _first_prompt(preparer: Preparer) -> list[int]:
    try:
        return preparer.ids(Chat((Turn("user", "Hello"),)))
    except RefusedPrompt as refused:
        _log.warning("no chat can be had with this model: %s", refused.message)
        return [0]
