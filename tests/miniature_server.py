"""
The smallest correct Tier 3A server, and one change for each fault that the suite must find.

It proves `conformance/`: without a fault every check passes; with one, the check of the
requirement that the fault breaks fails. It loads and warms up by the clock, and says "word" once
per token. `python miniature_server.py --port 8000 [--fault NAME]`; its log goes to stderr.
"""

import argparse
import json
import logging
import os
import re
import time
import uuid
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import unquote

MODEL_ID = "miniature/gemma-3-clock"
NAMES = {MODEL_ID, MODEL_ID.rpartition("/")[2], "gemma"}
LOADING_S = 0.1
WARMING_S = 0.1
TOKEN_S = 0.002
LEGAL_ID = re.compile(r"[!-~]{1,128}")
LOG = logging.getLogger("miniature")

# Each fault with the requirement that it breaks.
FAULTS = {
    "list-without-envelope": "DISC-1",
    "id-is-a-number": "DISC-2",
    "object-is-list": "DISC-3",
    "created-is-now": "DISC-4",
    "created-in-milliseconds": "DISC-4",
    "owner-is-openai": "DISC-5",
    "description-is-blank": "DISC-6",
    "context-length-is-text": "DISC-7",
    "family-is-null": "DISC-8",
    "tags-are-text": "DISC-9",
    "tier-is-a-number": "DISC-10",
    "tier-is-missing": "DISC-11",
    "nothing-listed": "DISC-12",
    "listed-twice": "DISC-13",
    "context-length-is-fixed": "DISC-14",
    "tag-local-is-missing": "DISC-15",
    "model-in-envelope": "MODEL-1",
    "raw-slash-is-lost": "MODEL-2",
    "encoded-slash-is-lost": "MODEL-3",
    "detail-differs": "MODEL-4",
    "unknown-model-without-code": "MODEL-5",
    "id-in-lower-case": "RID-1",
    "id-cut-at-64": "RID-1",
    "id-is-a-counter": "RID-2",
    "id-per-connection": "RID-3",
    "no-id-on-404": "RID-4",
    "two-ids-on-streams": "RID-4",
    "no-id-on-preflight": "RID-4",
    "no-id-on-503": "RID-4",
    "header-by-exact-case": "RID-5",
    "id-shared-between-requests": "RID-6",
    "start-logged-without-id": "RID-7",
    "hostile-id-kept": "RID-8",
    "form-type-is-refused": "RID-9",
    "no-time-on-streams": "PT-1",
    "time-with-unit": "PT-1",
    "time-in-milliseconds": "PT-2",
    "time-of-the-first-step": "PT-3",
    "time-unlike-the-log": "PT-4",
    "no-time-on-errors": "PT-5",
    "status-is-true": "HEALTH-1",
    "model-id-is-missing": "HEALTH-2",
    "model-status-is-ready": "HEALTH-3",
    "healthy-is-text": "HEALTH-4",
    "warmup-enabled-is-text": "HEALTH-5",
    "warmup-completed-is-a-number": "HEALTH-6",
    "status-is-down-at-503": "HEALTH-7",
    "healthy-with-503": "HEALTH-8",
    "uninitialized-with-200": "HEALTH-9",
    "model-named-while-loading": "HEALTH-10",
    "healthy-while-uninitialized": "HEALTH-11",
    "model-id-is-a-path": "HEALTH-12",
    "port-opens-late": "HEALTH-13",
    "warming-up-with-503": "HEALTH-14",
    "warming-up-twice": "HEALTH-15",
    "health-waits-for-generation": "HEALTH-16",
    "routes-open-while-loading": "HEALTH-17",
    "message-without-role": "OAI-1",
    "finish-reason-is-error": "OAI-1",
    "done-twice": "OAI-2",
    "done-is-missing": "OAI-2",
    "first-delta-without-role": "OAI-2",
    "finish-reason-twice": "OAI-2",
    "usage-in-the-last-choice": "OAI-2",
    "stream-as-plain-text": "OAI-2",
    "invalid-json-is-our-fault": "OAI-3",
    "error-without-param": "OAI-3",
    "not-found-by-accept": "OAI-4",
    "total-is-the-completion": "OAI-5",
    "tag-chat-is-missing": "PAT-1",
    "warmup-completed-is-null": "PAT-2",
    "family-is-no-name": "PAT-3",
    "health-ignores-the-id": "PAT-4",
}


def error(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's envelope."""
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Miniature(ThreadingTCPServer):
    """The server: its clock of states, and what its faults need to remember."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, fault: str) -> None:
        self.fault = fault
        self.context_length = int(os.environ.get("CONTEXT_LENGTH", "8192"))
        self.created = int(time.time())
        self.began = time.monotonic()
        self.counter = 0
        self.last_id = ""
        self.n_generating = 0
        self.n_left = 0
        super().__init__(("127.0.0.1", port), Handler)

    def state(self) -> str:
        """Return where the start has come to: loading, warming or ready."""
        age_s = time.monotonic() - self.began
        if age_s < LOADING_S:
            return "loading"
        if age_s < LOADING_S + WARMING_S:
            return "warming"
        is_second_time = age_s < LOADING_S + 1.4 * WARMING_S and age_s > LOADING_S + 1.2 * WARMING_S
        return "warming" if self.fault == "warming-up-twice" and is_second_time else "ready"

    def health(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of /health."""
        state = self.state()
        body: dict[str, Any] = {
            "status": "ok",
            "model_id": MODEL_ID,
            "model_status": "initialized",
            "models_healthy": True,
            "warmup_enabled": True,
            "warmup_completed": state == "ready",
        }
        if state != "loading":
            return self._spoil_loaded(state, body)
        body |= dict.fromkeys(("model_id", "warmup_enabled", "warmup_completed"))
        body |= {"model_status": "uninitialized", "models_healthy": False}
        return self._spoil_loading(body)

    def _spoil_loaded(self, state: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        changes: dict[str, dict[str, Any]] = {
            "status-is-true": {"status": True},
            "model-status-is-ready": {"model_status": "ready"},
            "healthy-is-text": {"models_healthy": "true"},
            "warmup-enabled-is-text": {"warmup_enabled": "true"},
            "warmup-completed-is-null": {"warmup_completed": None},
            "warmup-completed-is-a-number": {"warmup_completed": 1},
            "model-id-is-a-path": {"model_id": "/models/" + MODEL_ID},
        }
        body |= changes.get(self.fault, {})
        if self.fault == "model-id-is-missing":
            del body["model_id"]
        warms = self.fault == "warming-up-with-503" and state == "warming"
        return (503 if warms or self.fault == "healthy-with-503" else 200), body

    def _spoil_loading(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        changes: dict[str, dict[str, Any]] = {
            "status-is-down-at-503": {"status": "down"},
            "model-named-while-loading": {"model_id": MODEL_ID},
            "healthy-while-uninitialized": {"models_healthy": True},
        }
        return (200 if self.fault == "uninitialized-with-200" else 503), body | changes.get(
            self.fault, {}
        )

    def model(self) -> dict[str, Any]:
        """Return the one model."""
        model: dict[str, Any] = {
            "id": MODEL_ID,
            "object": "model",
            "created": self.created,
            "owned_by": "local-mlx",
            "description": "A clock that says one word per tick",
            "context_length": self.context_length,
            "family": "gemma",
            "tags": ["local", "chat"],
            "tier": "3A",
        }
        changes: dict[str, dict[str, Any]] = {
            "id-is-a-number": {"id": 7},
            "object-is-list": {"object": "list"},
            "created-is-now": {"created": int(time.time())},
            "created-in-milliseconds": {"created": self.created * 1000},
            "owner-is-openai": {"owned_by": "openai"},
            "description-is-blank": {"description": " "},
            "context-length-is-text": {"context_length": "8192"},
            "context-length-is-fixed": {"context_length": 8192},
            "family-is-null": {"family": None},
            "tags-are-text": {"tags": "local,chat"},
            "tier-is-a-number": {"tier": 3},
            "tag-local-is-missing": {"tags": ["chat"]},
            "tag-chat-is-missing": {"tags": ["local"]},
        }
        model |= changes.get(self.fault, {})
        if self.fault == "tier-is-missing":
            del model["tier"]
        return model


class Handler(BaseHTTPRequestHandler):
    """One connection; `handle_any` answers each of its requests."""

    server: Miniature
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    connection_id = ""

    def handle_any(self) -> None:
        """Log the start, answer, log the end."""
        self.began = time.monotonic()
        self.route = unquote(self.path.partition("?")[0])
        self.status = 0
        self.logged_s: float | None = None
        self.request_id = self.find_id()
        label = "" if self.has("start-logged-without-id") else f" [request_id={self.request_id}]"
        LOG.info("Request started: %s %s%s", self.command, self.route, label)
        try:
            self.answer()
        finally:
            duration_s = time.monotonic() - self.began
            line = "Request completed: %s %s status=%d duration=%.3fs [request_id=%s]"
            what = (self.command, self.route, self.status, duration_s, self.request_id)
            LOG.info(line, *what)
        self.server.n_left -= 1
        if not self.server.n_left:
            os._exit(1)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = handle_any  # noqa: N815  # http.server's own names

    def has(self, fault: str) -> bool:
        """Whether that is the fault to show."""
        return self.server.fault == fault

    def find_id(self) -> str:
        """Return the client's id, or a new one where it gave none or a hostile one."""
        given = self.headers.get_all("X-Request-ID") or []
        if self.has("header-by-exact-case"):
            given = [value for name, value in self.headers.items() if name == "X-Request-ID"]
        if self.has("health-ignores-the-id") and self.route == "/health":
            given = []
        if self.has("hostile-id-kept") and given:
            return given[0]
        if len(given) == 1 and LEGAL_ID.fullmatch(given[0]):
            cut = given[0][:64] if self.has("id-cut-at-64") else given[0]
            return cut.lower() if self.has("id-in-lower-case") else cut
        if self.has("id-is-a-counter"):
            self.server.counter += 1
            return f"req-{self.server.counter}"
        if self.has("id-per-connection"):
            self.connection_id = self.connection_id or str(uuid.uuid4())
            return self.connection_id
        return str(uuid.uuid4())

    def answer(self) -> None:
        """Find the route."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.has("id-shared-between-requests"):
            self.server.last_id = self.request_id
            time.sleep(0.005)
            self.request_id = self.server.last_id
        if self.command == "OPTIONS":
            return self.reply(204, None)
        if self.route == "/health":
            return self.answer_health()
        if self.server.state() == "loading" and not self.has("routes-open-while-loading"):
            return self.reply(503, error("still loading", "model_not_ready"), {"Retry-After": "1"})
        if self.route == "/v1/models" or self.route.startswith("/v1/models/"):
            return self.answer_models()
        if self.route == "/v1/chat/completions":
            return self.answer_chat(body)
        if self.has("not-found-by-accept") and "xml" in self.headers.get("Accept", ""):
            return self.reply(404, "<error/>", {"Content-Type": "application/xml"})
        return self.reply(404, error(f"no route {self.route}", "route_not_found"))

    def answer_health(self) -> None:
        """GET /health."""
        if self.has("health-waits-for-generation") and self.server.n_generating:
            time.sleep(5.5)
        self.reply(*self.server.health())

    def answer_models(self) -> None:
        """GET /v1/models and one of them."""
        if self.command not in {"GET", "HEAD"}:
            return self.reply(405, error("read only", "method_not_allowed"), {"Allow": "GET, HEAD"})
        model, wanted = self.server.model(), self.route.removeprefix("/v1/models").lstrip("/")
        if not wanted:
            copies = {"nothing-listed": 0, "listed-twice": 2}.get(self.server.fault, 1)
            listed = [model] * copies
            is_bare = self.has("list-without-envelope")
            return self.reply(200, listed if is_bare else {"object": "list", "data": listed})
        is_raw = "/" in self.path.removeprefix("/v1/models/")
        is_lost = self.has("raw-slash-is-lost" if is_raw else "encoded-slash-is-lost")
        if wanted != MODEL_ID or is_lost:
            code = "not_found" if self.has("unknown-model-without-code") else "model_not_found"
            return self.reply(404, error(f"no model {wanted}", code, "model"))
        if self.has("detail-differs"):
            model["description"] = "Something else"
        in_envelope = self.has("model-in-envelope")
        return self.reply(200, {"object": "list", "data": [model]} if in_envelope else model)

    def answer_chat(self, body: bytes) -> None:
        """POST /v1/chat/completions."""
        if self.command != "POST":
            return self.reply(405, error("POST only", "method_not_allowed"), {"Allow": "POST"})
        if self.has("form-type-is-refused") and "form" in self.headers.get("Content-Type", ""):
            return self.reply(415, error("JSON only", "unsupported_media_type"))
        try:
            asked = json.loads(body)
        except ValueError:
            status = 500 if self.has("invalid-json-is-our-fault") else 400
            return self.reply(status, error("the body is no JSON", "invalid_json"))
        names = {MODEL_ID} if self.has("family-is-no-name") else NAMES
        if asked.get("model") not in names:
            return self.reply(404, error("no such model", "model_not_found", "model"))
        n_tokens = int(asked.get("max_tokens") or 16)
        self.server.n_generating += 1
        try:
            return self.stream(asked, n_tokens) if asked.get("stream") else self.complete(n_tokens)
        finally:
            self.server.n_generating -= 1

    def usage(self, n_tokens: int) -> dict[str, int]:
        """Return the three counts."""
        total = n_tokens if self.has("total-is-the-completion") else 5 + n_tokens
        return {"prompt_tokens": 5, "completion_tokens": n_tokens, "total_tokens": total}

    def frame(self, kind: str) -> dict[str, Any]:
        """Return what completions and chunks begin with."""
        created = int(time.time())
        return {"id": f"{kind}-1", "object": kind, "created": created, "model": MODEL_ID}

    def complete(self, n_tokens: int) -> None:
        """Answer at once."""
        if self.has("time-of-the-first-step"):
            self.logged_s = time.monotonic() - self.began
        time.sleep(n_tokens * TOKEN_S)
        message = {"role": "assistant", "content": "word " * n_tokens}
        if self.has("message-without-role"):
            del message["role"]
        reason = "error" if self.has("finish-reason-is-error") else "length"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        body = {"choices": [choice], "usage": self.usage(n_tokens)}
        self.reply(200, self.frame("chat.completion") | body)

    def stream(self, asked: dict[str, Any], n_tokens: int) -> None:
        """Answer token by token."""
        plain = self.has("stream-as-plain-text")
        self.begin(
            200,
            {
                "Content-Type": "text/plain" if plain else "text/event-stream",
                "Transfer-Encoding": "chunked",
            },
        )
        chunk = self.frame("chat.completion.chunk")
        if not self.has("first-delta-without-role"):
            self.send_choice(chunk, {"role": "assistant", "content": ""}, None)
        for _ in range(n_tokens):
            time.sleep(TOKEN_S)
            self.send_choice(chunk, {"content": "word "}, None)
        for _ in range(2 if self.has("finish-reason-twice") else 1):
            self.send_choice(chunk, {}, "length")
        if (asked.get("stream_options") or {}).get("include_usage"):
            in_choice = self.has("usage-in-the-last-choice")
            choices = [{"index": 0, "delta": {}, "finish_reason": None}] if in_choice else []
            usage = {"choices": choices, "usage": self.usage(n_tokens)}
            self.send_event(json.dumps(chunk | usage))
        for _ in range({"done-twice": 2, "done-is-missing": 0}.get(self.server.fault, 1)):
            self.send_event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def send_choice(self, chunk: dict[str, Any], delta: dict[str, str], end: str | None) -> None:
        """Send one chunk with one choice."""
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        self.send_event(json.dumps(chunk | {"choices": [choice]}))

    def send_event(self, data: str) -> None:
        """Send one event."""
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def reply(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        """Send a whole response of JSON, of text, or without a body."""
        if self.has("error-without-param") and isinstance(body, dict) and "error" in body:
            del body["error"]["param"]
        text = body if isinstance(body, str) else json.dumps(body)
        content = b"" if body is None else text.encode()
        kind = {"Content-Type": "application/json"}
        length = {"Content-Length": str(len(content))} if status != 204 else {}
        self.begin(status, kind | length | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(content)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """Send the head, with request id and time."""
        self.status = status
        self.send_response_only(status)
        is_stream = "Transfer-Encoding" in headers
        for name, value in headers.items():
            self.send_header(name, value)
        for _ in range(self.count_ids(is_stream)):
            self.send_header("X-Request-ID", self.request_id)
        hides_time = self.has("no-time-on-errors") and status >= 400
        if not hides_time and not (self.has("no-time-on-streams") and is_stream):
            self.send_header("X-Process-Time", self.process_time())
        self.end_headers()

    def count_ids(self, is_stream: bool) -> int:
        """Return how many X-Request-ID headers to send."""
        hides = {
            "no-id-on-404": self.status == 404,
            "no-id-on-503": self.status == 503,
            "no-id-on-preflight": self.command == "OPTIONS",
        }
        if hides.get(self.server.fault):
            return 0
        return 2 if self.has("two-ids-on-streams") and is_stream else 1

    def process_time(self) -> str:
        """Return the time since the request came, as the header says it."""
        seconds = time.monotonic() - self.began
        if self.has("time-of-the-first-step") and self.logged_s is not None:
            seconds = self.logged_s
        if self.has("time-in-milliseconds"):
            seconds *= 1000
        if self.has("time-unlike-the-log"):
            seconds += 1
        return f"{seconds:.6f}" + (" s" if self.has("time-with-unit") else "")


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fault", choices=FAULTS, default="")
    parser.add_argument("--die-after", type=int, default=0, help="requests answered, then none")
    asked = parser.parse_args()
    form = "%(asctime)s | %(levelname)s | %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, datefmt="%Y-%m-%d %H:%M:%S")
    if asked.fault == "port-opens-late":
        time.sleep(LOADING_S)
    with Miniature(asked.port, asked.fault) as server:
        server.n_left = asked.die_after
        if asked.fault == "port-opens-late":
            server.began -= LOADING_S
        server.serve_forever(poll_interval=0.01)


if __name__ == "__main__":
    main()
