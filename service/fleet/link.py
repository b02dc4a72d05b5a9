"""
Our end of the socket pair to one engine process: messages out, messages in, and its end.

The end is told once, in the very turn of the loop in which it is seen, whatever ended it: the engine's end
of file, a word that is no message, or our own decision. Nothing is heard or sent after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import cast

import msgspec

from service.protocol import FrameSplitter, FromEngine, ToEngine, frame, from_engine_decoder

_log = logging.getLogger(__name__)

# A step of 32 rows with 20 log-probabilities each is 15 KB, measured; a Mac's own buffers hold 8 KB, and
# the engine would wait in each such step until we have read.
BUFFER_BYTES = 256 * 1024


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return our end and the engine's, both with buffers that hold several steps, if the system lets them."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            if end.getsockopt(socket.SOL_SOCKET, option) < BUFFER_BYTES:
                with contextlib.suppress(OSError):  # small buffers are slower, and nothing else
                    end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    return ours, theirs


class Link(asyncio.Protocol):
    """
    The protocol that asyncio drives our end with.

    Args:
        on_message: called with each message, in order.
        on_end: called once, at the end, with what was wrong with the engine; None: nothing is known of it.

    Attributes:
        ended: done from the end on, its result is what *on_end* was told.
    """

    def __init__(
        self, on_message: Callable[[FromEngine], None], on_end: Callable[[str | None], None]
    ) -> None:
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._on_end = on_end
        self._splitter = FrameSplitter()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport; asyncio calls this."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that are whole now; asyncio calls this."""
        try:
            for body in self._splitter.feed(data):
                self._on_message(from_engine_decoder.decode(body))
        except (ValueError, msgspec.ValidationError):
            _log.exception("The engine sent what is no message; its link is closed.")
            self.end("it sent what is no message and was killed")

    def eof_received(self) -> None:
        """End with the engine's end of file; asyncio calls this."""
        self.end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End where a write has failed; asyncio calls this."""
        self.end()

    def send(self, message: ToEngine) -> None:
        """Send *message*; after the end it is dropped."""
        if self._transport is not None and not self.ended.done():
            self._transport.write(frame(message))

    def end(self, fault: str | None = None) -> None:
        """
        Close our end, which the engine takes as its order to exit, and tell of it. Idempotent.

        What was not sent yet is not waited for: an engine that no longer reads would never let us go.
        """
        if self.ended.done():
            return
        self.ended.set_result(fault)
        if self._transport is not None:
            self._transport.abort()
        self._on_end(fault)
