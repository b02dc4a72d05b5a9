"""A server that is wrong in one place: it asks another, and exchanges some bytes of each answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

PASSED_ON = {"X-Request-ID", "Content-Type"}
NOT_PASSED_BACK = {b"transfer-encoding", b"content-length"}


@contextmanager
def bent(url: str, right: bytes, wrong: bytes) -> Iterator[str]:
    """Yield the address of a server that answers like the one at *url*, with *wrong* for *right*."""

    class Bent(BaseHTTPRequestHandler):
        """One request, one connection."""

        def do_GET(self) -> None:
            answer = http.request(
                self.command,
                self.path,
                headers={name: self.headers[name] for name in PASSED_ON & {*self.headers}},
                content=self.rfile.read(int(self.headers.get("Content-Length", 0))),
            )
            body = answer.content.replace(right, wrong)
            head = b"HTTP/1.1 %d %b\r\n" % (answer.status_code, answer.reason_phrase.encode())
            for name, value in answer.headers.raw:
                if name.lower() not in NOT_PASSED_BACK:
                    head += b"%b: %b\r\n" % (name, value)
            self.wfile.write(head.replace(right, wrong))
            self.wfile.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

        do_POST = do_GET  # noqa: N815 - the base class asks for these names

        def log_message(self, *words: object) -> None:
            """Say nothing; the server behind has a log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bent)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    with httpx.Client(base_url=url, timeout=30) as http:
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
