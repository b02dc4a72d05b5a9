"""
The smallest correct Tier 3A server.

It loads and warms up by the clock, and says "word" once per token. A fault is a subclass that
overrides one method, so everything that a server can do wrong is a small method here.
"""

import itertools
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conformance.broken.options import OPTIONS, Option

MODEL_ID = "miniature/gemma-3-clock"
NAMES = {MODEL_ID, "gemma-3-clock", "gemma"}
LOADING_S = 0.1
WARMING_S = 0.1
LEGAL_ID = re.compile(r"[!-~]{1,128}")
N_PROMPT_TOKENS = 5
MAX_BODY_BYTES = 16_000_000
CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
WARM_TYPES = ("lm", "multimodal")
LOG = logging.getLogger("miniature")


@dataclass
class Asked:
    """
    A request as it came.

    Attributes:
        target: the raw path with its query.
        path: the same without query and percent signs.
        at_s: when it came, on the monotonic clock.
        request_id: what it is called from here on.
    """

    method: str
    target: str
    path: str
    headers: Message
    body: bytes
    at_s: float
    request_id: str = ""


def unnamed(data: str) -> str:
    """Return a server-sent event that is nothing but its data."""
    return f"data: {data}\n\n"


@dataclass
class Reply:
    """
    A response to be sent.

    Attributes:
        body: JSON, text, or None for nothing.
        events: the data of server-sent events instead of a body.
        event: makes an event of each.
    """

    status: int
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    events: Iterator[str] | None = None
    event: Callable[[str], str] = unnamed


class Refused(Exception):
    """The request ends here, with an error."""

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.reply = Reply(status, error(message, code, param), named)


def error(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's envelope."""
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Miniature:
    """
    One server without its socket; `answer` is the way of a request through it.

    Attributes:
        port_by_variable: its port has to be told by SERVER_PORT, since its flag is what is wrong.
        hangs_up: it closes a connection after each response, without saying so.
        needs_seclusion: nobody sees what is wrong but in a network of its own, see `secluded`.
    """

    port_by_variable = False
    needs_seclusion = False
    hangs_up = False

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.created = int(time.time())
        self.began_s = time.monotonic()
        self.lock = threading.Condition()
        self.n_generating = 0
        self.n_waiting = 0
        self.numbers = itertools.count(1)

    @classmethod
    def option_table(cls) -> Sequence[Option]:
        """Return the options that it knows."""
        return OPTIONS

    # The start

    def before_listening(self) -> None:
        """Do what comes before the port is open."""

    def age_s(self) -> float:
        """Return the time since the start."""
        return time.monotonic() - self.began_s

    def can_load(self) -> bool:
        """Whether there is a model where MODEL_PATH points."""
        path = self.options["model_path"]
        return not path or Path(path).exists()

    def state(self) -> str:
        """Return where the start has come to: loading, warming or ready."""
        if self.age_s() < LOADING_S or not self.can_load():
            return "loading"
        is_warming = self.warms_up() and self.age_s() < LOADING_S + WARMING_S
        return "warming" if is_warming else "ready"

    def warms_up(self) -> bool | None:
        """Whether there is a warm-up; None for types of models that have none."""
        has_one = self.options["model_type"] in WARM_TYPES
        return bool(self.options["mlx_warmup"]) if has_one else None

    # The way of a request

    def answer(self, asked: Asked) -> Reply:
        """Return the response to a request, whatever it is."""
        try:
            return self.route(asked)
        except Refused as refused:
            return self.refusal(asked, refused)

    def refusal(self, asked: Asked, refused: Refused) -> Reply:
        """Return the response to a request that is refused."""
        return refused.reply

    def route(self, asked: Asked) -> Reply:
        """Find who answers."""
        if asked.method == "OPTIONS":
            return Reply(204)
        self.demand_size(asked)
        if asked.path == "/health":
            return self.health()
        if self.state() == "loading":
            return self.not_ready(asked)
        if asked.path == MODELS:
            self.demand_method(asked, "GET", "HEAD")
            return self.models()
        if asked.path.startswith(f"{MODELS}/"):
            self.demand_method(asked, "GET", "HEAD")
            return self.one_model(asked)
        if asked.path == CHAT:
            self.demand_method(asked, "POST")
            return self.chat(asked)
        return self.other(asked)

    def other(self, asked: Asked) -> Reply:
        """Answer a route that isn't there."""
        raise Refused(404, f"no route {asked.path}", "not_found")

    def not_ready(self, asked: Asked) -> Reply:
        """Answer while nothing is loaded."""
        raise Refused(503, "still loading", "model_not_ready", Retry_After="1")

    def demand_size(self, asked: Asked) -> None:
        """Refuse what is too large to be read, as its header says."""
        if int(asked.headers.get("Content-Length") or 0) > MAX_BODY_BYTES:
            raise Refused(413, "too large", "request_too_large", Connection="close")

    def demand_method(self, asked: Asked, *methods: str) -> None:
        """Refuse any other method."""
        if asked.method not in methods:
            allowed = ", ".join(methods)
            raise Refused(405, f"{allowed} only", "method_not_allowed", Allow=allowed)

    # What it tells of itself

    def health(self) -> Reply:
        """Answer GET /health."""
        if self.state() == "loading":
            return Reply(503, self.health_loading())
        return Reply(200, self.health_loaded())

    def health_loading(self) -> dict[str, Any]:
        """Return the six fields without a model."""
        return {
            "status": "ok",
            "model_id": None,
            "model_status": "uninitialized",
            "models_healthy": False,
            "warmup_enabled": None,
            "warmup_completed": None,
        }

    def health_loaded(self) -> dict[str, Any]:
        """Return the six fields with a model."""
        is_enabled = self.warms_up()
        return {
            "status": "ok",
            "model_id": MODEL_ID,
            "model_status": "initialized",
            "models_healthy": True,
            "warmup_enabled": is_enabled,
            "warmup_completed": is_enabled and self.state() == "ready",
        }

    def models(self) -> Reply:
        """Answer GET /v1/models."""
        return Reply(200, {"object": "list", "data": [self.model()]})

    def one_model(self, asked: Asked) -> Reply:
        """Answer GET /v1/models/{id}."""
        wanted = asked.path.removeprefix(f"{MODELS}/")
        if wanted != MODEL_ID:
            raise Refused(404, f"no model {wanted}", "model_not_found", "model")
        return Reply(200, self.model())

    def model(self) -> dict[str, Any]:
        """Return the one model."""
        return {
            "id": MODEL_ID,
            "object": "model",
            "created": self.created,
            "owned_by": "local-mlx",
            "description": "A clock that says one word per tick",
            "context_length": self.options["context_length"],
            "family": "gemma",
            "tags": self.tags(),
            "tier": "3A",
        }

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return ["local", "chat"]

    # Chat

    def chat(self, asked: Asked) -> Reply:
        """Answer POST /v1/chat/completions."""
        body = self.read(asked)
        self.find_model(body)
        self.log_processing(asked)
        if body.get("stream"):
            return self.streamed(asked, self.stream(asked, body))
        with self.permit():
            return Reply(200, self.complete(asked, body))

    def read(self, asked: Asked) -> dict[str, Any]:
        """Return a request's body."""
        try:
            body = json.loads(asked.body)
        except ValueError:
            raise Refused(400, "the body is no JSON", "invalid_json") from None
        if not isinstance(body, dict):
            raise Refused(400, "the body is no object", "invalid_type")
        return body

    def find_model(self, body: dict[str, Any]) -> None:
        """Refuse what names another model."""
        if body.get("model") not in NAMES:
            raise Refused(404, "no such model", "model_not_found", "model")

    def n_tokens(self, body: dict[str, Any]) -> int:
        """Return how many words to say."""
        return int(body.get("max_tokens") or 16)

    def words(self, asked: Asked, body: dict[str, Any]) -> Iterator[str]:
        """Yield the answer, token by token."""
        for _ in range(self.n_tokens(body)):
            self.tick()
            yield "word "

    def tick(self) -> None:
        """Take the time of one token."""
        time.sleep(self.options["token_s"])

    def usage(self, n_tokens: int) -> dict[str, int]:
        """Return the three counts."""
        total = N_PROMPT_TOKENS + n_tokens
        return {
            "prompt_tokens": N_PROMPT_TOKENS,
            "completion_tokens": n_tokens,
            "total_tokens": total,
        }

    def frame(self, kind: str) -> dict[str, Any]:
        """Return what completions and chunks begin with."""
        name = f"{kind}-{next(self.numbers)}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": MODEL_ID}

    def complete(self, asked: Asked, body: dict[str, Any]) -> dict[str, Any]:
        """Return a whole completion."""
        words = list(self.words(asked, body))
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        return self.frame("chat.completion") | {
            "choices": [choice],
            "usage": self.usage(len(words)),
        }

    def streamed(self, asked: Asked, events: Iterator[str]) -> Reply:
        """Return a stream; what is refused is refused before it begins."""
        first = next(events)
        headers = {"Content-Type": "text/event-stream"}
        return Reply(200, headers=headers, events=itertools.chain([first], events))

    def stream(self, asked: Asked, body: dict[str, Any]) -> Iterator[str]:
        """Yield the data of a stream's events."""
        with self.permit():
            frame = self.frame("chat.completion.chunk")
            for chunk in self.chunks(asked, body):
                yield json.dumps(frame | chunk)
        yield "[DONE]"

    def chunks(self, asked: Asked, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what each chunk of a stream adds to its frame."""
        n_tokens = 0
        yield self.choice({"role": "assistant", "content": ""})
        for word in self.words(asked, body):
            n_tokens += 1
            yield self.choice({"content": word})
        yield self.choice({}, "length")
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {"choices": [], "usage": self.usage(n_tokens)}

    def choice(self, delta: dict[str, Any], end: str | None = None) -> dict[str, Any]:
        """Return a chunk with one choice."""
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": end}]}

    # Permits and queue

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Generate inside of this; wait for a permit in the queue, or be refused."""
        with self.lock:
            self.take_permit()
        try:
            yield
        finally:
            with self.lock:
                self.n_generating -= 1
                self.lock.notify_all()

    def has_permit(self) -> bool:
        """Whether one more may generate."""
        return self.n_generating < int(self.options["max_concurrency"])

    def has_place(self) -> bool:
        """Whether one more may wait."""
        return self.n_waiting < int(self.options["queue_size"])

    def take_permit(self) -> None:
        """Take a permit, or wait for one; called with the lock held."""
        if not self.has_permit():
            if not self.has_place():
                self.refuse_full()
            self.n_waiting += 1
            try:
                if not self.lock.wait_for(self.has_permit, self.options["queue_timeout"]):
                    self.refuse_late()
            finally:
                self.n_waiting -= 1
        self.n_generating += 1

    def refuse_full(self) -> None:
        """Refuse what finds no place in the queue."""
        raise Refused(429, "the queue is full", "queue_full", Retry_After="1")

    def refuse_late(self) -> None:
        """Refuse what has waited too long."""
        raise Refused(503, "waited too long", "queue_timeout", Retry_After="1")

    # Request id and time

    def find_id(self, asked: Asked) -> str:
        """Return the client's id, or a new one where it gave none or a hostile one."""
        given = self.given_ids(asked)
        is_legal = len(given) == 1 and LEGAL_ID.fullmatch(given[0]) is not None
        return self.echo(given[0]) if is_legal else self.new_id(given)

    def given_ids(self, asked: Asked) -> list[str]:
        """Return what the client sent."""
        return asked.headers.get_all("X-Request-ID") or []

    def echo(self, given: str) -> str:
        """Return an id that may be used as it is."""
        return given

    def new_id(self, given: list[str]) -> str:
        """Return an id where none was given, or none that may be used."""
        return str(uuid.uuid4())

    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        """Return the X-Request-ID headers of a response."""
        return [asked.request_id]

    def times_of(self, asked: Asked, reply: Reply) -> list[str]:
        """Return the X-Process-Time headers of a response."""
        return [self.time_text(time.monotonic() - asked.at_s)]

    def time_text(self, seconds: float) -> str:
        """Return seconds as the header says them."""
        return f"{seconds:.6f}"

    # The log

    def log_format(self) -> str:
        """Return the form of a line, for logging's Formatter."""
        return "%(asctime)s | %(levelname)s | %(message)s"

    def log_level(self) -> str:
        """Return the least severe level that is written."""
        return str(self.options["log_level"])

    def path_text(self, asked: Asked) -> str:
        """Return a path as it is logged, with nothing in it that could end the line."""
        return quote(asked.path)

    def log_started(self, asked: Asked) -> None:
        """Write the line of a request's start."""
        line = "Request started: %s %s [request_id=%s]"
        LOG.info(line, asked.method, self.path_text(asked), asked.request_id)

    def log_processing(self, asked: Asked) -> None:
        """Write the line that names the model."""
        line = "Processing text request model=%s endpoint=%s [request_id=%s]"
        LOG.info(line, MODEL_ID, self.path_text(asked), asked.request_id)

    def log_completed(self, asked: Asked, status: int) -> None:
        """Write the line of a request's end."""
        duration_s = time.monotonic() - asked.at_s
        line = "Request completed: %s %s status=%d duration=%.3fs [request_id=%s]"
        LOG.info(line, asked.method, self.path_text(asked), status, duration_s, asked.request_id)
