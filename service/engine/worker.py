"""Threads that prepare what the model will be asked."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable

from service.engine.pulse import Tally

_log = logging.getLogger(__name__)


class Worker:
    """
    A thread that does what it is given, jobs before questions, and each kind in the order in which it came.

    A job has a permit and somebody who waits for an answer; a question only wants to know.

    Args:
        name: the thread's.
        tally: where tasks are counted.
    """

    def __init__(self, name: str, tally: Tally) -> None:
        self._tally = tally
        self._numbers = itertools.count()
        self._tasks: queue.PriorityQueue[tuple[bool, int, Callable[[], None]]] = (
            queue.PriorityQueue()
        )
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def put(self, task: Callable[[], None], *, is_question: bool = False) -> None:
        """Have *task* done soon; it sees for itself whether it is still wanted by then. For one thread."""
        self._tally.n_given += 1
        self._tasks.put((is_question, next(self._numbers), task))

    def _work(self) -> None:
        while True:
            *_, task = self._tasks.get()
            try:
                task()
            except Exception:  # a task tells of its own faults; this one could not
                _log.exception("a task of the %s broke", threading.current_thread().name)
            self._tally.n_done += 1
