"""
Servers that are right, and different from the miniature in one thing that nobody forbids.

The suite has to find nothing in them: a false red is as bad as a false green. Each says in which
runs of the proof it may be seen.
"""

import gzip
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from conformance.broken.capable import Capable
from conformance.broken.miniature import (
    MODEL_ID,
    MODELS,
    N_PROMPT_TOKENS,
    Asked,
    Miniature,
    Refused,
    Reply,
)

BOTH = ("as it is", "its surface")
N_CHATS = 7
PLAIN_ID = "clock"
SMALL = 64


class Right(NamedTuple):
    """A server that is right, and the runs in which it is seen."""

    server: type[Miniature]
    runs: tuple[str, ...]


_RIGHT: dict[str, Right] = {}


def right(*runs: str) -> Callable[[type[Miniature]], type[Miniature]]:
    """Register a class as a server that is right, and is seen in *runs*."""

    def register(server: type[Miniature]) -> type[Miniature]:
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", server.__name__).lower()
        _RIGHT[name] = Right(server, runs)
        return server

    return register


def load() -> dict[str, Right]:
    """Return all of them by name."""
    return _RIGHT


@right(*BOTH)
class TurnsAwayNowAndThen(Capable):
    """Each seventh generation is refused at first: there are others."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.n_asked = 0

    def take_permit(self) -> None:
        """Refuse now and then."""
        self.n_asked += 1
        if self.n_asked % N_CHATS == 0:
            raise Refused(429, "there are others", "queue_full", Retry_After="1")
        super().take_permit()


@right("as it is")
class HangsUpOnWhoIsIdle(Capable):
    """A connection that was good for a request isn't kept for another, without a word of that."""

    hangs_up = True


@right(*BOTH)
class CompressesForThoseWhoTakeIt(Capable):
    """A body is compressed for whoever doesn't refuse that."""

    def answer(self, asked: Asked) -> Reply:
        """Compress what may be."""
        reply = super().answer(asked)
        if asked.headers.get("Accept-Encoding") == "identity" or reply.body is None:
            return reply
        headers = reply.headers | {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return Reply(reply.status, gzip.compress(json.dumps(reply.body).encode()), headers)


@right(*BOTH)
class SendsOnToASlash(Capable):
    """The list of models lives behind a slash; who asks without one is sent on."""

    def route(self, asked: Asked) -> Reply:
        """Send on, or find who answers."""
        if asked.path == MODELS and asked.method == "GET" and self.state() != "loading":
            return Reply(307, None, {"Location": f"{MODELS}/"})
        asked.path = MODELS if asked.path == f"{MODELS}/" else asked.path
        return super().route(asked)


@right(*BOTH)
class AnswersToAnyName(Capable):
    """One model is loaded; it answers, whatever it is called."""

    def find_model(self, body: dict[str, Any]) -> None:
        """Be content."""


@right("as it is")
class HasNoWarmUp(Capable):
    """Models of its kind have no warm-up, and are ready as soon as they are loaded."""

    def warms_up(self) -> bool | None:
        """Say that there is none."""
        return None


@right(*BOTH)
class IsNamedWithoutASlash(Capable):
    """Its model's id is a plain word, with its family's name in it."""

    def model(self) -> dict[str, Any]:
        """Return the one model."""
        return super().model() | {"id": PLAIN_ID}

    def health_loaded(self) -> dict[str, Any]:
        """Return the six fields with a model."""
        return super().health_loaded() | {"model_id": PLAIN_ID}

    def find_model(self, body: dict[str, Any]) -> None:
        """Take the word for the model."""
        if body.get("model") == PLAIN_ID:
            body["model"] = MODEL_ID
        super().find_model(body)

    def one_model(self, asked: Asked) -> Reply:
        """Answer GET /v1/models/{id}."""
        asked.path = asked.path.replace(PLAIN_ID, MODEL_ID)
        return super().one_model(asked)


@right(*BOTH, "under load")
class OneAtATime(Capable):
    """There is one permit, as the guide recommends, and nobody is told to wait elsewhere."""

    def has_permit(self) -> bool:
        """Whether nobody generates."""
        return self.n_generating < 1


@right(*BOTH)
class OffersOnlyChats(Capable):
    """It chats, and promises nothing besides."""

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return ["local", "chat"]


@right("anybody's")
class SpeaksOnlyOpenai(Capable):
    """It speaks OpenAI's language and nothing of ours: no health, no ids, no times, no tags."""

    def health(self) -> Reply:
        """Have no such route."""
        raise Refused(404, "no route /health", "not_found")

    def model(self) -> dict[str, Any]:
        """Return the model as OpenAI does."""
        known = super().model()
        return {name: known[name] for name in ("id", "object", "created", "owned_by")}

    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        """Name no request."""
        return []

    def times_of(self, asked: Asked, reply: Reply) -> list[str]:
        """Tell no time."""
        return []


@right("its surface")
class HasNextToNoContext(Capable):
    """Its context holds a greeting and a short answer, and no tools."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options | {"context_length": SMALL})

    def n_tokens(self, body: dict[str, Any]) -> int:
        """Say no more than there is room for."""
        n_read = N_PROMPT_TOKENS + max(1, len(body.get("messages") or ())) - 1
        return min(super().n_tokens(body), SMALL - n_read)

    def demand_supported(self, body: dict[str, Any]) -> None:
        """Refuse what is too long."""
        if body.get("tools"):
            raise Refused(400, "that is too long", "context_length_exceeded", "messages")
        super().demand_supported(body)
