"""A hub on this machine that has one model; it gives the weights only as far as it is told to."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMIT = "0a1b2c3d" * 5


class FakeHub:
    """
    What it has, and what it was asked.

    Attributes:
        url: where it listens.
        asked: the path of each request.
        may_finish: set when the second half of a large file may go.
    """

    def __init__(self, model_id: str, folder: Path) -> None:
        self.asked: list[str] = []
        self.may_finish = threading.Event()
        self.model_id = model_id
        self.files = {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}
        self.url = ""

    def answer(self, path: str) -> bytes | None:
        """Return what the hub's interface tells of the model; None: it is a file that is asked for."""
        about = f"/api/models/{self.model_id}"
        if path.startswith(f"{about}/tree/"):
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                for name, data in self.files.items()
            ]
            return json.dumps(rows).encode()
        if path.startswith(about):
            return json.dumps({"id": self.model_id, "sha": COMMIT, "siblings": []}).encode()
        return None


def etag(data: bytes) -> str:
    """Return the name that the hub has for a file's content."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@contextmanager
def running(model_id: str, folder: Path) -> Iterator[FakeHub]:
    """Serve the model in *folder* as *model_id*."""
    hub = FakeHub(model_id, folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.respond(with_body=False)

        def do_GET(self) -> None:
            self.respond(with_body=True)

        def respond(self, *, with_body: bool) -> None:
            hub.asked.append(self.path)
            told = hub.answer(self.path)
            data = hub.files.get(self.path.rpartition("/")[2]) if told is None else told
            self.send_response(404 if data is None else 200)
            data = data or b""
            for name, value in (
                ("Content-Length", str(len(data))),
                ("Content-Type", "application/json"),
                ("ETag", f'"{etag(data)}"'),
                ("X-Repo-Commit", COMMIT),
            ):
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                half = len(data) // 2 if len(data) > 1_000_000 else len(data)
                self.wfile.write(data[:half])
                if half < len(data):
                    hub.may_finish.wait(30)
                    self.wfile.write(data[half:])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.may_finish.set()
        server.shutdown()
        server.server_close()
        thread.join()
