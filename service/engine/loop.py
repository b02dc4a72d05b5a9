"""
The engine's one loop: take what came, one step, one message back with all that it brought.

    reader thread ── Submit ──> text worker ──┬─────────────────────────┐
          │                                   └──> grammar worker ──────┤ _Arrival
          └────────── Cancel ───────────────────────────────────────────┴──> inbox ──> main thread: steps

Only the main thread touches MLX and decides what a ticket's fate is; the others just hand over. None of
the queues holds more than the API process has permits for.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from service.catalog.card import UnfitModel
from service.engine.cache.memory_plan import MemoryPlan, set_limits
from service.engine.channel import Channel
from service.engine.embedding import EmbeddingEngine
from service.engine.kinds import kind, load_generating
from service.engine.meter import Meter, generation
from service.engine.model.load import LoadedModel, locate
from service.engine.pulse import Pulse
from service.engine.scheduler.scheduler import Scheduler
from service.engine.start import prove, start
from service.engine.text import sandbox
from service.engine.text.prompt import Prepared, RefusedPrompt
from service.engine.worker import Worker
from service.protocol import (
    GENERATING,
    Accepted,
    CacheFault,
    Cancel,
    Cancelled,
    Detokenize,
    Detokenized,
    Failed,
    Job,
    Load,
    Loaded,
    Rejected,
    Step,
    Submit,
    ToEngine,
    Tokenize,
    Tokenized,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Arrival:
    """A job that came at `came_s`, ready to begin."""

    ticket: int
    job: Job
    came_s: float
    prepared: Prepared


def serve(
    channel: Channel,
    order: Load,
    leave: Callable[[int], None] = os._exit,
    pulse: Pulse | None = None,
) -> None:
    """
    Load what *order* names and serve it; returns only if it cannot be served.

    Args:
        channel: to the API process.
        order: what to load.
        leave: called with an exit status, from the reader's thread, when the API process is gone.
        pulse: where the threads count what they have done.
    """
    sandbox.install()
    reader = _Reader(channel, leave)
    threading.Thread(target=reader.read, name="reader", daemon=True).start()
    try:
        _download(channel, order)
        if kind(order) in GENERATING:
            engine = Engine(channel, pulse or Pulse())
            reader.engine = engine
            engine.run(load_generating(order), order)
        else:
            embedding = EmbeddingEngine(channel, pulse or Pulse())
            reader.engine = embedding
            embedding.run(order)
    except UnfitModel as error:
        channel.refuse(error)


def _download(channel: Channel, order: Load) -> None:
    """Get what is on no disk here, and tell of it, since nobody can say how long that takes."""
    locate(order.model_path, with_code=order.trust_remote_code, hear=channel.send)
    if order.draft_model is not None:
        locate(order.draft_model, "DRAFT_MODEL", hear=channel.send)
    if order.adapter_path is not None:
        locate(order.adapter_path, "ADAPTER_PATH", hear=channel.send)


class _Reader:
    """
    Hands messages over until the API process is gone; then there is nobody left to work for.

    Attributes:
        engine: who gets them; None: the model is not loaded, and none comes.
    """

    def __init__(self, channel: Channel, leave: Callable[[int], None]) -> None:
        self.engine: Engine | EmbeddingEngine | None = None
        self._channel = channel
        self._leave = leave

    def read(self) -> None:
        """Do so, on a thread that does nothing else."""
        for message in self._channel.messages():
            if self.engine is not None:
                self.engine.take(message)
        if self.engine is not None:
            self.engine.close()
        self._leave(0)


class Engine:
    """One language model's requests, from messages in to messages out."""

    def __init__(self, channel: Channel, pulse: Pulse) -> None:
        self._channel = channel
        self._inbox: queue.SimpleQueue[_Arrival | Cancel] = queue.SimpleQueue()
        self._pulse = pulse
        self._text_worker = Worker("text worker", pulse.texts)
        self._grammar_worker = Worker("grammar worker", pulse.grammars)
        self._open: set[int] = set()  # tickets that came, and neither ended nor were cancelled
        self._memory: MemoryPlan | None = None

    def take(self, message: ToEngine) -> None:
        """Hand *message* on, on the reader's thread."""
        if isinstance(message, Submit):
            self._open.add(message.ticket)
            job = partial(self._prepare, message, time.monotonic())
            self._text_worker.put(job)
        elif isinstance(message, Cancel):
            self._open.discard(message.ticket)
            self._inbox.put(message)
        elif isinstance(message, Tokenize | Detokenize):
            self._open.add(message.ticket)
            self._text_worker.put(partial(self._tell, message), is_question=True)

    def close(self) -> None:
        """Write to disk what is to be kept, when there is nobody left to work for."""
        if self._memory:
            self._memory.close()

    def run(self, loaded: LoadedModel, order: Load) -> None:
        """
        Warm up, then step for ever. The caller's thread is the MLX thread from here on.

        Raises:
            UnfitModel: it can't be served; the message says why.
        """
        started = start(loaded, order, lambda reason: self._channel.send(CacheFault(reason)))
        set_limits(started.memory)
        self._memory, self._preparer = started.memory, started.preparer
        scheduler = started.scheduler
        self._pulse.n_steps = lambda: scheduler.n_steps
        self._channel.send(Loaded(started.loaded.card, started.memory.budget))
        self._channel.send(prove(started, order))
        scheduler.counts.clear()
        meter = Meter(self._pulse, lambda: generation(scheduler, started.memory))
        while True:
            if not scheduler.tickets:
                meter.look()
            self._take(scheduler)
            self._pulse.n_turns += 1
            if scheduler.tickets:
                began_s = time.perf_counter()
                self._step(scheduler)
                meter.note_step(time.perf_counter() - began_s)

    def _prepare(self, submitted: Submit, came_s: float) -> None:
        """Make a prompt of a job, on the text worker."""
        ticket, job = submitted.ticket, submitted.job
        if ticket not in self._open:
            return
        with self._blaming(ticket):
            arrival = _Arrival(ticket, job, came_s, self._preparer.prompt(job))
            if self._preparer.is_compiled(job):
                self._accept(arrival)
            else:  # which may take a while, and others need not wait for it
                self._grammar_worker.put(partial(self._constrain, arrival))

    def _constrain(self, arrival: _Arrival) -> None:
        """Compile the form that an answer shall have, on the grammar worker."""
        if arrival.ticket in self._open:
            with self._blaming(arrival.ticket):
                self._accept(arrival)

    def _accept(self, arrival: _Arrival) -> None:
        """Hand a job that is sound to the MLX thread."""
        prepared = self._preparer.constrained(arrival.job, arrival.prepared)
        self._channel.send(Accepted(arrival.ticket, len(prepared.ids)))
        self._inbox.put(replace(arrival, prepared=prepared))

    def _tell(self, question: Tokenize | Detokenize) -> None:
        """Answer a question about tokens, on the text worker, if it is still asked."""
        if question.ticket not in self._open:
            return
        with self._blaming(question.ticket):
            match question:
                case Tokenize(ticket, prompt):
                    ids = self._preparer.ids(prompt)
                    answer = Tokenized(ticket, tuple(ids), self._preparer.pieces(ids))
                    self._channel.send(answer)
                case Detokenize(ticket, ids=given):
                    self._channel.send(Detokenized(ticket, self._preparer.text(given)))
        self._open.discard(question.ticket)

    @contextmanager
    def _blaming(self, ticket: int) -> Iterator[None]:
        """Send what goes wrong with the prompt of *ticket*, and go on."""
        try:
            yield
        except RefusedPrompt as refused:
            self._end(
                Rejected(ticket, refused.message, refused.param, refused.code, refused.overflow)
            )
        except Exception:
            _log.exception("the prompt of ticket %d could not be made", ticket)
            self._end(Failed(ticket))

    def _take(self, scheduler: Scheduler) -> None:
        """Take in all that came; wait for it if there is nothing to generate."""
        arrived = [] if scheduler.tickets else [self._inbox.get()]
        while not self._inbox.empty():
            arrived.append(self._inbox.get())
        self._cancel(scheduler, {each.ticket for each in arrived if isinstance(each, Cancel)})
        for each in arrived:
            if isinstance(each, Cancel):
                self._channel.send(Cancelled(each.ticket))
            elif each.ticket in self._open:
                self._admit(scheduler, each)

    def _cancel(self, scheduler: Scheduler, tickets: set[int]) -> None:
        """Drop what was cancelled; if its rows can't be taken out of the others, all are lost."""
        try:
            scheduler.cancel(tickets)
        except Exception:
            self._fail_all(scheduler)

    def _fail_all(self, scheduler: Scheduler) -> None:
        """Give up all that is being generated, after an error that nobody expected."""
        tickets = scheduler.tickets
        _log.exception("tickets %s are lost", tickets)
        scheduler.reset()
        for ticket in tickets:
            self._end(Failed(ticket))

    def _admit(self, scheduler: Scheduler, each: _Arrival) -> None:
        """Make a sequence of what came."""
        try:
            scheduler.add(each.ticket, each.prepared, each.job, each.came_s)
        except Exception:
            _log.exception("ticket %d could not begin", each.ticket)
            self._end(Failed(each.ticket))

    def _step(self, scheduler: Scheduler) -> None:
        """Advance every sequence and say what came of it; what breaks here never ends the process."""
        try:
            output = scheduler.step()
        except Exception:
            self._fail_all(scheduler)
            return
        self._channel.send(Step(tuple(output.deltas)))
        for refusal in output.refusals:
            message = "The form of the answer is too complex to be followed."
            self._end(Rejected(refusal.ticket, message, refusal.param, "invalid_grammar"))
        for ticket in output.failures:
            self._end(Failed(ticket))
        for ticket in output.not_finite:
            self._end(Failed(ticket, is_numerical=True))
        self._open.difference_update(each.ticket for each in output.deltas if each.finish_reason)

    def _end(self, message: Rejected | Failed) -> None:
        """Send the last message for a ticket."""
        self._open.discard(message.ticket)
        self._channel.send(message)
