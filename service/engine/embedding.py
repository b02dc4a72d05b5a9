"""
The engine of a model that reads texts and writes none: vectors of them, or how well one answers another.

    reader thread ── Embed, Score ──> text worker ──┐ _Work
          │                                         │
          └────────── Cancel ───────────────────────┴──> inbox ──> main thread: steps

The threads are those of `loop`, and so is what they may touch. A step reads texts of like lengths, of as many
requests as there are; when the last text of a request has been read, its one answer goes out.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from service.catalog.card import UnfitModel, read_json
from service.engine.cache.machine import usable_bytes
from service.engine.cache.memory_plan import BUFFERS_BYTES, MB
from service.engine.channel import Channel
from service.engine.embed.encoder import encode, normalized
from service.engine.embed.load import load_encoder
from service.engine.embed.packing import Packer
from service.engine.embed.plan import StepPlan
from service.engine.embed.texts import Reading, TextReader
from service.engine.meter import Meter
from service.engine.model.load import locate, size_bytes
from service.engine.pulse import Pulse
from service.engine.text.prompt import RefusedPrompt
from service.engine.worker import Worker
from service.protocol import (
    Accepted,
    Budget,
    Cancel,
    Cancelled,
    Detokenize,
    Detokenized,
    Embed,
    Embedded,
    Failed,
    Load,
    Loaded,
    Rejected,
    Score,
    Scored,
    ToEngine,
    Tokenize,
    Tokenized,
    WarmedUp,
)

_log = logging.getLogger(__name__)

MIN_COSINE = 0.9999  # between the vectors of a text read alone and read beside a longer one
_N_TRIED = 3, 12  # tokens of two texts that are tried


@dataclass
class _Work:
    """
    What is read for one request.

    Attributes:
        readings: all of them.
        finish: makes the answer of what the model computed of each, shape (readings, numbers).
        found: what it has computed until now, by their places.
    """

    ticket: int
    readings: list[Reading]
    finish: Callable[[NDArray[np.float32]], Embedded | Scored]
    found: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether the model has read all of them."""
        return len(self.found) == len(self.readings)

    def answer(self) -> Embedded | Scored:
        """Return what the client gets."""
        return self.finish(np.stack([self.found[i] for i in range(len(self.readings))]))


class EmbeddingEngine:
    """
    One model's requests, from messages in to messages out.

    Args:
        channel: to the API process.
        pulse: where the threads count what they have done.
    """

    def __init__(self, channel: Channel, pulse: Pulse) -> None:
        self._channel = channel
        self._pulse = pulse
        self._inbox: queue.SimpleQueue[_Work | Cancel] = queue.SimpleQueue()
        self._text_worker = Worker("text worker", pulse.texts)
        self._open: set[int] = set()  # tickets that came, and neither ended nor were cancelled
        self._works: dict[int, _Work] = {}  # those that the model reads for

    def take(self, message: ToEngine) -> None:
        """Hand *message* on, on the reader's thread."""
        match message:
            case Embed(ticket) | Score(ticket):
                self._open.add(ticket)
                self._text_worker.put(partial(self._prepare, message))
            case Cancel(ticket):
                self._open.discard(ticket)
                self._inbox.put(message)
            case Tokenize(ticket) | Detokenize(ticket):
                self._open.add(ticket)
                self._text_worker.put(partial(self._tell, message), is_question=True)

    def close(self) -> None:
        """Keep nothing: there is nothing to be kept."""

    def run(self, order: Load) -> None:
        """
        Load what *order* names, then step for ever. The caller's thread is the MLX thread from here on.

        Raises:
            UnfitModel: it can't be served; the message says why.
        """
        self._loaded = loaded = load_encoder(order)
        config = read_json(locate(order.model_path)[1] / "config.json") or {}
        self._plan = StepPlan(config, self._left_bytes(order))
        most = loaded.card.context_length
        context_length = self._plan.longest(most)
        self._loaded = loaded = loaded.fitted(context_length)
        self._reader = TextReader(loaded.tokenizer, context_length, loaded.n_tokens, loaded.recipe)
        mx.set_cache_limit(max(BUFFERS_BYTES, self._plan.n_bytes(1, context_length)))
        pads = self._try()
        packer = Packer(self._plan.fits, pads=pads)
        weights = size_bytes(loaded.model)
        self._channel.send(Loaded(loaded.card, Budget(weights, 0, context_length, most, 0)))
        note = "it reads only texts of one length at once, as padding changes its vectors"
        self._channel.send(WarmedUp(None, () if pads else (note,)))
        meter = Meter(self._pulse)
        while True:
            if not packer:
                meter.look()
            self._receive(packer)
            self._pulse.n_turns += 1
            if packer:
                began_s = time.perf_counter()
                self._step(packer)
                meter.note_step(time.perf_counter() - began_s)

    def _left_bytes(self, order: Load) -> int:
        """Return what there is beside the weights: in the machine, and by `MEMORY_MB`."""
        if order.memory_mb is None:
            return usable_bytes()
        return max(min(usable_bytes(), order.memory_mb * MB - size_bytes(self._loaded.model)), 0)

    def _try(self) -> bool:
        """
        Read two texts, alone and side by side; return whether that made no difference.

        Raises:
            UnfitModel: what it computes is no number.
        """
        readings = [
            Reading([(7 * i + 3) % self._loaded.n_tokens for i in range(n)]) for n in _N_TRIED
        ]
        if self._loaded.card.kind == "reranker":
            readings = [Reading(each.ids, [0] * len(each.ids)) for each in readings]
        alone = np.concatenate([self._encode([each]) for each in readings])
        self._n_dimensions = alone.shape[1]
        together = self._encode(readings)
        if not np.isfinite(alone).all():
            raise UnfitModel("it computes no finite numbers; its weights are damaged")
        if self._loaded.card.kind == "reranker":
            return bool(np.allclose(alone, together, atol=1 - MIN_COSINE))
        cosines = (normalized(alone) * normalized(together)).sum(axis=-1)
        return bool((cosines >= MIN_COSINE).all())

    def _encode(self, readings: list[Reading]) -> NDArray[np.float32]:
        return encode(self._loaded.encoder, readings, self._loaded.padding)

    def _prepare(self, job: Embed | Score) -> None:
        """Make readings of a job, on the text worker."""
        if job.ticket not in self._open:
            return
        with self._blaming(job.ticket):
            work = self._vectors(job) if isinstance(job, Embed) else self._scores(job)
            self._channel.send(Accepted(job.ticket, _n_tokens(work.readings)))
            self._inbox.put(work)

    def _vectors(self, job: Embed) -> _Work:
        self._check_dimensions(job.dimensions)
        readings = self._reader.inputs(job)
        n_tokens = _n_tokens(readings)
        is_normalized = self._loaded.recipe.is_normalized

        def made(found: NDArray[np.float32]) -> Embedded:
            found = found[:, : job.dimensions]
            found = normalized(found) if is_normalized else found
            little = found.astype("<f4")
            return Embedded(job.ticket, tuple(row.tobytes() for row in little), n_tokens)

        return _Work(job.ticket, readings, made)

    def _check_dimensions(self, wanted: int | None) -> None:
        """See that vectors can be cut to so many numbers."""
        own, lengths = self._n_dimensions, self._loaded.recipe.lengths
        if wanted is None or wanted == own:
            return
        if lengths is None:
            message = (
                f"The model's vectors have {own} numbers, and its files say of no shorter ones."
            )
        elif wanted > own:
            message = f"The model's vectors have {own} numbers."
        elif lengths and wanted not in lengths:
            message = f"The model's vectors can have {', '.join(map(str, lengths))} numbers."
        else:
            return
        raise RefusedPrompt(message, param="dimensions", code="unsupported_parameter")

    def _scores(self, job: Score) -> _Work:
        if self._loaded.card.kind == "reranker":
            pairs = self._reader.pairs(job)
            n_read = _n_tokens(pairs)
            return _Work(
                job.ticket,
                pairs,
                lambda found: Scored(job.ticket, tuple(found[:, 0].tolist()), n_read),
            )
        readings = self._reader.apart(job)
        n_tokens = _n_tokens(readings)
        n_queries = len(job.queries)

        def scored(found: NDArray[np.float32]) -> Scored:
            vectors = normalized(found).astype(np.float64)
            cosines = (vectors[:n_queries] * vectors[n_queries:]).sum(axis=-1)
            return Scored(job.ticket, tuple(np.clip(cosines, -1, 1).tolist()), n_tokens)

        return _Work(job.ticket, readings, scored)

    def _tell(self, question: Tokenize | Detokenize) -> None:
        """Answer a question about tokens, on the text worker, if it is still asked."""
        if question.ticket not in self._open:
            return
        with self._blaming(question.ticket):
            match question:
                case Tokenize(ticket, prompt):
                    ids = self._reader.ids(prompt)
                    self._channel.send(Tokenized(ticket, tuple(ids), self._reader.pieces(ids)))
                case Detokenize(ticket, ids=given):
                    self._channel.send(Detokenized(ticket, self._reader.text(given)))
        self._open.discard(question.ticket)

    @contextmanager
    def _blaming(self, ticket: int) -> Iterator[None]:
        """Send what goes wrong with the texts of *ticket*, and go on."""
        try:
            yield
        except RefusedPrompt as refused:
            self._end(
                Rejected(ticket, refused.message, refused.param, refused.code, refused.overflow)
            )
        except Exception:
            _log.exception("the texts of ticket %d could not be read", ticket)
            self._end(Failed(ticket))

    def _receive(self, packer: Packer) -> None:
        """Take in all that came; wait for it if there is nothing to read."""
        arrived = [] if packer else [self._inbox.get()]
        while not self._inbox.empty():
            arrived.append(self._inbox.get())
        for each in arrived:
            if isinstance(each, Cancel):
                packer.drop(each.ticket)
                self._works.pop(each.ticket, None)
                self._channel.send(Cancelled(each.ticket))
            elif each.ticket in self._open:
                self._works[each.ticket] = each
                packer.add(each.ticket, [len(reading.ids) for reading in each.readings])

    def _step(self, packer: Packer) -> None:
        """Read texts, and send the answers that are complete; what breaks here never ends the process."""
        rows = packer.next()
        tickets = {row.ticket for row in rows}
        begun_s = time.monotonic()
        try:
            found = self._encode([self._works[row.ticket].readings[row.place] for row in rows])
        except Exception:
            _log.exception("tickets %s are lost", sorted(tickets))
            for ticket in tickets:
                self._lose(packer, Failed(ticket))
            return
        self._plan.note(time.monotonic() - begun_s)
        for row, vector in zip(rows, found, strict=True):
            if row.ticket in self._works:
                if np.isfinite(vector).all():
                    self._works[row.ticket].found[row.place] = vector
                else:
                    self._lose(packer, Failed(row.ticket, is_numerical=True))
        for ticket in tickets & self._works.keys():
            if self._works[ticket].is_done:
                self._open.discard(ticket)
                self._channel.send(self._works.pop(ticket).answer())

    def _lose(self, packer: Packer, message: Failed) -> None:
        """Give up a request, after an error that nobody expected."""
        packer.drop(message.ticket)
        self._works.pop(message.ticket, None)
        self._end(message)

    def _end(self, message: Rejected | Failed) -> None:
        """Send the last message for a ticket."""
        self._open.discard(message.ticket)
        self._channel.send(message)


def _n_tokens(readings: Sequence[Reading]) -> int:
    """Return how many tokens they have together."""
    return sum(len(each.ids) for each in readings)
