"""
The server that is played: it starts slowly, and makes the trouble that servers make.

/health says 503 at first, then that it warms up, then that it is ready; each state lasts for so many
looks, or for some seconds where nobody looks. Of the chats that come then, the first is refused with
429 and the third with 503, both with Retry-After; of the streams, the first ends with an error event
and the second is cut off. All else is answered. What was asked, and what came of it, is written down.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT = "/v1/chat/completions"
CHATTING = "stage/gemma-3-played"
FAMILY = "gemma"
EMBEDDING = "stage/embeddings-played"
CONTEXT_LENGTH = 2048
N_LOOKS = 2
PATIENCE_S = 2.0
RETRY_AFTER_S = 1
TURNED_AWAY = {0: (429, "queue_full"), 2: (503, "model_not_ready")}
STREAM_ENDS = {0: "error event", 1: "cut off"}
WORDS = ("All ", "the ", "world's ", "a ", "stage.")


@dataclass(frozen=True)
class Seen:
    """
    One request and what came of it.

    Attributes:
        at_s: when it came, on the monotonic clock.
        act: what was done: the state that /health told, "listed", "answered", "refused", "error event",
            "cut off" or "unknown".
        body: what was posted; empty where it is no JSON object.
    """

    at_s: float
    path: str
    request_id: str
    status: int
    act: str
    body: dict[str, Any] = field(default_factory=dict)


class Stage(ThreadingHTTPServer):
    """
    The server on a free port of this machine.

    Attributes:
        seen: what it was asked so far, in the order of the answers.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._began_s = 0.0
        self._n_looks = self._n_chats = self._n_streams = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def state(self) -> str:
        """Return how far the start has come since somebody first asked: loading, warming or ready."""
        self._began_s = self._began_s or time.monotonic()
        age_s = time.monotonic() - self._began_s
        n_states = max(self._n_looks // N_LOOKS, int(age_s // PATIENCE_S))
        return ("loading", "warming", "ready")[min(n_states, 2)]

    def look(self) -> str:
        """Return the state that a look at /health shows."""
        with self._lock:
            state = self.state()
            self._n_looks += 1
            return state

    def turn_of(self, body: dict[str, Any]) -> tuple[int, str]:
        """Return the status of the next chat, and what shall be done with it."""
        with self._lock:
            if self.state() == "loading":
                return 503, "model_not_ready"
            self._n_chats += 1
            if refusal := TURNED_AWAY.get(self._n_chats - 1):
                return refusal
            if not body.get("stream"):
                return 200, "answered"
            self._n_streams += 1
            return 200, STREAM_ENDS.get(self._n_streams - 1, "answered")

    def note(self, seen: Seen) -> None:
        """Write down what was asked."""
        with self._lock:
            self.seen.append(seen)


@contextmanager
def played() -> Iterator[Stage]:
    """Play the server, and end it."""
    with Stage() as stage:
        thread = threading.Thread(target=stage.serve_forever, args=[0.02], daemon=True)
        thread.start()
        try:
            yield stage
        finally:
            stage.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Stage
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what was asked is written down."""

    def do_GET(self) -> None:
        self._at_s = time.monotonic()
        if self.path == "/health":
            state = self.server.look()
            self._send(503 if state == "loading" else 200, _health(state), state)
        elif self.path == "/v1/models":
            self._list()
        else:
            self._send(404, _error(f"no route {self.path}", "not_found"), "unknown")

    def do_POST(self) -> None:
        self._at_s = time.monotonic()
        body = _read(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if self.path != CHAT:
            self._send(404, _error(f"no route {self.path}", "not_found"), "unknown", body)
            return
        status, act = self.server.turn_of(body)
        if status != 200:
            self._send(status, _error("come again", act), "refused", body)
        elif body.get("stream"):
            self._stream(body, act)
        else:
            self._send(200, _completion(), act, body)

    def _list(self) -> None:
        if self.server.state() == "loading":
            self._send(503, _error("still loading", "model_not_ready"), "refused")
        else:
            data = [_model(EMBEDDING, "bert", "embeddings"), _model(CHATTING, FAMILY, "chat")]
            self._send(200, {"object": "list", "data": data}, "listed")

    def _note(self, status: int, act: str, body: dict[str, Any] | None) -> None:
        given = self.headers.get("X-Request-ID") or ""
        self.server.note(Seen(self._at_s, self.path, given, status, act, body or {}))

    def _head(self, status: int, kind: str, length: int | None) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Request-ID", self.headers.get("X-Request-ID") or "stage-made-this")
        self.send_header("X-Process-Time", f"{time.monotonic() - self._at_s:.6f}")
        if status in {429, 503}:
            self.send_header("Retry-After", str(RETRY_AFTER_S))
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(
        self, status: int, answer: dict[str, Any], act: str, body: dict[str, Any] | None = None
    ) -> None:
        self._note(status, act, body)
        content = json.dumps(answer).encode()
        self._head(status, "application/json", len(content))
        self.wfile.write(content)

    def _stream(self, body: dict[str, Any], act: str) -> None:
        self._note(200, act, body)
        self._head(200, "text/event-stream", None)
        self._event(json.dumps(_chunk({"role": "assistant", "content": ""})))
        for word in WORDS if act == "answered" else WORDS[:2]:
            self._event(json.dumps(_chunk({"content": word})))
        if act == "cut off":
            self.close_connection = True
            return
        last = (
            _error("the engine died", "engine_error")
            if act == "error event"
            else _chunk({}, "stop")
        )
        self._event(json.dumps(last))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))


def _read(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _health(state: str) -> dict[str, Any]:
    is_loaded = state != "loading"
    return {
        "status": "ok",
        "model_id": CHATTING if is_loaded else None,
        "model_status": "initialized" if is_loaded else "uninitialized",
        "models_healthy": is_loaded,
        "warmup_enabled": True if is_loaded else None,
        "warmup_completed": state == "ready" if is_loaded else None,
    }


def _model(name: str, family: str, tag: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 1_790_000_000,
        "owned_by": "local-mlx",
        "description": f"One that is played, for {tag}",
        "context_length": CONTEXT_LENGTH,
        "family": family,
        "tags": ["local", tag],
        "tier": "3A",
    }


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": code}}


def _completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(WORDS)}
    usage = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
    return {
        "id": "chatcmpl-played",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": CHATTING,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }


def _chunk(delta: dict[str, Any], end: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-played",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": CHATTING,
        "choices": [{"index": 0, "delta": delta, "finish_reason": end}],
    }
