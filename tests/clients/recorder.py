"""
What stands between an agent and the server in a test: it passes everything on and keeps what was said.

It is also the agent's way to the rest of the world, as a proxy: it opens none, and keeps who was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx

TIMEOUT_S = 120
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


@dataclass
class Exchange:
    """
    A request and its answer.

    Attributes:
        path: without the query.
        asked: the request's body as it came.
        headers: the request's.
        status: the answer's; 0: none came.
        said: the answer's body as text.
    """

    path: str
    asked: bytes
    headers: dict[str, str]
    status: int = 0
    said: str = ""

    @property
    def request(self) -> dict[str, Any]:
        """The body as JSON; empty where it is none."""
        return json.loads(self.asked) if self.asked else {}

    @property
    def usage(self) -> tuple[int, int] | None:
        """How many tokens the prompt had, and how many of them were cached; None: that wasn't told."""
        found = None
        for event in self._events():
            holder = event.get("response") or event.get("message") or event
            found = _prompt_tokens(holder.get("usage") or {}) or found
        return found

    def _events(self) -> Iterator[dict[str, Any]]:
        if self.said.startswith("{"):
            yield json.loads(self.said)
            return
        for line in self.said.splitlines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def _prompt_tokens(usage: dict[str, Any]) -> tuple[int, int] | None:
    if "cache_read_input_tokens" in usage:
        n_cached = usage["cache_read_input_tokens"]
        return usage["input_tokens"] + n_cached, n_cached
    for total, details in (
        ("prompt_tokens", "prompt_tokens_details"),
        ("input_tokens", "input_tokens_details"),
    ):
        if total in usage and details in usage:
            return usage[total], usage[details]["cached_tokens"]
    return None


@dataclass
class Recorder:
    """
    What was seen.

    Attributes:
        url: where it listens.
        exchanges: in the order in which they began.
        outside: hosts of the world that the agent asked for.
    """

    url: str
    exchanges: list[Exchange] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


@contextmanager
def recording(server_url: str) -> Iterator[Recorder]:
    """Stand before the server at *server_url* until left."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server_url))
    recorder = Recorder(f"http://127.0.0.1:{listening.server_port}")
    listening.recorder = recorder  # type: ignore[attr-defined]
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def _handler(server_url: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            if int(self.path.rpartition(":")[2]) != self.server.server_port:  # type: ignore[attr-defined]
                self._refuse(self.path)
                return
            # Some send what is meant for this machine through a proxy, too: what follows is for us.
            self.send_response_only(200, "Connection established")
            self.end_headers()
            self.close_connection = False

        def _refuse(self, host: str) -> None:
            self.server.recorder.outside.append(host)  # type: ignore[attr-defined]
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True

        def _pass_on(self) -> None:
            if self.path.startswith("http"):
                self._refuse(urlsplit(self.path).netloc)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            headers["Accept-Encoding"] = "identity"
            exchange = Exchange(urlsplit(self.path).path, body, headers)
            self.server.recorder.exchanges.append(exchange)  # type: ignore[attr-defined]
            url = server_url + self.path
            with httpx.stream(
                self.command, url, content=body, headers=headers, timeout=TIMEOUT_S, trust_env=False
            ) as answer:
                exchange.status = answer.status_code
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                for piece in answer.iter_raw():
                    exchange.said += piece.decode("utf-8", "replace")
                    self.wfile.write(piece)
                    self.wfile.flush()
            self.close_connection = True

        def do_GET(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
