"""
Requests as rows of one batch: mlx-lm's BatchGenerator, with each row's answer beside it.

One `step` is one decode step for every row, or a piece of the prompts that wait, or both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.generate import BatchGenerator, GenerationBatch, StopSequences, make_stop_sequences

from service.engine.answer import Answer, Reader
from service.engine.load import LoadedModel
from service.engine.prompt import Prepared
from service.engine.sampling import Draw, Sampler
from service.engine.scoring import Scored, Scoring
from service.engine.vocabulary import Vocabulary
from service.protocol import Candidate, Delta, FinishReason, Job, Spent, TokenLogprob

PREFILL_STEP_TOKENS = 512
PREFILL_ROWS = 8
MIN_LOGPROB = -9999.0
_NO_END = StopSequences()


@dataclass
class _Row:
    ticket: int
    job: Job
    prepared: Prepared
    answer: Answer
    draw: Draw
    came_s: float
    begun_s: float | None = None
    first_s: float | None = None
    n_tokens: int = 0


class Batcher:
    """
    The rows that generate now. Belongs to the MLX thread.

    Args:
        loaded: the model and its tokenizer.
        vocabulary: its tokens.
        max_rows: most rows at once.

    Attributes:
        broken: tickets whose answers could not be held to their form in the last step, and the request's
            field that asked for it; their rows are gone, the others are as they were.
    """

    def __init__(self, loaded: LoadedModel, vocabulary: Vocabulary, max_rows: int) -> None:
        self._loaded = loaded
        self._vocabulary = vocabulary
        self._max_rows = max_rows
        self._turn_ends = make_stop_sequences(loaded.tokenizer)
        self._reader = Reader(loaded.tokenizer)
        self.reset()

    @property
    def tickets(self) -> list[int]:
        """The tickets of all rows: being scored, prefilling or decoding."""
        return [row.ticket for row in [*self._scored, *self._rows.values()]]

    def reset(self) -> None:
        """Drop every row and everything that a failed step may have left behind."""
        self._rows: dict[int, _Row] = {}
        self._scored: list[_Row] = []
        self.broken: list[tuple[int, str]] = []
        self._scoring: Scoring | None = None
        self._sampler = Sampler()
        self._generator = BatchGenerator(
            self._loaded.model,
            sampler=self._sampler,
            completion_batch_size=self._max_rows,
            prefill_batch_size=min(PREFILL_ROWS, self._max_rows),
            prefill_step_size=PREFILL_STEP_TOKENS,
        )

    def add(self, ticket: int, prepared: Prepared, job: Job, came_s: float | None = None) -> None:
        """
        Take *job* in.

        Args:
            ticket: its number.
            prepared: its prompt.
            job: what is asked for.
            came_s: when it came, on the monotonic clock; by default now.
        """
        draw = Draw(
            job.sampling,
            self._loaded.sampling,
            prepared.ids,
            self._vocabulary.n_logits,
            top_logprobs=job.top_logprobs,
            gate=prepared.gate,
        )
        answer = self._reader.answer(job, is_thinking=prepared.is_thinking)
        came_s = time.monotonic() if came_s is None else came_s
        row = _Row(ticket, job, prepared, answer, draw, came_s)
        if job.echo:
            self._scored.append(row)
        else:
            self._insert(row, prepared.ids)

    def _insert(self, row: _Row, ids: list[int], cache: list[Any] | None = None) -> None:
        """Make a row of the batch; *ids* are what its *cache* doesn't hold yet."""
        room = self._loaded.card.context_length - len(row.prepared.ids)
        ends = self._turn_ends
        if row.job.ignore_eos and row.draw.gate is None:
            ends = _NO_END
        n_held = len(row.prepared.ids) - len(ids)
        (uid,) = self._generator.insert(
            [ids],
            max_tokens=[min(row.job.max_tokens or room, room)],
            caches=[cache] if cache is not None else None,
            all_tokens=[row.prepared.ids[:n_held]],
            samplers=[self._sampler],
            logits_processors=[row.draw.processors],
            stop_sequences=[self._sampler.turnstile(row.draw, ends)],
        )
        self._rows[uid] = row

    def remove(self, ticket: int) -> None:
        """Drop the row of *ticket* and its cache, if there is one."""
        if self._scored and self._scored[0].ticket == ticket:
            self._scoring = None
        self._scored = [row for row in self._scored if row.ticket != ticket]
        for uid, row in self._rows.items():
            if row.ticket == ticket:
                self._drop(uid)
                return

    def step(self) -> tuple[Delta, ...]:
        """Advance every row and return what it brought."""
        self.broken = []
        deltas = self._score()
        if self._rows:
            began_s = time.monotonic()
            progress, responses = self._generator.next()
            for piece in progress:
                if (row := self._rows.get(piece.uid)) and row.begun_s is None:
                    row.begun_s = began_s
            deltas += [self._read(each) for each in responses if each.uid in self._rows]
        return tuple(delta for delta in deltas if _says_something(delta))

    def _score(self) -> list[Delta]:
        """Score a piece of the first prompt that waits for it; return its echo once it is whole."""
        if not self._scored:
            return []
        row = self._scored[0]
        row.begun_s = row.begun_s or time.monotonic()
        ids, n_top = row.prepared.ids, row.job.top_logprobs
        if n_top is not None:
            if self._scoring is None:
                self._scoring = Scoring(self._loaded.model, ids, n_top, self._vocabulary.n_logits)
            if not self._scoring.is_done:
                self._scoring.step()
            if not self._scoring.is_done:
                return []
        scoring, self._scoring = self._scoring, None
        self._scored.pop(0)
        logprobs = self._echoed(ids, scoring.scored) if scoring else ()
        if row.job.max_tokens == 0:
            spent = self._spent(row)
            return [
                Delta(row.ticket, row.prepared.text, 0, "length", logprobs=logprobs, spent=spent)
            ]
        if scoring and len(ids) > 1:
            self._insert(row, ids[-1:], scoring.cache)
        else:
            self._insert(row, ids)
        return [Delta(row.ticket, row.prepared.text, 0, logprobs=logprobs)]

    def _echoed(self, ids: list[int], scored: Sequence[Scored]) -> tuple[TokenLogprob, ...]:
        first = TokenLogprob(Candidate(ids[0], self._vocabulary.piece(ids[0]), None), ())
        rest = [
            self._token_logprob(token, value, top)
            for token, (value, top) in zip(ids[1:], scored, strict=True)
        ]
        return (first, *rest)

    def _read(self, response: GenerationBatch.Response) -> Delta:
        """Turn one row's new token into what it says; the row goes if that was its last."""
        row = self._rows[response.uid]
        if row.first_s is None:
            row.first_s = time.monotonic()
        logprob = self._logprob(row, response.token)
        reason: FinishReason | None = response.finish_reason
        ends_turn = reason == "stop"
        row.n_tokens += not ends_turn
        answer = row.answer
        said = answer.finish() if ends_turn else answer.add(response.token, logprob)
        if ends_turn and row.job.echo and logprob is not None:
            said.logprobs += (logprob,)  # who scores prompts counts on one for each token drawn
        if reason == "length" and not answer.is_over:
            rest = answer.finish()
            said.text += rest.text
            said.reasoning += rest.reasoning
            said.tool_calls += rest.tool_calls
            said.logprobs += rest.logprobs
        if reason is not None:
            self._sampler.forget(row.draw)
            del self._rows[response.uid]
        elif answer.is_over:
            self._drop(response.uid)
        if row.draw.gate is not None and row.draw.gate.is_broken:
            param = row.job.constraint.param if row.job.constraint else "tools"
            self.broken.append((row.ticket, param))
            if response.uid in self._rows:
                self._drop(response.uid)
            return Delta(row.ticket, "", row.n_tokens)
        if answer.is_over or reason is not None:
            reason = answer.reason(reason or "stop")
        return Delta(
            row.ticket,
            said.text,
            row.n_tokens,
            reason,
            said.reasoning,
            answer.n_reasoning_tokens,
            said.tool_calls,
            said.logprobs,
            None if reason is None else self._spent(row),
            answer.stop_text,
        )

    def _logprob(self, row: _Row, token: int) -> TokenLogprob | None:
        """Return what was reported for the row's token; None where nothing is."""
        if not row.draw.reports:
            return None
        report, place = row.draw.reports.popleft()
        value, top = report.read(place)
        return self._token_logprob(token, value, top[: row.job.top_logprobs])

    def _token_logprob(
        self, token: int, value: float, top: Sequence[tuple[int, float]]
    ) -> TokenLogprob:
        return TokenLogprob(
            Candidate(token, self._vocabulary.piece(token), max(value, MIN_LOGPROB)),
            tuple(
                Candidate(i, self._vocabulary.piece(i), max(each, MIN_LOGPROB)) for i, each in top
            ),
        )

    def _spent(self, row: _Row) -> Spent:
        now_s = time.monotonic()
        begun_s = row.begun_s or now_s
        first_s = row.first_s or now_s
        return Spent(0, begun_s - row.came_s, first_s - begun_s, now_s - first_s)

    def _drop(self, uid: int) -> None:
        self._sampler.forget(self._rows.pop(uid).draw)
        self._generator.remove([uid])


def _says_something(delta: Delta) -> bool:
    return bool(
        delta.text or delta.reasoning or delta.tool_calls or delta.logprobs or delta.finish_reason
    )
