"""
What each step does, for all requests that generate.

One `step` lets waiting sequences in, as far as there are places and memory; prefills a piece; decodes a
token, or a checked guess, for every row of every lane; and returns all that it brought. Decoding comes last,
so that a first token is told as soon as it is drawn, and not after the prefill of whoever is next.

Memory is given for what a sequence holds now and a little more. Where all of them together outgrow it, the
one that came last is preempted: it waits, and is prefilled again with what it had said.
"""

from __future__ import annotations

import copy
import enum
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable

import mlx.core as mx
import numpy as np

from service.engine.cache.kv import Caches, arrays, extract, n_bytes, trimmable_below
from service.engine.cache.memory_plan import MAX_STEP_TOKENS
from service.engine.cache.prefix_cache import Cache, Ids, PrefixCache, PrefixHit
from service.engine.decoding.batch import Advance
from service.engine.decoding.counts import Counts
from service.engine.decoding.draft_model import DraftModel
from service.engine.decoding.sampling import SequenceSampling
from service.engine.decoding.scoring import NotFiniteError
from service.engine.decoding.sequence import Sequence, Status
from service.engine.model.images import plain
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.scheduler.budget import GROUP_TOKENS, PrefillBudget
from service.engine.scheduler.echoes import Echoes
from service.engine.scheduler.lanes import Lane, Lanes
from service.engine.scheduler.output import StepOutput, Teller
from service.engine.scheduler.prefill import MAX_UNLIKE, Prefills
from service.engine.text.answer import AnswerParser
from service.engine.text.prompt import Prepared
from service.protocol import Job

_log = logging.getLogger(__name__)

MAX_PREFILLS = (
    8  # sequences with a cache that don't decode yet: more would only hold memory (taste)
)
HEADROOM_TOKENS = (
    256  # for which there must be room when a sequence is let in: mlx-lm's caches grow so
)
N_ALONE = 2  # tokens: the one that broke, and the next
MAX_TIMES_TRIED = 2  # taste: what breaks only together with others can't go on for ever
HOLDING = (Status.PREFILL, Status.DECODING)  # when a sequence has a KV cache that counts


class Batching(enum.Enum):
    """
    What a model can be given at once: mlx-lm's models differ, and some answer wrongly beside others.

    A state that each token moves on may be moved by padding as well, and some caches are of one row alone.
    """

    PADDED = "its prompts of unlike lengths are read together, the shorter ones padded"
    EVEN = "its prompts are read together only where they are equally long: padding changes its answers"
    ALONE = "it answers one request at a time: others beside it would change the answer"


class Scheduler:
    """
    The requests that generate now. Belongs to the MLX thread.

    Args:
        loaded: the model and its tokenizer.
        vocabulary: its tokens.
        max_rows: most rows at once.
        caches: makes each row's; by default the model's own.
        prefixes: what was prefilled before; by default nothing is kept.
        sequence_bytes: what the caches of a sequence of so many tokens take; by default its own alone.
        kv_budget_bytes: what the caches of all sequences may take together.
        max_step_tokens: most tokens to prefill in one step.
        max_tokens_ahead: most tokens to guess for a row in one step; 0: nothing is guessed.
        draft: guesses what can't be looked up; None: nobody does.

    Attributes:
        window: caches of as many tokens or more can't be shortened; may be infinite.
        context_length: longest prompt and answer together, in tokens.
        sequences: all that are not finished, by ticket, in the order in which they came.
        batching: what is given to the model at once; set while nothing generates.
        n_steps: how many steps were begun.
        counts: what else is counted.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        vocabulary: Vocabulary,
        max_rows: int,
        *,
        caches: Caches | None = None,
        prefixes: PrefixCache | None = None,
        sequence_bytes: Callable[[int], int] | None = None,
        kv_budget_bytes: float = math.inf,
        max_step_tokens: int = MAX_STEP_TOKENS,
        max_tokens_ahead: int = 0,
        draft: DraftModel | None = None,
    ) -> None:
        self._loaded = loaded
        self._vocabulary = vocabulary
        self._most_rows = max_rows
        self.batching = Batching.PADDED
        self._caches = caches or Caches(loaded.model, None, None)
        self._prefixes = PrefixCache(max_bytes=0) if prefixes is None else prefixes
        self._sequence_bytes = sequence_bytes or self._caches.n_bytes
        self._kv_budget_bytes = kv_budget_bytes
        self._max_step_tokens = max_step_tokens
        self.context_length = loaded.card.context_length
        self.window = trimmable_below(self._caches.make())
        self.counts = Counts()
        self._lanes = Lanes(
            loaded.model,
            self._caches.bytes_per_token,
            kv_budget_bytes,
            max_tokens_ahead if self.window > 0 else 0,
            draft,
            self.counts,
        )
        self._ends = frozenset(loaded.tokenizer.eos_token_ids)
        self._answers = AnswerParser(loaded.tokenizer)
        self._teller = Teller(vocabulary)
        self.n_steps = 0
        self._start()

    @property
    def tickets(self) -> list[int]:
        """The tickets of all sequences that are not finished."""
        return list(self.sequences)

    @property
    def max_rows(self) -> int:
        """Most rows at once."""
        return 1 if self.batching is Batching.ALONE else self._most_rows

    @property
    def n_rows(self) -> int:
        """How many sequences have a KV cache now: they prefill or decode."""
        return len(self._prefills.sequences) + len(self._lanes.sequences)

    @property
    def n_lanes(self) -> int:
        """How many batches are stepped beside each other now."""
        return sum(bool(lane.batch.sequences) for lane in self._lanes)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of all sequences, padding included."""
        own = sum(n_bytes(each.cache or []) for each in self._prefills.sequences)
        return own + self._lanes.n_bytes

    def reset(self) -> None:
        """Drop every sequence, everything that a failed step may have left behind, and what steps took."""
        self._prefixes.clear()
        self._start()

    def _start(self) -> None:
        self.sequences: dict[int, Sequence] = {}
        self._waiting: list[Sequence] = []
        self._echoes = Echoes(
            self._loaded.model, self._caches, self._vocabulary.n_logits, self._teller
        )
        self._prefills = Prefills(self._loaded.model, self.window, is_keeping=self._prefixes.is_on)
        self._budget = PrefillBudget(self._max_step_tokens)
        self._n_begun = 0  # tokens of prompts that this step began to prefill beside its rows
        self._read_s = 0.0
        self._lanes.clear()

    def add(self, ticket: int, prepared: Prepared, job: Job, came_s: float | None = None) -> None:
        """
        Take *job* in.

        Args:
            ticket: its number.
            prepared: its prompt.
            job: what is asked for.
            came_s: when it came, on the monotonic clock; by default now.
        """
        if prepared.images:
            self._loaded.model.hold(prepared.images)
        sampling = SequenceSampling(
            job.sampling,
            self._loaded.sampling,
            plain(prepared.ids, self._loaded.images),
            self._vocabulary.n_logits,
            top_logprobs=job.top_logprobs,
            token_mask=prepared.token_mask,
        )
        room = self.context_length - len(prepared.ids)
        may_go_on = job.ignore_eos and prepared.token_mask is None
        sequence = Sequence(
            ticket,
            job,
            np.array(prepared.ids, dtype=np.uint32),
            prepared.text,
            self._answers.answer(job, is_thinking=prepared.is_thinking),
            sampling,
            max_tokens=min(job.max_tokens or room, room),
            ends=frozenset() if may_go_on else self._ends,
            last_turn_at=prepared.last_turn_at,
            came_s=time.monotonic() if came_s is None else came_s,
            status=Status.SCORING if job.echo else Status.WAITING,
            images=prepared.images,
        )
        self.sequences[ticket] = sequence
        (self._echoes.sequences if job.echo else self._waiting).append(sequence)

    def cancel(self, tickets: Collection[int]) -> None:
        """Drop the sequences of all *tickets* that there are, and their caches, in one pass."""
        leaving = [self.sequences[each] for each in tickets if each in self.sequences]
        self._finish(leaving)

    def step(self) -> StepOutput:
        """Advance every sequence; return all that it brought."""
        self.n_steps += 1
        output = StepOutput()
        self._echo(output)
        self._admit()
        self._prefill(output)
        self._decode(output)
        self._preempt()
        return output

    def _echo(self, output: StepOutput) -> None:
        """Let the first sequence that is to say its prompt do so; then it goes on, or has ended."""
        if any(each.cache for each in self._waiting):  # one cache at a time that nobody counts
            return
        try:
            said = self._echoes.step(output)
        except Exception as error:
            first = self._echoes.sequences[:1]
            if isinstance(error, NotFiniteError):
                self._give_up(first[0], output)
                self._finish(first)
            else:
                self._lose(first, error, output)
            return
        if said is None:
            return
        if said.job.max_tokens == 0:
            self._finish([said])
        else:
            self._waiting.append(said)

    def _decode(self, output: StepOutput) -> None:
        """Advance every row, and let those go that have ended."""
        n_decoding = len(self._lanes.sequences)
        if not n_decoding:
            self._read_s, self._n_begun = 0.0, 0
            return
        finished: list[Sequence] = []
        try:
            for lane, advances in self._lanes.steps(is_disturbed=self._n_begun > 0):
                self._tell(advances, output, finished)
                if self._is_urgent(lane):
                    self._tell(lane.batch.read(), output, finished)
                self._keep_ended(lane, finished)
        except Exception as error:
            self._read_s, self._n_begun = 0.0, 0
            self._finish(finished)
            self._lose(self._lanes.sequences, error, output)
            return
        self._finish(finished)
        now_s = time.monotonic()
        if self._read_s:
            self._budget.learn(now_s - self._read_s, self._n_begun, n_decoding)
        self._read_s = now_s
        self._n_begun = 0

    def _is_urgent(self, lane: Lane) -> bool:
        """Whether what was drawn can't wait for the next step: a first token, or prefill is next."""
        is_first = any(not each.n_said for each in lane.batch.sequences)
        return is_first or bool(self._prefills.sequences)

    def _tell(
        self, advances: Iterable[Advance], output: StepOutput, finished: list[Sequence]
    ) -> None:
        """Put what sequences say into *output*; add to *finished* those that ended or broke."""
        for one in advances:
            if one.sequence in finished:
                continue
            if not one.is_finite:
                self._give_up(one.sequence, output)
                finished.append(one.sequence)
                continue
            try:
                is_over = self._teller.tell(one, output)
            except Exception:
                _log.exception("the answer of ticket %d could not be read", one.sequence.ticket)
                output.failures.append(one.sequence.ticket)
                is_over = True
            if is_over:
                finished.append(one.sequence)

    def _give_up(self, sequence: Sequence, output: StepOutput) -> None:
        """Say of a sequence that there are no numbers; what is kept of keys and values may be none either."""
        _log.error("the model computed no numbers for ticket %d", sequence.ticket)
        output.not_finite.append(sequence.ticket)
        sequence.finish_reason = None
        self._prefixes.clear()

    def _admit(self) -> None:
        """Let sequences in, first come first served; one whose prefix is being prefilled waits for that."""
        for each in self._waiting.copy():
            is_full = self.n_rows >= self.max_rows or len(self._prefills.sequences) >= MAX_PREFILLS
            if is_full or not self._has_room_for(each):
                return
            if self.n_rows and (each.is_alone or self._is_one_alone()):
                return
            if each.cache is None and self._will_match_more(each.ids):
                continue
            self._waiting.remove(each)
            self._begin(each)

    def _is_one_alone(self) -> bool:
        """Whether a sequence that has a cache goes on alone, since it may be what broke a step."""
        return any(each.is_alone for each in self._prefills.sequences + self._lanes.sequences)

    def _will_match_more(self, ids: Ids) -> bool:
        """Whether more of *ids* will be in the prefix cache soon."""
        prefills = self._prefills
        return prefills.is_coming(ids, 0) and prefills.is_coming(
            ids, self._prefixes.match_length(ids[:-1])
        )

    def _begin(self, each: Sequence) -> None:
        """Give a sequence a cache, with as much of its prompt in it as there is."""
        if each.cache is None:
            hit = self._prefixes.find(each.ids)
            if each.begun_s is None:
                each.n_prefix = hit.n_tokens
                if self._prefixes.is_on:
                    self.counts.n_queried_tokens += len(each.ids)
                    self.counts.n_hit_tokens += hit.n_tokens
            each.cache, each.n_in_cache = hit.cache or self._caches.make(), hit.n_tokens
        else:  # its prompt has been scored
            hit = PrefixHit(each.n_in_cache, each.cache, each.n_in_cache)
        waiting = (other.ids for other in self._waiting)
        each.stops = self._prefills.stops(each.ids, hit, waiting, each.last_turn_at)
        each.status = Status.PREFILL
        self._prefills.sequences.append(each)

    def _prefill(self, output: StepOutput) -> None:
        """Begin to prefill a piece; those of whom all is prefilled join a lane."""
        prefills = self._prefills
        if not prefills.sequences:
            return
        n_decoding = len(self._lanes.sequences)
        n_tokens = self._budget.n_tokens(len(prefills.sequences) + len(self._waiting), n_decoding)
        max_padding = MAX_UNLIKE if self.batching is Batching.PADDED else 0
        group = prefills.ready_group() or prefills.next_group(n_tokens, GROUP_TOKENS, max_padding)
        began_s = time.monotonic()
        try:
            cache, n_fed = prefills.feed(group, n_tokens)
            self._keep_prefixes(group, cache)
            if n_decoding:
                mx.async_eval(arrays(cache))  # type: ignore[no-untyped-call]  # mlx's stubs
            else:
                mx.eval(arrays(cache))
        except Exception as error:
            self._lose(group, error, output)
            return
        for each in group:
            each.begun_s = each.begun_s or began_s
        if n_decoding:
            self._n_begun = n_fed
        else:
            self._budget.learn(time.monotonic() - began_s, n_fed, 0)
            self._read_s = 0.0  # since then nobody has decoded
        if not group[0].n_left:
            self._join(group, cache, output)

    def _join(self, group: list[Sequence], cache: Cache, output: StepOutput) -> None:
        """Put a prefilled *group* into a lane, to decode from this step on."""
        prefills = self._prefills
        prefills.sequences = [each for each in prefills.sequences if each not in group]
        beside = self._lanes.sequences
        try:
            self._lanes.join(group, cache)
        except Exception as error:  # the lane may be half written
            self._lose([*beside, *group], error, output)

    def _keep_prefixes(self, group: list[Sequence], cache: Cache) -> None:
        """Keep copies of what was prefilled, where they are worth it."""
        for place, each in enumerate(group):
            waiting = (other.ids for other in self._waiting)
            if self._prefills.is_wanted(each, waiting):
                own = copy.deepcopy(cache) if len(group) == 1 else extract(cache, place)
                self._prefixes.keep(each.ids[: each.n_in_cache], own)

    def _keep_ended(self, lane: Lane, finished: Collection[Sequence]) -> None:
        """Keep the caches of sequences in *lane* that have ended, as the chat may go on."""
        if not self._prefixes.is_on:
            return
        for each in lane.batch.sequences:
            if each in finished and each.finish_reason is not None:
                tokens = np.array(each.cached_tokens, dtype=np.uint32)
                self._prefixes.keep(tokens, lane.batch.last_cache(each))

    def _finish(self, leaving: Collection[Sequence]) -> None:
        """Forget all *leaving* sequences, wherever they stand."""
        if not leaving:
            return
        for each in leaving:
            each.status, each.cache = Status.FINISHED, None
            self.sequences.pop(each.ticket, None)
        self._echoes.leave(leaving)
        self._waiting = [each for each in self._waiting if each not in leaving]
        self._prefills.sequences = [
            each for each in self._prefills.sequences if each not in leaving
        ]
        self._lanes.leave(leaving)

    def _lose(self, sequences: Collection[Sequence], error: Exception, output: StepOutput) -> None:
        """
        Let *sequences* go, which broke in a step; where memory ran out, the longest alone.

        Nobody knows whose fault another error was: each of several goes on alone for a while, and whose
        fault it was breaks again. Their caches may be half written: what goes on is prefilled again.
        """
        if not sequences:
            return
        _log.exception("a step failed for tickets %s", [each.ticket for each in sequences])
        lost = set(sequences)
        if _is_memory(error):
            longest = max(sequences, key=lambda each: len(each.tokens))
            # A mask may have taken a token that was not said; it can't be taken back.
            lost = {each for each in sequences if each is longest or each.sampling.token_mask}
        elif len(sequences) > 1:
            lost = {each for each in sequences if not self._is_tried_alone(each)}
            output.retried += [each.ticket for each in sequences if each not in lost]
        output.failures += [each.ticket for each in lost]
        if any(each.status is Status.DECODING for each in sequences):
            self._lanes.clear()
        self._finish(lost)
        self._wait_again([each for each in sequences if each not in lost])

    def _is_tried_alone(self, each: Sequence) -> bool:
        """Make *each*, one of several that broke, go on alone for some tokens, if that can be."""
        each.n_times_tried += 1
        each.alone_until = len(each.tokens) + N_ALONE
        return not each.sampling.token_mask and each.n_times_tried <= MAX_TIMES_TRIED

    def _preempt(self) -> None:
        """Where the caches outgrow their memory, let the sequence that came last wait again."""
        while self.held_bytes() > self._kv_budget_bytes:
            holding = [each for each in self.sequences.values() if each.status in HOLDING]
            if len(holding) < 2:
                return
            _log.info("ticket %d waits: the KV cache is full", holding[-1].ticket)
            self.counts.n_preemptions += 1
            self._lanes.leave(holding[-1:])
            self._wait_again(holding[-1:])

    def _wait_again(self, sequences: list[Sequence]) -> None:
        """Take the caches of *sequences* away, and let them wait before all others."""
        for each in sequences:
            each.preempt()
        self._prefills.sequences = [
            each for each in self._prefills.sequences if each not in sequences
        ]
        self._waiting[:0] = sequences

    def _has_room_for(self, sequence: Sequence) -> bool:
        """Whether there is memory for what *sequence* holds at first; alone it always fits."""
        n_tokens = len(sequence.tokens) + min(sequence.max_tokens, HEADROOM_TOKENS)
        return not self.n_rows or self.held_bytes(n_tokens) <= self._kv_budget_bytes

    def held_bytes(self, *joining: int) -> int:
        """Return what the caches of all sequences take, and one of so many tokens that is *joining*."""
        lengths = [len(each.tokens) for each in self._prefills.sequences]
        lengths += self._lanes.lengths(joining)
        return sum(map(self._sequence_bytes, lengths))


def _is_memory(error: Exception) -> bool:
    """Whether *error* says that memory ran out; MLX has no class of its own for that."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "memory" in text or "alloc" in text
