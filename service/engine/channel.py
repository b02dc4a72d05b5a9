"""The engine's end of the socket pair: blocking, shared by its threads."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator

from service.catalog.card import UnfitModel
from service.protocol import (
    FrameSplitter,
    FromEngine,
    LoadFailed,
    ToEngine,
    frame,
    to_engine_decoder,
)

_log = logging.getLogger(__name__)


class Channel:
    """Messages in, by one thread; messages out, by any."""

    def __init__(self, connection: socket.socket) -> None:
        connection.set_inheritable(
            False
        )  # a child that held it would hide our end from the API process
        self._connection = connection
        self._splitter = FrameSplitter()
        self._sending = threading.Lock()
        self._inbound = self._read()

    def messages(self) -> Iterator[ToEngine]:
        """Return the one stream of messages; it ends when the API process is gone."""
        return self._inbound

    def refuse(self, error: UnfitModel) -> None:
        """Say why there is no model: all of it in the log, to the API process what anyone may know."""
        value = "" if error.value is None else f" ({error.value!r})"
        _log.error("the model cannot be served: %s%s", error, value)
        self.send(LoadFailed(str(error), error.may_pass))

    def send(self, message: FromEngine) -> None:
        """Send *message*; nothing happens if the other end is gone, since the reader sees that too."""
        data = frame(message)
        with self._sending:
            try:
                self._connection.sendall(data)
            except OSError:
                return

    def _read(self) -> Iterator[ToEngine]:
        while data := self._receive():
            for body in self._splitter.feed(data):
                yield to_engine_decoder.decode(body)

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(1 << 16)
        except OSError:
            return b""
