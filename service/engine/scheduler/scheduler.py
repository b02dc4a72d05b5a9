"""
Requests as rows of a batch: mlx-lm's BatchGenerator, with each row's answer beside it.

One `step` is one decode step for every row, or a piece of the prompts that wait, or both. Rows of a batch are
padded to the longest of them, so there may be several, the `lanes`, stepped one after another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from mlx_lm.generate import GenerationBatch, StopSequences, make_stop_sequences

from service.engine.cache.kv import Caches
from service.engine.cache.prefix_cache import Cache, Held, Ids, PrefixCache
from service.engine.decoding.batch import Generator
from service.engine.decoding.costs import Pace
from service.engine.decoding.draft_model import DraftModel
from service.engine.decoding.sampling import Draw
from service.engine.decoding.scoring import Scored, Scoring
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.scheduler.lanes import Lanes
from service.engine.scheduler.prefill import Prompt, Readings, window_of
from service.engine.text.answer import Answer, AnswerParser
from service.engine.text.prompt import Prepared
from service.protocol import Delta, FinishReason, Job, Spent, TokenLogprob

MAX_READING = 8  # prompts at once
_NO_END = StopSequences()


@dataclass
class _Row:
    ticket: int
    job: Job
    prepared: Prepared
    ids: Ids
    answer: Answer
    draw: Draw
    max_tokens: int
    came_s: float
    lane: Generator | None = None
    held: Held | None = None
    reach: int = 0
    reach_at: int = -1
    n_cached: int = 0
    begun_s: float | None = None
    first_s: float | None = None
    n_tokens: int = 0

    @property
    def length(self) -> int:
        """Tokens of its prompt and its answer so far."""
        return len(self.ids) + self.n_tokens


class Batcher:
    """
    The rows that generate now. Belongs to the MLX thread.

    Args:
        loaded: the model and its tokenizer.
        vocabulary: its tokens.
        max_rows: most rows at once.
        caches: makes each row's; by default the model's own.
        prefixes: what has been read before; by default nothing is kept.
        row_bytes: what the caches of a row of so many tokens take; by default its own alone.
        max_kv_bytes: of the caches of all rows together, at the longest that they may become.
        max_tokens_ahead: most tokens that a row is given by guessing in one step; 0: nothing is guessed.
        draft: guesses what can't be looked up; None: nobody does.

    Attributes:
        window: caches of as many tokens or more can't be shortened; may be infinite.
        context_length: longest prompt and answer together, in tokens.
        broken: tickets whose answers could not be held to their form in the last step, and the request's
            field that asked for it; their rows are gone, the others are as they were.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        vocabulary: Vocabulary,
        max_rows: int,
        *,
        caches: Caches | None = None,
        prefixes: PrefixCache | None = None,
        row_bytes: Callable[[int], int] | None = None,
        max_kv_bytes: float = math.inf,
        max_tokens_ahead: int = 0,
        draft: DraftModel | None = None,
    ) -> None:
        self._loaded = loaded
        self._vocabulary = vocabulary
        self._max_rows = max_rows
        self._prefixes = PrefixCache(max_bytes=0) if prefixes is None else prefixes
        self._caches = caches or Caches(loaded.model, None, None)
        self.context_length = loaded.card.context_length
        self.window = window_of(self._caches.make())
        self._row_bytes = row_bytes or self._caches.n_bytes
        self._max_kv_bytes = max_kv_bytes
        ahead = max_tokens_ahead if self.window > 0 else 0
        self._lanes = Lanes(loaded.model, max_rows, ahead, self._caches.bytes_per_token, draft)
        self._turn_ends = make_stop_sequences(loaded.tokenizer)
        self._parser = AnswerParser(loaded.tokenizer)
        self._start()

    @property
    def tickets(self) -> list[int]:
        """The tickets of all rows: being scored, waiting, prefilling or decoding."""
        return [row.ticket for row in [*self._scored, *self._waiting, *self._rows.values()]]

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of all rows, padding included."""
        return self._lanes.kv_bytes

    def reset(self) -> None:
        """Drop every row, everything that a failed step may have left behind, and what steps took."""
        self._prefixes.clear()
        self._start()

    def _start(self) -> None:
        self._pace = Pace()
        self._rows: dict[int, _Row] = {}
        self._waiting: list[_Row] = []
        self._readings = Readings(self.window, is_keeping=self._prefixes.is_on)
        self._scored: list[_Row] = []
        self.broken: list[tuple[int, str]] = []
        self._scoring: Scoring | None = None
        self._lanes.close()

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
            token_mask=prepared.token_mask,
        )
        answer = self._parser.answer(job, is_thinking=prepared.is_thinking)
        came_s = time.monotonic() if came_s is None else came_s
        ids = np.array(prepared.ids, dtype=np.uint32)
        room = self.context_length - len(ids)
        max_tokens = min(job.max_tokens or room, room)
        row = _Row(ticket, job, prepared, ids, answer, draw, max_tokens, came_s)
        (self._scored if job.echo else self._waiting).append(row)

    def _begin(self) -> None:
        """Let rows in, first come first served; who gains by waiting for another's prompt does."""
        for row in self._waiting.copy():
            n_reading = len(self._readings.unread)
            is_full = len(self._rows) >= self._max_rows or n_reading >= MAX_READING
            if is_full or not self._has_room_for(row):
                return
            if row.held is None and self._readings.is_coming(row.ids, self._reach(row)):
                continue
            self._waiting.remove(row)
            if row.held is None:
                row.held = self._prefixes.find(row.ids)
                row.n_cached = row.held.n_tokens
            self._insert(row, row.held)
            row.held = None

    def _reach(self, row: _Row) -> int:
        """Return how much of a waiting row's prompt there is; looked up again only when more is kept."""
        if row.reach_at != self._prefixes.n_kept:
            row.reach, row.reach_at = self._prefixes.reach(row.ids[:-1]), self._prefixes.n_kept
        return row.reach

    def _has_room_for(self, row: _Row) -> bool:
        rows = [*self._rows.values(), row]
        n_bytes = sum(self._row_bytes(len(each.ids) + each.max_tokens) for each in rows)
        return n_bytes <= self._max_kv_bytes

    def _insert(self, row: _Row, held: Held) -> None:
        """Make a row of the batch, that begins with what is *held* of its prompt."""
        ends = self._turn_ends
        if row.job.ignore_eos and row.draw.token_mask is None:
            ends = _NO_END
        waiting = (each.ids for each in self._waiting)
        marks = self._readings.marks(row.ids, held, waiting, row.prepared.last_turn_at)
        places = [held.n_tokens, *marks, len(row.ids)]
        row.lane = lane = self._lanes.best_for(len(row.ids), self._rows.values())
        (uid,) = lane.insert_segments(
            [[row.prepared.ids[begin:end] for begin, end in pairwise(places)]],
            max_tokens=[row.max_tokens],
            caches=[held.cache or self._caches.make()],
            all_tokens=[row.prepared.ids[: held.n_tokens]],
            samplers=[lane.sampler],
            logits_processors=[row.draw.processors],
            stop_sequences=[lane.sampler.turnstile(row.draw, ends)],
        )
        self._rows[uid] = row
        self._readings.prompts[uid] = Prompt(row.ids, held.n_tokens, marks)

    def remove(self, ticket: int) -> None:
        """Drop the row of *ticket* and its cache, if there is one."""
        if self._scored and self._scored[0].ticket == ticket:
            self._scoring = None
        self._scored = [row for row in self._scored if row.ticket != ticket]
        self._waiting = [row for row in self._waiting if row.ticket != ticket]
        for uid, row in self._rows.items():
            if row.ticket == ticket:
                self._drop(uid)
                return

    def step(self) -> tuple[Delta, ...]:
        """Advance every row and return what it brought."""
        self.broken = []
        deltas = self._score()
        self._begin()
        if self._rows:
            deltas += self._advance()
        return tuple(delta for delta in deltas if _says_something(delta))

    def _advance(self) -> list[Delta]:
        """Decode a token for every row that has its prompt, and read a piece of the other prompts."""
        n_reading = len(self._readings.prompts)
        n_decoding = len(self._rows) - n_reading
        n_waiting = n_reading + len(self._waiting)
        step_tokens = self._pace.n_tokens(self._readings.unread, n_waiting, n_decoding)
        began_s = time.monotonic()
        progress, responses = self._lanes.step(step_tokens)
        n_read, n_begun = self._follow(progress, began_s)
        if not n_begun:  # the first token of a row takes a step of its own
            self._pace.learn(time.monotonic() - began_s, n_read, n_decoding)
        lasts = {each.uid: each for each in responses}
        return [self._read(each, lasts[each.uid]) for each in responses if each.uid in self._rows]

    def _follow(self, progress: Sequence[Any], began_s: float) -> tuple[int, int]:
        """
        Note how far the prompts have been read, from *began_s* on.

        Returns:
            How many tokens were read, and how many rows have begun to decode.
        """
        n_read = n_begun = 0
        for piece in progress:
            prompt, row = self._readings.prompts[piece.uid], self._rows[piece.uid]
            row.begun_s = row.begun_s or began_s
            if piece.end_of_prompt:
                del self._readings.prompts[piece.uid]
                n_begun += 1
                continue
            n_done, n_all = piece.progress
            n_before, prompt.n_read = prompt.n_read, len(prompt.ids) - n_all + n_done
            n_read += prompt.n_read - n_before
            if self._readings.is_wanted(prompt, (each.ids for each in self._waiting)):
                assert row.lane is not None
                cache, _ = row.lane.extract_cache([piece.uid])[piece.uid]
                self._prefixes.keep(prompt.ids[: prompt.n_read], cache)
        return n_read, n_begun

    def _score(self) -> list[Delta]:
        """Score a piece of the first prompt that waits for it; return its echo once it is whole."""
        if not self._scored:
            return []
        row = self._scored[0]
        row.begun_s = row.begun_s or time.monotonic()
        ids, n_top = row.prepared.ids, row.job.top_logprobs
        if n_top is not None:
            if self._scoring is None:
                self._scoring = Scoring(
                    self._loaded.model, self._caches.make(), ids, n_top, self._vocabulary.n_logits
                )
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
            row.held = Held(len(ids) - 1, scoring.cache, len(ids) - 1)
        self._waiting.append(row)
        return [Delta(row.ticket, row.prepared.text, 0, logprobs=logprobs)]

    def _echoed(self, ids: list[int], scored: Sequence[Scored]) -> tuple[TokenLogprob, ...]:
        first = self._vocabulary.token_logprob(ids[0], None, ())
        rest = [
            self._vocabulary.token_logprob(token, value, top)
            for token, (value, top) in zip(ids[1:], scored, strict=True)
        ]
        return (first, *rest)

    def _read(self, response: GenerationBatch.Response, last: GenerationBatch.Response) -> Delta:
        """Turn one row's new token into what it says; the row goes if its answer is over, with the *last*."""
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
        if reason is not None or answer.is_over:
            self._end(last)
        if row.draw.token_mask is not None and row.draw.token_mask.is_broken:
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
        return self._vocabulary.token_logprob(token, value, top[: row.job.top_logprobs])

    def _spent(self, row: _Row) -> Spent:
        now_s = time.monotonic()
        begun_s = row.begun_s or now_s
        first_s = row.first_s or now_s
        return Spent(row.n_cached, begun_s - row.came_s, first_s - begun_s, now_s - first_s)

    def _end(self, last: GenerationBatch.Response) -> None:
        """Let a row go, whose *last* token of this step may have ended it; keep it, as the chat may go on."""
        cache, tokens = self._drop(last.uid) or (last.prompt_cache, last.all_tokens)
        self._prefixes.keep(np.array(tokens, dtype=np.uint32), cache)

    def _drop(self, uid: int) -> tuple[Cache, list[int]] | None:
        """Forget a row; return its cache, not computed yet, and its tokens, if the batch still has it."""
        row = self._rows.pop(uid)
        assert row.lane is not None
        row.lane.sampler.forget(row.draw)
        self._readings.prompts.pop(uid, None)
        left: dict[int, tuple[Cache, list[int]]] = row.lane.remove([uid], return_prompt_caches=True)
        return left.get(uid)


def _says_something(delta: Delta) -> bool:
    return bool(
        delta.text or delta.reasoning or delta.tool_calls or delta.logprobs or delta.finish_reason
    )
