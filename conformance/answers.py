"""One answer of each kind that a server gives, asked for once and shared by the checks."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from conformance.client import CHAT, Exchange, NoAnswer, Server, tags_of
from conformance.verdicts import inapplicable, not_tested

GREETING = "Hello"
# Long in its answer, and short enough itself for a context of 64 tokens.
LONG_TASK = "Please count from one to one hundred in words, slowly and without leaving any out."
SMALL_CONTEXT = 256
TOO_LONG = "context_length_exceeded"  # OpenAI's code
N_TOKENS = 64
CHATS = frozenset({"completion", "stream"})
OTHER_WORK = frozenset({"embeddings", "rerank"})
UNKNOWN_MODEL = "tier3a-conformance/no-such-model"
UNKNOWN_ROUTE = "/v1/no-such-route"
PREFLIGHT = [
    ("Origin", "http://localhost:3000"),
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "content-type"),
]
JSON_TYPE = ("Content-Type", "application/json")


class Kind(NamedTuple):
    """A kind of response: how to provoke it, and which statuses show that it came."""

    ask: Callable[[Server], Exchange]
    statuses: range


class Question(NamedTuple):
    """
    A JSON body to post.

    Attributes:
        fields: all of it but the model.
        capability: the tags that the model must have, such as `messages, tools`; empty where any
            that can chat will do.
        headers: what is sent besides.
    """

    path: str
    fields: Mapping[str, object]
    capability: str = ""
    headers: tuple[tuple[str, str], ...] = ()


ANY = range(200, 600)
GOOD = range(200, 300)
BAD = range(400, 600)

KINDS = {
    "models": Kind(lambda server: server.get("/v1/models"), GOOD),
    "model": Kind(lambda server: server.get(f"/v1/models/{quote(server.model)}"), GOOD),
    "health": Kind(lambda server: server.get("/health"), ANY),
    "completion": Kind(
        lambda server: server.chat(LONG_TASK, max_tokens=N_TOKENS, temperature=0), GOOD
    ),
    "stream": Kind(
        lambda server: server.chat(GREETING, max_tokens=16, temperature=0, stream=True), GOOD
    ),
    "usage-stream": Kind(
        lambda server: server.chat(
            GREETING,
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ),
        GOOD,
    ),
    "head": Kind(lambda server: server.send(server.request("HEAD", "/health")), ANY),
    "preflight": Kind(lambda server: server.send(server.request("OPTIONS", CHAT, PREFLIGHT)), ANY),
    "unrouted": Kind(lambda server: server.get(UNKNOWN_ROUTE), BAD),
    "wrong-method": Kind(
        lambda server: server.send(server.request("DELETE", "/v1/models", body=b"")), BAD
    ),
    "invalid-json": Kind(
        lambda server: server.send(server.request("POST", CHAT, [JSON_TYPE], b'{"model": ')), BAD
    ),
    "unknown-model": Kind(lambda server: server.get(f"/v1/models/{UNKNOWN_MODEL}"), BAD),
    "chat-unknown-model": Kind(
        lambda server: server.chat(GREETING, model=UNKNOWN_MODEL, max_tokens=1), BAD
    ),
}
ERRORS = [name for name, kind in KINDS.items() if kind.statuses is BAD]
OTHERS = [name for name in KINDS if name not in ERRORS]


def context_of(models: Iterable[Mapping[str, object]], model: object) -> int:
    """Return the context length that *models* tell of one; 0 where they don't."""
    found = [each.get("context_length") for each in models if each.get("id") == model]
    return found[0] if found and isinstance(found[0], int) else 0


class Answers:
    """
    The answers of one server by kind; each is asked for when it is first wanted.

    *assumed* is what the model to ask can do, whatever its tags say.
    """

    def __init__(self, server: Server, assumed: Iterable[str] = ()) -> None:
        self._server = server
        self._assumed = frozenset(assumed)
        self._known: dict[str, Exchange | NoAnswer] = {}
        self._n_questions = 0

    def of(self, kind: str) -> Exchange:
        """
        Return the answer of that kind, whatever its status.

        Raises:
            NoAnswer: it didn't come; the server isn't asked again.
        """
        return self._once(kind, KINDS[kind].ask)

    def truly_of(self, kind: str) -> Exchange:
        """Return the answer if its status is of that kind; otherwise leave the check open."""
        found = self.of(kind)
        if kind == "chat-unknown-model" and found.status in GOOD:
            inapplicable("it answers to any model's name")
        if found.status not in KINDS[kind].statuses:
            if kind in CHATS:
                self.demand_chat()
            not_tested(f"asked for the kind {kind!r}, got status {found.status}")
        return found

    def to(self, question: Question) -> Exchange:
        """
        Return the answer to a question, whatever its status; equal questions are asked once.

        Raises:
            NoAnswer: it didn't come; the server isn't asked again.
        """
        body = self._body(question)
        key = f"{question.path} {json.dumps(body, sort_keys=True)}"
        self._n_questions += 1
        given = ("X-Request-ID", f"conformance-question-{self._n_questions}")
        headers = [given, *question.headers]
        found = self._once(key, lambda server: server.post(question.path, body, headers))
        self._demand_room(found, body["model"])
        return found

    def _demand_room(self, answer: Exchange, model: object) -> None:
        """Let the check not apply where a question is too long for a model that has next to no context."""
        error = answer.fields().get("error")
        code = error.get("code") if isinstance(error, dict) else None
        length = context_of(self._models(), model) if code == TOO_LONG else 0
        if 0 < length < SMALL_CONTEXT and answer.status == 400:
            inapplicable(f"it is too long for a context of {length} tokens")

    def demand_uncut(self, answer: Exchange) -> None:
        """Let the check not apply where an answer was cut by the end of next to no context."""
        fields = answer.fields()
        usage = fields.get("usage")
        n_tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        length = context_of(self._models(), fields.get("model"))
        if 0 < length < SMALL_CONTEXT and n_tokens == length:
            inapplicable(f"it is too long for a context of {length} tokens")

    def refusal_of(self, wrong: str, question: Question) -> Exchange:
        """Return the answer to a wrong question; that a name of a model is wrong isn't a matter of course."""
        answer = self.to(question)
        if wrong == "unknown-model" and answer.status in GOOD:
            inapplicable("it answers to any model's name")
        return answer

    def anew(self, question: Question) -> Exchange:
        """Return an answer of its own, however often the same was asked."""
        return self._server.post(question.path, self._body(question), question.headers)

    def capable_model(self, capability: str) -> str:
        """
        Return the model to ask for what the tags in *capability* promise.

        That is the model to ask in general if it has them, by its tags or by --assume, or else the
        first listed that has them. Where none has, the check doesn't apply. Without a capability
        any model that can chat will do.
        """
        chosen = self._server.model
        if not capability:
            return chosen
        wanted = set(capability.split(", "))
        if wanted <= self._assumed:
            return chosen
        tagged = [each for each in self._models() if wanted <= self._tags_of(each)]
        ids = [str(each.get("id")) for each in tagged]
        if not ids:
            inapplicable(f"no model is tagged {capability!r}")
        return chosen if chosen in ids else ids[0]

    def _tags_of(self, model: dict[str, object]) -> set[str]:
        """Return a listed model's tags, and what is assumed where it is the one to ask."""
        return tags_of(model) | (self._assumed if model.get("id") == self._server.model else set())

    def _models(self) -> list[dict[str, object]]:
        models = self.truly_of("models").fields().get("data")
        if not isinstance(models, list):
            not_tested("the list of models can't be read")
        return [each for each in models if isinstance(each, dict)]

    def demand_chat(self) -> None:
        """Let the check not apply where every model says that it makes something else of texts."""
        tags = [self._tags_of(each) for each in self._models()]
        if tags and all("chat" not in each and not OTHER_WORK.isdisjoint(each) for each in tags):
            inapplicable("no model chats")

    def _body(self, question: Question) -> dict[str, object]:
        if question.path == CHAT and not question.capability:
            self.demand_chat()
        return {"model": self.capable_model(question.capability), **question.fields}

    def _once(self, key: str, ask: Callable[[Server], Exchange]) -> Exchange:
        if key not in self._known:
            try:
                self._known[key] = ask(self._server)
            except NoAnswer as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, NoAnswer):
            raise found
        self._server.journal.looked_at.append(found)
        return found
