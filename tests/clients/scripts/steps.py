"""What the Python scripts share: how a step is tried and told. Nothing but the standard library."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import json
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import TypeVar

E = TypeVar("E", bound=Exception)

SERVER = sys.argv[1]
API = f"{SERVER}/v1"
MODEL = "local-mlx/gemma-3-demo"
QUESTION = "What does /health mean?"
KEY = "whatever"


def is_local(host: object) -> bool:
    """Tell whether *host* is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def stay_here(event: str, arguments: tuple[object, ...]) -> None:
    """Keep this process from every address but those of this machine: clients like to phone home."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not is_local(host):
        raise PermissionError(f"Nothing but the server is to be asked, and not {host}.")


sys.addaudithook(stay_here)


class Steps:
    """
    A decorator that runs a function at once and prints what came of it as one line of JSON.

    What the function returns is what was seen; what it raises is what went wrong.
    """

    def __init__(self, package: str) -> None:
        self._of = {"client": package, "version": metadata.version(package)}

    def __call__(self, step: Callable[[], object]) -> Callable[[], object]:
        """Try *step*, which may be a coroutine function; its name, in words, is the step's."""
        try:
            seen = asyncio.run(step()) if inspect.iscoroutinefunction(step) else step()
        except Exception as error:
            self._tell(step, False, _told(error))
        else:
            self._tell(step, True, str(seen))
        return step

    def _tell(self, step: Callable[[], object], ok: bool, seen: str) -> None:
        name = step.__name__.replace("_", " ")
        line = json.dumps(self._of | {"step": name, "ok": ok, "seen": " ".join(seen.split())[:200]})
        print("\n" + line, flush=True)


def refusal(kind: type[E], attempt: Callable[[], object]) -> E:
    """Return the exception of *kind* that *attempt* raises, as it must."""
    try:
        seen = attempt()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, and not {seen}")


def _told(error: Exception) -> str:
    """Return *error* with the last line of the script that led to it."""
    traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in frames if frame.filename == sys.modules["__main__"].__file__]
    return f"{type(error).__name__} at {lines[-1]!r}: {error}"
