"""A plain client that does what the guide says, and some that don't, each in one thing."""

import http.client
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from conformance.clients.judge import Record
from conformance.clients.stage import CHAT, played

PAUSE_S = 0.12
N_CHATS, N_STREAMS = 2, 3
N_TRIES = 5
TIMEOUT_S = 10.0

_WRONG: dict[str, tuple[type["Plain"], frozenset[str]]] = {}


class Plain:
    """
    The client that is right.

    Attributes:
        model: the one to ask; empty until it is chosen.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.model = ""

    def live(self) -> None:
        """Do all that the guide tells a Tier 2 to do, once."""
        self.wait()
        self.choose()
        for number in range(N_CHATS):
            self.ask({"max_tokens": 16, "seed": number})
        for number in range(N_CHATS, N_CHATS + N_STREAMS):
            self.look()
            self.pause()
            self.stream({"max_tokens": 16, "seed": number, "stream": True})

    def wait(self) -> None:
        """Look at /health until the server is ready."""
        while not self.is_ready(*self.look()):
            self.pause()

    def is_ready(self, status: int, health: dict[str, Any]) -> bool:
        """Whether the server may be asked."""
        is_warm = not health.get("warmup_enabled") or bool(health.get("warmup_completed"))
        return status == 200 and health.get("models_healthy") is True and is_warm

    def look(self) -> tuple[int, dict[str, Any]]:
        """Look at /health once."""
        status, _, body = self.call("GET", "/health")
        return status, json.loads(body)

    def pause(self) -> None:
        """Let some time pass between two looks."""
        time.sleep(PAUSE_S)

    def choose(self) -> None:
        """Take the first model that can chat."""
        _, _, body = self.call("GET", "/v1/models")
        models = json.loads(body)["data"]
        self.model = next(each["id"] for each in models if "chat" in each["tags"])

    def ask(self, fields: dict[str, Any]) -> bytes:
        """Ask once, and again where the server says when."""
        name = self.new_id()
        for _ in range(N_TRIES):
            status, after_s, body = self.post(fields, name)
            if status == 200 or after_s is None:
                break
            self.wait_for(after_s)
        return body

    def stream(self, fields: dict[str, Any]) -> None:
        """Ask for a stream, and take what comes of it."""
        self.hear(self.ask(fields))

    def hear(self, events: bytes) -> None:
        """Take a stream's events, and tell its user if it is no whole answer."""

    def wait_for(self, after_s: float) -> None:
        """Wait as long as the server says."""
        time.sleep(after_s)

    def new_id(self) -> str:
        """Return a name for a chat."""
        return f"tier2-{uuid.uuid4()}"

    def post(self, fields: dict[str, Any], name: str) -> tuple[int, float | None, bytes]:
        """Send a chat once."""
        messages = [{"role": "user", "content": "Hello"}]
        return self.call("POST", CHAT, {"model": self.model, "messages": messages, **fields}, name)

    def call(
        self, method: str, path: str, body: object = None, name: str = ""
    ) -> tuple[int, float | None, bytes]:
        """Exchange one request; return status, Retry-After in seconds, and what came of the body."""
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_S)
        headers = {"Content-Type": "application/json"} | ({"X-Request-ID": name} if name else {})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            after = response.headers.get("Retry-After")
            try:
                content = response.read()
            except http.client.IncompleteRead as cut:
                content = cut.partial
            return response.status, float(after) if after else None, content
        finally:
            connection.close()


def breaks(*ids: str) -> Callable[[type[Plain]], type[Plain]]:
    """Register a client that breaks the requirements of *ids*, the first on purpose."""

    def register(client: type[Plain]) -> type[Plain]:
        _WRONG[client.__name__] = (client, frozenset(ids))
        return client

    return register


def load() -> dict[str, tuple[type[Plain], frozenset[str]]]:
    """Return the wrong clients by name, each with what it breaks."""
    return _WRONG


def lived(client: type[Plain]) -> Record:
    """Let a client live against a server that is played; what it raises is a status of 1."""
    with played() as stage:
        status = 0
        try:
            client(stage.url.removeprefix("http://")).live()
        except Exception:  # whatever ends a client is what its process would end with
            status = 1
        return Record(tuple(sorted(stage.seen, key=lambda each: each.at_s)), status)


@breaks("CLIENT-1", "CLIENT-2", "CLIENT-5")
class AsksAtOnce(Plain):
    def live(self) -> None:
        self.model = "gemma"
        self.ask({"seed": 99})
        super().live()


@breaks("CLIENT-2")
class IsContentWithHealth(Plain):
    def is_ready(self, status: int, health: dict[str, Any]) -> bool:
        return status == 200 and health["models_healthy"] is True


@breaks("CLIENT-3", "CLIENT-13")
class GivesUp(Plain):
    def wait(self) -> None:
        if not self.is_ready(*self.look()):
            raise TimeoutError("the server isn't ready")


@breaks("CLIENT-4")
class LooksWithoutPause(Plain):
    def pause(self) -> None:
        pass


@breaks("CLIENT-5")
class TakesTheFirstModel(Plain):
    def choose(self) -> None:
        self.model = json.loads(self.call("GET", "/v1/models")[2])["data"][0]["id"]


@breaks("CLIENT-5")
class KnowsItsModelAlready(Plain):
    def choose(self) -> None:
        self.model = "gemma"


@breaks("CLIENT-6")
class NamesNothing(Plain):
    def new_id(self) -> str:
        return ""


@breaks("CLIENT-6")
class NamesWithSpaces(Plain):
    def new_id(self) -> str:
        return f"tier 2 {uuid.uuid4()}"


@breaks("CLIENT-7")
class NamesAllAlike(Plain):
    def new_id(self) -> str:
        return "tier2"


@breaks("CLIENT-8")
class ComesBackAtOnce(Plain):
    def wait_for(self, after_s: float) -> None:
        pass


@breaks("CLIENT-8", "CLIENT-10")
class NeverComesBack(Plain):
    def ask(self, fields: dict[str, Any]) -> bytes:
        return self.post(fields, self.new_id())[2]


@breaks("CLIENT-9", "CLIENT-13")
class EndsWithAnError(Plain):
    def hear(self, events: bytes) -> None:
        if b'"error"' in events:
            raise RuntimeError("the stream broke")


@breaks("CLIENT-10", "CLIENT-13")
class EndsWithAStream(Plain):
    def hear(self, events: bytes) -> None:
        if b"[DONE]" not in events:
            raise RuntimeError("the stream was cut off")


@breaks("CLIENT-11")
class AsksForTooMuch(Plain):
    def post(self, fields: dict[str, Any], name: str) -> tuple[int, float | None, bytes]:
        return super().post(fields | {"max_tokens": 4096}, name)


@breaks("CLIENT-12")
class LooksOnlyAtFirst(Plain):
    def live(self) -> None:
        self.wait()
        self.choose()
        for number in range(N_CHATS):
            self.ask({"seed": number})
        for number in range(N_STREAMS):
            self.stream({"seed": number, "stream": True})


@breaks("CLIENT-13")
class FailsAtItsEnd(Plain):
    def live(self) -> None:
        super().live()
        raise RuntimeError("it was all in vain")
