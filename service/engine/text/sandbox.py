"""
Chat templates in bounds: one may loop for ever, or ask for all the memory there is.

transformers renders them in Jinja's sandbox, which bounds what they can reach and nothing else. Here they
get so much time and so much text; beyond that they refuse the chat, as they may for any other reason.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jinja2 import Template
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.nodes import Concat
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from service.engine.text import growth
from service.engine.text.growth import MAX_CHARACTERS, too_large

RENDER_S = 2.0  # taste: the longest chat that is let in takes a twentieth of it
MAX_MADE = (
    8 * MAX_CHARACTERS
)  # of all that one rendering makes; taste: some join their text anew each turn
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "translate"})


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
    """A template that has its time, and so much text that it may make on its way."""

    environment: BoundedEnvironment

    def render(self, *args: Any, **kwargs: Any) -> str:
        self.environment.begin()
        with watchman.limit(RENDER_S):
            return super().render(*args, **kwargs)


class _Code(CodeGenerator):
    """Jinja's code, but for `~`, which is no operator there that a sandbox could look at."""

    def visit_Concat(self, node: Concat, frame: Frame) -> None:  # noqa: N802 (the library's name)
        self.write("environment.joined((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class _Filters(dict[str, Callable[..., Any]]):
    """Filters as the environment has them; those that can make much are looked at before they do."""

    def __init__(
        self, known: dict[str, Callable[..., Any]], may_make: Callable[[int], None]
    ) -> None:
        super().__init__(known)
        self._may_make = may_make

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._bounded(name, super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return a filter by its *name*."""
        made = super().get(name, default)
        return self._bounded(name, made) if name in self else made

    def _bounded(self, name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        made_by = growth.FILTERS.get(name)
        if made_by is None:
            return make
        n_own = hasattr(
            make, "jinja_pass_arg"
        )  # the environment, which is no argument of the template's

        @functools.wraps(make)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            own, (value, *rest) = args[:n_own], args[n_own:]
            value = growth.materialized(value)
            self._may_make(made_by(value, *rest, *kwargs.values()))
            return make(*own, value, *rest, **kwargs)

        return bounded


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which nothing grows beyond MAX_CHARACTERS, and no template runs for ever."""

    template_class = _Template
    code_generator_class = _Code
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Without its optimizer, which would compute what is constant while it compiles.
        super().__init__(*args, **kwargs, optimized=False, finalize=self._as_text)
        self.filters = _Filters(self.filters, self._may_make)
        self._made = threading.local()

    def begin(self) -> None:
        """Count anew what a rendering in this thread makes."""
        self._made.n = 0

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join what a template says, as far as it may go."""
        kept: list[str] = []
        left = MAX_CHARACTERS
        for part in parts:
            left -= len(part)
            if left < 0:
                raise too_large()
            kept.append(part)
        return "".join(kept)

    def joined(self, parts: tuple[Any, ...]) -> str:
        """Return *parts* as one text."""
        self._may_make(growth.size(parts))
        return "".join(map(str, parts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute *left* *operator* *right*, if what comes of it stays in bounds."""
        self._may_make(growth.of_operator(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as there)
        """Call what a template calls, if what comes of it stays in bounds."""
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja wraps the formats of texts
        text, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(text, str):
            args = tuple(map(growth.materialized, args))
            if name in {"format", "format_map"}:
                __self._may_make(growth.of_format(text, (args, kwargs)))
            elif name in growth.METHODS:
                __self._may_make(growth.METHODS[name](text, *args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Tell whether a template may have this; what pads a text to any length it need not have."""
        return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)

    def _as_text(self, value: Any) -> Any:
        """Look at a *value* that becomes text where it stands."""
        self._may_make(growth.size(value))
        return value

    def _may_make(self, n: int) -> None:
        """Count *n* characters or items that are about to be made."""
        self._made.n = getattr(self._made, "n", 0) + n
        if n > MAX_CHARACTERS or self._made.n > MAX_MADE:
            raise too_large()


def install() -> None:
    """Have transformers render in bounds; to be called before any template is compiled."""
    chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment
