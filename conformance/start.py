"""
The start of a server, watched from the first moment on.

The watch is a poll of /health, in steps of 5 ms where the start itself is tested: connection
refused, then 503 while the model loads, 200 while it warms up, 200 when it is ready. A state that
lasts less than a step may go unseen, so no check may take "not seen" for "not there".
"""

import time
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from conformance.client import Exchange, NoAnswer, Server

READY_WITHIN_S = 60.0
STEP_S = 0.005
COARSE_STEP_S = 0.02
AFTER_START_S = 0.2
UNREADY = ("startup", "notready")


class Moment(NamedTuple):
    """What the server said at one step: its health, and another route while it wasn't ready."""

    health: Exchange
    other: Exchange | None = None


class Stretch(NamedTuple):
    """A state of the start and its time, in seconds from the watch's beginning."""

    state: str
    from_s: float
    to_s: float


def is_ready(health: Exchange) -> bool:
    """
    Whether the start is over: healthy, and warmed up where that is enabled.

    It takes the fields' word for it, as loosely as the guide's own clients, so that a server
    that gets a type or the status code wrong is told so by a check and not waited for.
    """
    fields = health.fields()
    is_warm = not fields.get("warmup_enabled") or fields.get("warmup_completed")
    return bool(fields.get("models_healthy") and is_warm)


def is_starting(health: Exchange) -> bool:
    """Whether it is worth waiting: the server itself says that it will be ready later."""
    fields = health.fields()
    is_warming = fields.get("warmup_enabled") and fields.get("warmup_completed") is False
    says_so = health.status == 503 or fields.get("model_status") == "uninitialized" or is_warming
    return bool(says_so) and not is_ready(health)


def state_of(health: Exchange) -> str:
    """Name the state that an answer of /health shows."""
    if not is_starting(health):
        return "ready"
    return (
        "warming up"
        if health.status == 200 and health.fields().get("models_healthy")
        else ("not ready")
    )


def look(server: Server) -> Moment:
    """Return the moment that a server is in now."""
    health = server.get("/health")
    if health.status != 503:
        return Moment(health)
    other = server.get("/v1/models")
    # Only between two 503s is it certain that the server wasn't ready meanwhile.
    return Moment(health, other if server.get("/health").status == 503 else None)


class Start:
    """
    What was seen of one start.

    Attributes:
        moments: one for each answer from the first one to shortly after readiness.
        saw_nothing_before: whether the watch began before the first answer.
    """

    def __init__(self, server: Server) -> None:
        self.moments: list[Moment] = []
        self.saw_nothing_before = False
        self._server = server
        self._began_s = self._ended_s = time.monotonic()

    def watch(
        self,
        within_s: float,
        is_over: Callable[[], bool] = lambda: False,
        step_s: float = COARSE_STEP_S,
    ) -> None:
        """Poll until the server is ready and a little longer, *is_over*, or the time is up."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not is_over():
            try:
                self.moments.append(look(self._server))
            except NoAnswer:
                self.saw_nothing_before |= not self.moments
            else:
                if not is_starting(self.moments[-1].health):
                    deadline = min(deadline, time.monotonic() + AFTER_START_S)
            time.sleep(step_s)
        self._ended_s = time.monotonic()

    def stretches(self) -> Iterator[Stretch]:
        """Yield the states in their order; "refused" is what came before the first answer."""
        seen = [("refused", self._began_s)] if self.saw_nothing_before else []
        seen += [(state_of(moment.health), moment.health.at_s) for moment in self.moments]
        first_of_each = [next(group) for _, group in groupby(seen, key=itemgetter(0))]
        ends = [*(at_s for _, at_s in first_of_each[1:]), self._ended_s]
        for (state, from_s), to_s in zip(first_of_each, ends, strict=True):
            yield Stretch(state, from_s - self._began_s, to_s - self._began_s)
