"""
Whether an engine gets on, by its heartbeats and by what it owes.

Progress is looked for where the work is. The text worker owes whoever was not accepted yet, and what it
says itself that it still has; the grammar worker what it says; the loop owes whoever was accepted, and
every cancel. For each the seconds are counted since it last got on, or last had nothing to do; and for
the engine as a whole the seconds since its last heartbeat. That others get their answers meanwhile is no
progress, nor is a client that comes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from service.protocol import Figures, Heartbeat

LONGEST_LOOK_S = (
    1.0  # between two looks; where more has passed, we ourselves were stopped meanwhile
)


class Stall(NamedTuple):
    """For how many seconds there was no progress, and of what kind, in words for an operator."""

    seconds: float
    what: str


class _Worker:
    """When one thread of the engine last got on, or had nothing to do."""

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self._n_done = 0

    def look(self, n_done: int, now_s: float, *, is_busy: bool) -> None:
        if n_done != self._n_done or not is_busy:
            self._n_done, self.since_s = n_done, now_s


class Watch:
    """
    Watches one life of an engine.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_s = self._heard_s = now_s = clock()
        self._beat: Heartbeat | None = None
        self._text = _Worker(now_s)
        self._grammar = _Worker(now_s)
        self._loop = _Worker(now_s)

    @property
    def memory_bytes(self) -> int:
        """The most memory that the engine has held; 0 before its first word."""
        return self._beat.memory_bytes if self._beat is not None else 0

    @property
    def figures(self) -> Figures | None:
        """What the engine has measured of itself; None: it does not serve yet."""
        return self._beat.figures if self._beat is not None else None

    def hear(self, beat: Heartbeat) -> None:
        """Take in a heartbeat."""
        self._beat, self._heard_s = beat, self._clock()

    def look(self, *, owes_texts: bool, owes_turns: bool, patience: float = 1.0) -> Stall:
        """
        Return the longest time without progress until now; to be called at least once in a second.

        Args:
            owes_texts: somebody waits for the text worker.
            owes_turns: somebody waits for the loop.
            patience: so many times as long a turn may take, as the first one does.
        """
        now_s = self._clock()
        self._forgive(now_s - self._looked_s - LONGEST_LOOK_S)
        self._looked_s = now_s
        if self._beat is None:  # its interpreter is starting
            return Stall(0.0, "it is being started")
        is_busy = self._beat.has_texts or (owes_texts and not self._beat.has_grammars)
        self._text.look(self._beat.n_texts, now_s, is_busy=is_busy)
        self._grammar.look(self._beat.n_grammars, now_s, is_busy=self._beat.has_grammars)
        self._loop.look(self._beat.n_turns, now_s, is_busy=owes_turns)
        return max(
            Stall(now_s - self._heard_s, "it said nothing"),
            Stall(now_s - self._text.since_s, "it made no prompt"),
            Stall(now_s - self._grammar.since_s, "it compiled no grammar"),
            Stall((now_s - self._loop.since_s) / patience, "it took no step"),
        )

    def _forgive(self, missed_s: float) -> None:
        """Count no time in which nobody could look: the engine may have been stopped with us."""
        if missed_s > 0:
            for worker in (self._text, self._grammar, self._loop):
                worker.since_s += missed_s
            self._heard_s += missed_s
