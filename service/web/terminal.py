"""
What a person at the terminal sees of a start: one line while it goes on, a few when it is over.

    loading: the model is being downloaded, 1,200 of 2,600 MB (46%), 35.0 MB/s, 40 s left (35 s)

The line is drawn where the cursor is and leaves it at the line's beginning, so that whatever is logged, by
the engine's process as well, is written over it. Where standard error is no terminal, it belongs to a log:
then nothing is drawn, and a start that lasts gets a log line now and then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
import time
from typing import TextIO

from service.fleet.lifecycle import Lifecycle, State

_log = logging.getLogger(__name__)

FIRST_S = 0.5  # taste: whoever waits for longer wants to know for what
DRAW_S = 0.2  # taste: as often as a person sees a change
LOG_S = 15.0  # taste: nobody watches a log for longer without asking whether it is still alive
_OVER = {State.READY, State.UNLOADED, State.DRAINING, State.STOPPED}
_ERASE = "\r\x1b[K"


class Terminal:
    """
    Tells of a start until it is over.

    Args:
        lifecycle: the model's state.
        with_key: requests need a key.
        stream: where it is drawn, if that is a terminal.
    """

    def __init__(
        self, lifecycle: Lifecycle, *, with_key: bool, stream: TextIO | None = None
    ) -> None:
        self._lifecycle = lifecycle
        self._with_key = with_key
        self._stream = stream or sys.stderr
        self._telling: asyncio.Task[None] | None = None

    def start(self, url: str | None) -> None:
        """Begin to tell; *url* is where the server will listen, None where that isn't known."""
        tell = self._draw(url) if self._stream.isatty() else self._write()
        self._telling = asyncio.create_task(tell, name="terminal")

    async def _draw(self, url: str | None) -> None:
        began_s, model = time.monotonic(), self._lifecycle
        await asyncio.sleep(FIRST_S)  # the server has some short lines to say before
        while model.state not in _OVER and not model.is_given_up:
            line = f"{model.state.value}: {model.reason} ({time.monotonic() - began_s:.0f} s)"
            width = shutil.get_terminal_size().columns - 1
            self._put(f"{_ERASE}{line[:width]}\r")
            await asyncio.sleep(DRAW_S)
        self._put(_ERASE)
        if model.state is State.READY and url is not None:
            lasted_s = time.monotonic() - began_s
            self._put(banner(str(model.card and model.card.id), url, lasted_s, self._with_key))

    async def _write(self) -> None:
        began_s, model = time.monotonic(), self._lifecycle
        while model.state not in _OVER and not model.is_given_up:
            await asyncio.sleep(LOG_S)
            if model.state is State.LOADING:
                _log.info("Loading for %.0f s: %s.", time.monotonic() - began_s, model.reason)

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def banner(model_id: str, url: str, lasted_s: float, with_key: bool) -> str:
    """Return what is served, where, and a first request to copy."""
    key = ' -H "Authorization: Bearer $API_KEY"' if with_key else ""
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    rows = (
        ("API", f"{url}/v1"),
        ("Page", f"{url}/"),
        ("Try", f"curl {url}/v1/chat/completions{key} -d '{body}'"),
    )
    told = "".join(f"  {name:<8}{words}\n" for name, words in rows)
    return f"\n  {model_id} is ready after {lasted_s:.1f} s.\n\n{told}\n"
