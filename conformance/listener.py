"""A port on this machine where nobody has anything to look for."""

import contextlib
import socket
import threading
from socketserver import BaseRequestHandler, TCPServer
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
LIMIT_S = 5.0
NOTHING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Visit(BaseRequestHandler):
    """One connection: it is noted, and told that there is nothing."""

    server: "Listener"

    def handle(self) -> None:
        """Answer before anything was asked, so that whoever comes doesn't wait."""
        self.server.n_seen += 1
        with contextlib.suppress(OSError):
            self.request.sendall(NOTHING)


class Listener(TCPServer):
    """
    Listens while its `with` block lasts; who comes is served one after another.

    Attributes:
        n_seen: how many were served so far.
    """

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Visit)
        self.n_seen = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def n_visits(self) -> int:
        """Return how many came, other than this one; a visit of its own is served after them."""
        with socket.create_connection((HOST, self.port), timeout=LIMIT_S) as own:
            own.recv(len(NOTHING))
        self.n_seen -= 1
        return self.n_seen

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        self.server_close()
