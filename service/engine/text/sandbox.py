"""
Chat templates in bounds: one may loop for ever, or ask for all the memory there is.

transformers renders them in Jinja's sandbox, which bounds what they can reach and nothing else. Here they
get so much time and so much text; beyond that they refuse the chat, as they may for any other reason.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jinja2 import Template
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

RENDER_S = 2.0  # taste: the longest chat that is let in takes a twentieth of it
MAX_CHARACTERS = (
    64 << 20
)  # of what an operation or the whole template makes; four of the largest bodies
MAX_BITS = 4096  # of a number; taste
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_WIDE = re.compile(r"%[^a-zA-Z%]*\d{5}|%[^a-zA-Z%]*\*")  # a width that is no width of a column


class _Watchman:
    """Ends what takes too long in a thread, by an exception there; one thread watches all others."""

    def __init__(self) -> None:
        self._due_s: dict[int, float] = {}
        self._changed = threading.Condition()
        self._is_awake = False

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """
        Let what is done inside take *seconds*.

        Raises:
            SecurityError: it took longer; raised by whatever it is at in Python.
        """
        this = threading.get_ident()
        with self._changed:
            if not self._is_awake:
                threading.Thread(target=self._watch, name="watchman", daemon=True).start()
                self._is_awake = True
            self._due_s[this] = time.monotonic() + seconds
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due_s.pop(this, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                now_s = time.monotonic()
                for thread in [each for each, due_s in self._due_s.items() if due_s <= now_s]:
                    del self._due_s[thread]
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(TookTooLong)
                    )
                soonest_s = min(self._due_s.values(), default=None)
                self._changed.wait(None if soonest_s is None else soonest_s - now_s)


class TookTooLong(SecurityError):
    """The template took too long."""

    def __init__(self) -> None:
        super().__init__("it takes too long")


watchman = _Watchman()


class _Template(Template):
    """A template that has its time."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        with watchman.limit(RENDER_S):
            return super().render(*args, **kwargs)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which nothing grows beyond MAX_CHARACTERS, and no template runs for ever."""

    template_class = _Template
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Without its optimizer, which would compute what is constant while it compiles.
        super().__init__(*args, **kwargs, optimized=False)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join what a template says, as far as it may go."""
        kept: list[str] = []
        left = MAX_CHARACTERS
        for part in parts:
            left -= len(part)
            if left < 0:
                raise _too_large()
            kept.append(part)
        return "".join(kept)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute *left* *operator* *right*, if what comes of it stays in bounds."""
        if _size(operator, left, right) > MAX_CHARACTERS:
            raise _too_large()
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Tell whether a template may have this; what pads a text to any length it need not have."""
        return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)


def install() -> None:
    """Have transformers render in bounds; to be called before any template is compiled."""
    chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment


def _size(operator: str, left: Any, right: Any) -> int:
    """Return how many characters or items come of an operation, as far as they could be many."""
    match operator, left, right:
        case "+", str() | list() | tuple(), str() | list() | tuple():
            return len(left) + len(right)
        case "*", str() | list() | tuple(), int():
            return len(left) * right
        case "*", int(), str() | list() | tuple():
            return left * len(right)
        case "*", int(), int() if left.bit_length() + right.bit_length() > MAX_BITS:
            return MAX_CHARACTERS + 1
        case "**", int(), int() if left.bit_length() * abs(right) > MAX_BITS:
            return MAX_CHARACTERS + 1
        case "%", str(), _ if _WIDE.search(left):
            return MAX_CHARACTERS + 1
    return 0


def _too_large() -> SecurityError:
    return SecurityError("it makes too much text")
