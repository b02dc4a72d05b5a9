"""
The engine's own word on whether it gets on, said from a thread that does nothing else.

Each thread that works counts what it is done with; the heart tells the counts, a few times a second. So
an engine that answers some and hangs on others is seen for what it is, and one that was stopped says
nothing at all.

A thread that never lets go of the interpreter stops the heart as well. Then the process ends itself, by a
timer that needs no interpreter, and leaves a traceback; whether anybody is there to kill it doesn't
matter.
"""

from __future__ import annotations

import faulthandler
import resource
import sys
import threading
import time
from collections.abc import Callable

from service.engine.channel import Channel
from service.protocol import Figures, Heartbeat

BEAT_S = 0.25  # taste: a stall is to be told within a second of its time
PATIENCE = 2.0  # the supervisor kills after the stall's time; this is for an engine without one


class Tally:
    """
    The tasks of a worker.

    Attributes:
        n_given: those that came; counted by the one thread that gives them.
        n_done: those that it is done with; counted by itself.
    """

    def __init__(self) -> None:
        self.n_given = 0
        self.n_done = 0

    @property
    def is_busy(self) -> bool:
        """Whether it works on one, or more wait."""
        return self.n_done < self.n_given


class Pulse:
    """
    What the threads of an engine have done.

    Attributes:
        n_turns: turns of the loop; counted by the MLX thread.
        n_steps: tells how many steps the scheduler has begun, those of warm-up included.
        texts: what the text worker does.
        grammars: what the grammar worker does.
        figures: what the MLX thread measured last; None: it does not serve yet.
    """

    def __init__(self) -> None:
        self.n_turns = 0
        self.figures: Figures | None = None
        self.n_steps: Callable[[], int] = lambda: 0
        self.texts = Tally()
        self.grammars = Tally()

    def heartbeat(self) -> Heartbeat:
        """Return what there is to say now."""
        return Heartbeat(
            self.n_turns + self.n_steps(),
            self.texts.n_done,
            self.texts.is_busy,
            self.grammars.n_done,
            self.grammars.is_busy,
            most_memory_bytes(),
            self.figures,
        )


def start(channel: Channel, pulse: Pulse, stall_s: float) -> None:
    """
    Begin to tell *pulse* for as long as the process lives.

    Args:
        channel: to the API process.
        pulse: what is told.
        stall_s: seconds without progress that are too many.
    """

    def beat() -> None:
        while True:
            faulthandler.dump_traceback_later(stall_s * PATIENCE, exit=True)
            channel.send(pulse.heartbeat())
            time.sleep(BEAT_S)

    threading.Thread(target=beat, name="heart", daemon=True).start()


def most_memory_bytes() -> int:
    """Return the most memory that this process has held until now."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of each
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
