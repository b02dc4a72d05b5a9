"""`python -m conformance.broken [--fault NAME]`: the miniature on a socket, right or wrong."""

import json
import logging
import sys
import time
from http.server import BaseHTTPRequestHandler
from socket import AF_INET, AF_INET6
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import unquote

from conformance.broken import different, fault, options
from conformance.broken.miniature import MAX_BODY_BYTES, Asked, Miniature, Reply


class Socket(ThreadingTCPServer):
    """The listening socket, one thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, miniature: Miniature) -> None:
        self.miniature = miniature
        host = miniature.options["server_host"]
        self.address_family = AF_INET6 if ":" in host else AF_INET
        super().__init__((host, miniature.options["server_port"]), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what broke, unless it was the client that left."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection; `handle_any` answers each of its requests."""

    server: Socket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        """Log the start, answer, log the end."""
        miniature = self.server.miniature
        asked = Asked(
            self.command,
            self.path,
            unquote(self.path.partition("?")[0]),
            self.headers,
            self.read_body(),
            time.monotonic(),
        )
        asked.request_id = miniature.find_id(asked)
        miniature.log_started(asked)
        reply = Reply(500)
        try:
            reply = miniature.answer(asked)
            self.send(asked, reply)
        finally:
            miniature.log_completed(asked, reply.status)
        self.close_connection |= miniature.hangs_up

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = handle_any  # noqa: N815  # http.server's own names

    def read_body(self) -> bytes:
        """Return the body; nothing of one that will be refused."""
        n_bytes = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(n_bytes) if n_bytes <= MAX_BODY_BYTES else b""

    def send(self, asked: Asked, reply: Reply) -> None:
        """Send a response."""
        content = self.bytes_of(reply.body)
        headers = {"Content-Type": "application/json"} if content else {}
        if reply.events:
            headers["Transfer-Encoding"] = "chunked"
        elif reply.status != 204:
            headers["Content-Length"] = str(len(content))
        self.send_response_only(reply.status)
        for name, value in (headers | reply.headers).items():
            self.send_header(name, value)
        for value in self.server.miniature.ids_of(asked, reply):
            self.send_header("X-Request-ID", value)
        for value in self.server.miniature.times_of(asked, reply):
            self.send_header("X-Process-Time", value)
        self.end_headers()
        if asked.method != "HEAD":
            self.wfile.write(content)
        for data in reply.events or ():
            self.send_piece(reply.event(data).encode())
        if reply.events:
            self.wfile.write(b"0\r\n\r\n")

    def bytes_of(self, body: object) -> bytes:
        """Return a body as it travels."""
        if isinstance(body, bytes):
            return body
        text = body if isinstance(body, str) else json.dumps(body)
        return b"" if body is None else text.encode()

    def send_piece(self, event: bytes) -> None:
        """Send one event as a chunk of the body."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))


def which(words: list[str]) -> type[Miniature]:
    """Return the server asked for: one with a fault, one that is different, or the correct one."""
    if "--right" in words:
        return different.load()[words[words.index("--right") + 1]].server
    if "--fault" in words:
        return fault.find(words[words.index("--fault") + 1]).server
    return fault.CORRECT


def main(words: list[str]) -> None:
    """Serve until SIGTERM."""
    kind = which(words)
    miniature = kind(options.read(words, kind.option_table()))
    logging.basicConfig(
        level=miniature.log_level(), format=miniature.log_format(), datefmt="%Y-%m-%d %H:%M:%S"
    )
    miniature.before_listening()
    with Socket(miniature) as server:
        server.serve_forever(poll_interval=0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
