"""A server that is wrong in some places: it asks another, and exchanges some bytes of its answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.live import PLAIN

PASSED_ON = {"X-Request-ID", "Content-Type"}
NOT_PASSED_BACK = {b"transfer-encoding", b"content-length"}


@contextmanager
def bent(url: str, places: Mapping[str, tuple[bytes, bytes]]) -> Iterator[str]:
    """
    Yield the address of a server that answers like the one at *url*, but in some *places*.

    Args:
        url: where the right one listens.
        places: by path, what is right in its answers, and what stands there instead.
    """

    class Bent(BaseHTTPRequestHandler):
        """One request, one connection."""

        def do_GET(self) -> None:
            answer = http.request(
                self.command,
                self.path,
                headers={name: self.headers[name] for name in PASSED_ON & {*self.headers}},
                content=self.rfile.read(int(self.headers.get("Content-Length", 0))),
            )
            right, wrong = places.get(self.path, (b"", b""))
            body = _replaced(answer.content, right, wrong)
            head = b"HTTP/1.1 %d %b\r\n" % (answer.status_code, answer.reason_phrase.encode())
            for name, value in answer.headers.raw:
                if name.lower() not in NOT_PASSED_BACK:
                    head += b"%b: %b\r\n" % (name, value)
            self.wfile.write(_replaced(head, right, wrong))
            self.wfile.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

        do_POST = do_GET  # noqa: N815 - the base class asks for these names

        def log_message(self, *words: object) -> None:
            """Say nothing; the server behind has a log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bent)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    with httpx.Client(base_url=url, timeout=30, verify=PLAIN) as http:
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _replaced(text: bytes, right: bytes, wrong: bytes) -> bytes:
    return text.replace(right, wrong) if right else text
