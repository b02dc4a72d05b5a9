"""How late this machine lets a thread go on: a loaded one makes every server look slow."""

import threading
import time
from types import TracebackType
from typing import Self

STEP_S = 0.01


class Lag:
    """
    Watches, while its `with` block lasts, how much too long a thread sleeps.

    Attributes:
        worst_s: by how many seconds at most.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        before_s = time.monotonic()
        while not self._over.wait(STEP_S):
            now_s = time.monotonic()
            self.worst_s = max(self.worst_s, now_s - before_s - STEP_S)
            before_s = now_s
