"""
The states of a model, in one table.

    STARTING ──> LOADING ──> WARMING ──> READY
       ^ │          │           │          │
       │ v          v           v          v
       FAILED <────────────────────────────┘       any ──> DRAINING ──> STOPPED

    UNLOADED ──> STARTING           any but the two last ──> UNLOADED

UNLOADED   no engine process, as it should be: the model is loaded when a request asks for it (503)
STARTING   the engine process is being started (503)
LOADING    it runs and reads the weights (503)
WARMING    the weights are in memory and requests are taken; warm-up is not over (200)
READY      warm-up is over, done or failed or not asked for (200)
DRAINING   the server is ending; what runs may finish (503)
STOPPED    the engine process is gone, as asked (503)
FAILED     it died or could not load; STARTING again after a pause, but not after three quick deaths (503)

Everything that changes a state lives here and in `supervisor`, which calls it. Whether there is an engine
is asked here and nowhere else: the state leaves WARMING and READY in the turn in which the link ends.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Iterator

from service.errors import ModelNotReady, ServiceError, ShuttingDown
from service.protocol import Budget, Downloading, ModelCard

_log = logging.getLogger(__name__)

RETRY_AFTER_S = 2
TRY_AGAIN_S = (
    60.0  # taste: a model that failed may have been mended, and each try reads its weights
)


class State(enum.Enum):
    """Where a model stands; the value is its name on the wire."""

    UNLOADED = "unloaded"
    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


_ENDING = {State.DRAINING, State.STOPPED}
_AWAY = {State.UNLOADED, *_ENDING}
TRANSITIONS: dict[State, set[State]] = {
    State.UNLOADED: {State.STARTING, *_ENDING},
    State.STARTING: {State.LOADING, State.FAILED, *_AWAY},
    State.LOADING: {State.WARMING, State.FAILED, *_AWAY},
    State.WARMING: {State.READY, State.FAILED, *_AWAY},
    State.READY: {State.FAILED, *_AWAY},
    State.FAILED: {State.STARTING, *_AWAY},
    State.DRAINING: {State.STOPPED},
    State.STOPPED: set(),
}
_HEALTHY = {State.WARMING, State.READY}


class Lifecycle:
    """
    One model's state and what is known of it there.

    Attributes:
        state: where it stands.
        reason: why it is not ready, for `/readyz`; None if it is.
        card: what the model says of itself; None until its weights have been loaded once.
        budget: the memory that it has; None like the card.
        warmup_enabled: a warm-up was asked for.
        warmup_completed: a real pass has run, in this engine process.
        notes: what an operator should know of a model that answers all the same.
        doubt: what makes the engine doubtful, though it has not been given up; None: nothing.
        is_given_up: it has failed, and no other try will be made but for one who asks.
    """

    def __init__(self, *, warmup_enabled: bool, is_on_demand: bool = False) -> None:
        self.state = State.UNLOADED if is_on_demand else State.STARTING
        self.reason: str | None = (
            "no request has asked for it yet"
            if is_on_demand
            else "the engine process is being started"
        )
        self.card: ModelCard | None = None
        self.budget: Budget | None = None
        self.warmup_enabled = warmup_enabled
        self.warmup_completed = False
        self.notes: tuple[str, ...] = ()
        self.doubt: str | None = None
        self.is_given_up = False
        self._given_up_s = 0.0
        self._moved = asyncio.Event()  # another one for each state

    @property
    def healthy_card(self) -> ModelCard | None:
        """The card if requests are taken now, else None."""
        return self.card if self.state in _HEALTHY else None

    @property
    def is_ready(self) -> bool:
        """Whether it can answer beyond doubt, and the warm-up, if asked for, has run."""
        return self.state is State.READY and self.reason is None and self.doubt is None

    @property
    def may_try_again(self) -> bool:
        """Whether it was given up, and long enough ago that a request may try to load it again."""
        return self.is_given_up and time.monotonic() - self._given_up_s >= TRY_AGAIN_S

    def forgive(self) -> None:
        """Let the next who asks try again, however short ago it was given up."""
        self._given_up_s = -TRY_AGAIN_S

    async def healthy(self) -> None:
        """
        Wait until requests are taken.

        Raises:
            ServiceError: they won't be, until somebody does something about it.
        """
        while self.healthy_card is None:
            if self.state in {State.FAILED, *_ENDING}:
                raise self.refusal()
            await self._moved.wait()

    def starting(self) -> None:
        """Note that an engine process is being started, as the model is asked for."""
        self.is_given_up = False
        self._move(State.STARTING, "the engine process is being started")

    def unloaded(self, reason: str) -> None:
        """Note that there is no engine process any more, as it should be, and why."""
        self.warmup_completed = self.is_given_up = False
        self._move(State.UNLOADED, reason)

    def loading(self) -> None:
        """Note that the engine process runs and was told what to load."""
        self._move(State.LOADING, "the model is being loaded")

    def downloading(self, message: Downloading) -> None:
        """Note how far the download of a model is, or that it is there now."""
        assert self.state is State.LOADING, self.state
        if message.is_over:
            self.reason = "the model is being loaded"
        else:
            self.reason = ", ".join(("the model is being downloaded", *_progress(message)))

    def doubted(self, doubt: str | None) -> None:
        """Note what makes the engine doubtful; None: nothing does, or not any more."""
        if doubt is not None and self.doubt is None:
            _log.warning("Not ready: %s", doubt)
        self.doubt = doubt

    def warming(self, card: ModelCard, budget: Budget) -> None:
        """Note that the weights are in memory, and which memory there is beside them."""
        self.card, self.budget, self.notes = card, budget, card.notes
        _log.info("Model %s is loaded: %s", card.id, card.description)
        self._move(State.WARMING, "warm-up is running")

    def warmed(self, error: str | None, notes: tuple[str, ...] = ()) -> None:
        """Note that warm-up is over; *error* says why the model can't answer, if it can't."""
        self.warmup_completed = self.warmup_enabled and error is None
        self.notes += notes
        if error is not None:
            _log.error("Warm-up failed: %s", error)
        for note in self.notes:
            _log.warning("Of the model it is to be known that %s.", note)
        _log.info("Ready%s: %s.", ", warmed up" if self.warmup_completed else "", self.budget)
        self._move(State.READY, None if error is None else f"warm-up failed: {error}")

    def failed(self, reason: str) -> None:
        """Note that there is no engine any more, and why, as far as that is known yet."""
        self.warmup_completed = False
        self._move(State.FAILED, reason)

    def explained(self, reason: str) -> None:
        """Note what the engine died of, which is known only when its process has been reaped."""
        assert self.state is State.FAILED, self.state
        self.reason = reason

    def given_up(self) -> None:
        """Note that no other try will be made."""
        assert self.state is State.FAILED, self.state
        self.is_given_up = True
        self._given_up_s = time.monotonic()

    def starting_again(self) -> None:
        """Note that a new engine process is being started."""
        self._move(
            State.STARTING, f"the engine process is being started again; before: {self.reason}"
        )

    def draining(self) -> None:
        """Note that the server is ending."""
        if self.state not in _ENDING:
            self._move(State.DRAINING, "the server is ending")

    def stopped(self) -> None:
        """Note that the engine process is gone, as asked. Idempotent."""
        if self.state is not State.STOPPED:
            self._move(State.STOPPED, "the server has ended")

    def refusal(self) -> ServiceError:
        """Return the error for a request that came while the model takes none."""
        if self.state in _ENDING:
            return ShuttingDown("The server is shutting down.", retry_after_s=RETRY_AFTER_S)
        return ModelNotReady(
            f"The model is not ready ({self.state.value}); /readyz says why.",
            retry_after_s=RETRY_AFTER_S,
        )

    def _move(self, to: State, reason: str | None) -> None:
        assert to in TRANSITIONS[self.state], f"{self.state} -> {to}"
        _log.debug("model %s -> %s", self.state.value, to.value)
        self.state, self.reason, self.doubt = to, reason, None
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def _progress(message: Downloading) -> Iterator[str]:
    """Yield what there is to say of a download: how much is here, how fast more comes, how long it takes."""
    if message.total_bytes:
        done, total = message.done_bytes, message.total_bytes
        yield f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB ({done / total:.0%})"
        if message.rate:
            yield f"{message.rate / 1e6:,.1f} MB/s"
            yield f"{(total - done) / message.rate:,.0f} s left"
