"""
The engine's one loop: take what came, one batch step, one message back with all it brought.

    reader thread ── Submit ──> text worker ── _Prompt ──┐
          └────────── Cancel ────────────────────────────┴──> inbox ──> main thread: batch steps

Only the main thread touches MLX and decides what a ticket's fate is; the others just hand over. None of
the queues holds more than the API process has permits for.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mlx.core as mx

from service.catalog.card import UnfitModel
from service.engine.batcher import Batcher
from service.engine.channel import Channel
from service.engine.load import LoadedModel, load
from service.engine.text import Prompter, RefusedPrompt
from service.engine.warmup import warm_up
from service.protocol import (
    Accepted,
    Cancel,
    Cancelled,
    Failed,
    Job,
    Load,
    Loaded,
    LoadFailed,
    Rejected,
    Step,
    Submit,
    Turn,
    WarmedUp,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Prompt:
    """What the text worker made of a job; `ids` is None if it was refused."""

    ticket: int
    job: Job
    ids: list[int] | None


def serve(channel: Channel, order: Load, leave: Callable[[int], None] = os._exit) -> None:
    """
    Load what *order* names and serve it; returns only if it cannot be served.

    Args:
        channel: to the API process.
        order: what to load.
        leave: called with an exit status, from the reader's thread, when the API process is gone.
    """
    engine = Engine(channel, leave)
    threading.Thread(target=engine.read, name="reader", daemon=True).start()
    try:
        engine.run(load(order), order)
    except UnfitModel as error:
        _log.error("the model cannot be served: %s", error)
        channel.send(LoadFailed(str(error)))


class Engine:
    """One model's requests, from messages in to messages out."""

    def __init__(self, channel: Channel, leave: Callable[[int], None]) -> None:
        self._channel = channel
        self._leave = leave
        self._inbox: queue.SimpleQueue[_Prompt | Cancel] = queue.SimpleQueue()
        self._text_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="text")
        self._preparing: set[int] = set()
        self._cancelled: set[int] = set()

    def read(self) -> None:
        """Hand messages over until the API process is gone; then there is nobody left to work for."""
        for message in self._channel.messages():
            if isinstance(message, Submit):
                self._preparing.add(message.ticket)
                self._text_worker.submit(self._prepare, message)
            elif isinstance(message, Cancel):
                self._inbox.put(message)
        self._leave(0)

    def run(self, loaded: LoadedModel, order: Load) -> None:
        """
        Warm up, then step for ever. The caller's thread is the MLX thread from here on.

        Raises:
            UnfitModel: what it computes is not finite.
        """
        logits = loaded.model(mx.array([[0]]))
        if not mx.isfinite(logits).all().item():
            raise UnfitModel("it computes no finite numbers; its weights are damaged")
        n_logits = logits.shape[-1]
        self._prompter = Prompter(loaded.tokenizer, loaded.card.context_length, n_logits)
        prompt = self._first_prompt()
        batcher = Batcher(loaded, n_logits, order.max_concurrency)
        self._channel.send(Loaded(loaded.card))
        error = self._warm_up(batcher, prompt, order.max_concurrency) if order.warmup else None
        self._channel.send(WarmedUp(error))
        while True:
            self._take(batcher)
            if batcher.tickets:
                self._step(batcher)

    def _first_prompt(self) -> list[int]:
        """Return a prompt to warm up with; a template that hangs does so now, not on a request."""
        try:
            return self._prompter.prompt(Job((Turn("user", "Hello"),)))
        except RefusedPrompt as refused:
            _log.warning("no chat can be had with this model: %s", refused.message)
            return [0]

    def _warm_up(self, batcher: Batcher, prompt: list[int], n_rows: int) -> str | None:
        """Return None if a real pass has run, else why not."""
        try:
            warm_up(batcher, prompt, n_rows)
        except Exception as error:
            _log.exception("warm-up failed")
            batcher.reset()
            return type(error).__name__
        return None

    def _prepare(self, submitted: Submit) -> None:
        """Turn a chat into token ids, on the text worker."""
        ticket, job, ids = submitted.ticket, submitted.job, None
        if ticket not in self._cancelled:
            try:
                ids = self._prompter.prompt(job)
                self._channel.send(Accepted(ticket, len(ids)))
            except RefusedPrompt as refused:
                answer = Rejected(ticket, refused.message, refused.param, refused.code)
                self._channel.send(answer)
            except Exception:
                _log.exception("the prompt of ticket %d could not be made", ticket)
                self._channel.send(Failed(ticket))
        self._inbox.put(_Prompt(ticket, job, ids))

    def _take(self, batcher: Batcher) -> None:
        """Take in all that came; wait for it if there is nothing to generate."""
        while not batcher.tickets or not self._inbox.empty():
            match self._inbox.get():
                case Cancel(ticket):
                    if ticket in self._preparing:
                        self._cancelled.add(ticket)
                    batcher.remove(ticket)
                    self._channel.send(Cancelled(ticket))
                case _Prompt() as prompt:
                    self._preparing.discard(prompt.ticket)
                    if prompt.ticket not in self._cancelled:
                        self._admit(batcher, prompt)
                    self._cancelled.discard(prompt.ticket)

    def _admit(self, batcher: Batcher, prompt: _Prompt) -> None:
        """Make a row of *prompt*, unless it was refused."""
        if prompt.ids is None:
            return
        try:
            batcher.add(prompt.ticket, prompt.ids, prompt.job)
        except Exception:
            _log.exception("ticket %d could not become a row", prompt.ticket)
            self._channel.send(Failed(prompt.ticket))

    def _step(self, batcher: Batcher) -> None:
        """Advance every row; what breaks here costs the rows of this batch, never the process."""
        try:
            self._channel.send(Step(batcher.step()))
        except Exception:
            tickets = batcher.tickets
            _log.exception("a step failed for tickets %s", tickets)
            batcher.reset()
            for ticket in tickets:
                self._channel.send(Failed(ticket))
