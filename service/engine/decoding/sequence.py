"""
One request that generates, from its prompt to its end.

    SCORING ──> WAITING ──> PREFILL ──> DECODING ──> FINISHED
                   ^           │           │
                   └───────────┴───────────┘  preempted: it is prefilled again, with what it has said

The scheduler moves a sequence from one status to the next; a batch only ever has sequences that decode.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field

import numpy as np

from service.engine.cache.prefix_cache import Cache, Ids
from service.engine.decoding.sampling import SequenceSampling
from service.engine.model.images import ReadImage
from service.engine.text.answer import Answer
from service.protocol import FinishReason, Job, Spent


class Status(enum.Enum):
    """Where a sequence stands."""

    SCORING = enum.auto()  # the log-probabilities of its prompt's own tokens are computed first
    WAITING = enum.auto()  # for a place, for memory, or for a prefix that another sequence prefills
    PREFILL = enum.auto()  # its prompt is read into its own cache
    DECODING = enum.auto()  # it is a row of a batch
    FINISHED = enum.auto()  # ended, failed or cancelled; nothing more comes of it


@dataclass(eq=False)
class Sequence:
    """
    One request that generates.

    Attributes:
        ticket: the request's number.
        job: what is asked for.
        prompt: its token ids, shape (n,).
        text: the prompt's text, as `echo` repeats it.
        answer: makes text of the tokens.
        sampling: how they are chosen.
        max_tokens: most tokens of the answer.
        ends: tokens that end it.
        last_turn_at: where in the prompt the chat's last turn begins; 0: it isn't known.
        came_s: when it came, on the monotonic clock.
        tokens: all that are known, prompt and answer; the end of the turn is among them.
        n_in_cache: so many of `tokens` are in its KV cache.
        cache: its own KV cache; None before it is prefilled, and while it is a row of a batch.
        stops: where its prefill stops for a copy of the cache: numbers of tokens, ascending.
        finish_reason: why its tokens ended; None: they go on.
        n_prefix: tokens whose keys and values came from the prefix cache.
        n_said: tokens of the answer that were turned into text, the end of the turn not counted.
        begun_s: when its prefill began; None: not yet.
        first_s: when its first token was there; None: not yet.
        alone_until: it goes on without others until it has so many tokens.
        n_times_tried: how often it had to.
        images: those of which the prompt has tokens, held while they may have to be read.
    """

    ticket: int
    job: Job
    prompt: Ids
    text: str
    answer: Answer
    sampling: SequenceSampling
    max_tokens: int
    ends: frozenset[int]
    last_turn_at: int
    came_s: float
    status: Status = Status.WAITING
    tokens: list[int] = field(default_factory=list)
    n_in_cache: int = 0
    cache: Cache | None = None
    stops: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    n_prefix: int = 0
    n_said: int = 0
    begun_s: float | None = None
    first_s: float | None = None
    alone_until: int = 0
    n_times_tried: int = 0
    images: tuple[ReadImage, ...] = ()

    def __post_init__(self) -> None:
        """Begin with the prompt's tokens."""
        if not self.tokens:
            self.tokens = self.prompt.tolist()

    @property
    def is_alone(self) -> bool:
        """Whether it goes on alone, since it was one of those that broke a step."""
        return len(self.tokens) < self.alone_until

    @property
    def n_left(self) -> int:
        """How many tokens are to be prefilled; the last one that is known is fed in decoding."""
        return len(self.tokens) - 1 - self.n_in_cache

    @property
    def cached_tokens(self) -> list[int]:
        """The tokens in its KV cache; not to be changed."""
        return (
            self.tokens if self.n_in_cache == len(self.tokens) else self.tokens[: self.n_in_cache]
        )

    @property
    def ids(self) -> Ids:
        """All known tokens as an array, shape (n,)."""
        if len(self.tokens) == len(self.prompt):
            return self.prompt
        return np.array(self.tokens, dtype=np.uint32)

    def take(self, fed: list[int]) -> list[int]:
        """
        Take in the tokens that were *fed* in a step; return the new ones, up to the one that ends it.

        A token that is known already is not among them: the prompt's last, or one that was read when drawn.
        """
        new: list[int] = []
        for token in fed:
            self.n_in_cache += 1
            self.sampling.count(token, self.n_in_cache - len(self.prompt))
            if self.n_in_cache > len(self.tokens):
                new.append(self._append(token))
            if self.finish_reason:
                break
        return new

    def read(self, drawn: int) -> list[int]:
        """Take in the token *drawn* last, which need not be fed yet; return it if it is new."""
        is_known = self.n_in_cache < len(self.tokens)
        return [] if is_known or self.finish_reason else [self._append(drawn)]

    def preempt(self) -> None:
        """Give its cache up, and wait again; what it has said is prefilled then, and it goes on."""
        self.sampling.forget_unknown(len(self.tokens) - len(self.prompt))
        self.cache = None
        self.n_in_cache = 0
        self.stops = ()
        self.status = Status.WAITING

    def _append(self, token: int) -> int:
        self.tokens.append(token)
        if token in self.ends:
            self.finish_reason = "stop"
        elif len(self.tokens) - len(self.prompt) >= self.max_tokens:
            self.finish_reason = "length"
        return token

    def spent(self) -> Spent:
        """Return what it took until now."""
        now_s = time.monotonic()
        begun_s = now_s if self.begun_s is None else self.begun_s
        first_s = now_s if self.first_s is None else self.first_s
        return Spent(self.n_prefix, begun_s - self.came_s, first_s - begun_s, now_s - first_s)
