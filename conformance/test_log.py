"""LOG: what the log tells of a request, found by its id."""

import functools
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import pytest

from conformance.answers import JSON_TYPE, LONG_TASK, N_TOKENS, UNKNOWN_ROUTE
from conformance.catalogue import Requirement
from conformance.client import CHAT, Exchange, Headers, NoAnswer, Request, Server
from conformance.launch import Launched, Launcher, Turned
from conformance.serverlog import ServerLog
from conformance.trials import started
from conformance.verdicts import check, not_tested, requirement

HEADER = "X-Request-ID"
STARTED = "Request started"
COMPLETED = "Request completed"
PROCESSING = "Processing text request"
DURATION = re.compile(r"duration=(\d+\.\d{3})s")
LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \| [A-Z]+ +\| \S.*")
READS = ("managed", "log")
MEASURABLE_S = 0.05
AGREES_WITHIN_S = 0.05
LOGGED_WITHIN_S = 0.3
FORGED = {"%0a": b"\n", "%0d": b"\r", "%1b": b"\x1b"}

Build = Callable[[Server, Headers], Request]

REQUESTS: dict[str, Build] = {
    "models": lambda server, headers: server.request("GET", "/v1/models", headers),
    "health": lambda server, headers: server.request("GET", "/health", headers),
    "completion": lambda server, headers: server.chat_request(
        LONG_TASK, headers, max_tokens=N_TOKENS, temperature=0
    ),
    "stream": lambda server, headers: server.chat_request(
        LONG_TASK, headers, max_tokens=N_TOKENS, temperature=0, stream=True
    ),
    "invalid-json": lambda server, headers: server.request(
        "POST", CHAT, [JSON_TYPE, *headers], b'{"model": '
    ),
    "unrouted": lambda server, headers: server.request("GET", UNKNOWN_ROUTE, headers),
    "wrong-method": lambda server, headers: server.request("DELETE", "/v1/models", headers),
}
CHATS = ("completion", "stream")
OTHERS = [kind for kind in REQUESTS if kind not in CHATS]


class Told(NamedTuple):
    """A request that was answered, and the lines of the log with its id."""

    id: str
    answer: Exchange
    lines: list[str]

    def line(self, words: str) -> str:
        """Return the first of its lines with *words*; empty where there is none."""
        return next((line.rstrip() for line in self.lines if words in line), "")


class Left(Exception):
    """The client went away in the middle of an answer."""


@functools.cache
def ask(logged: tuple[Server, ServerLog], kind: str) -> Told:
    """Send a request of that kind, once for all checks, and wait for the line of its end."""
    server, log = logged
    given = f"log-{kind}-{uuid.uuid4()}"
    answer = server.send(REQUESTS[kind](server, [(HEADER, given)]))
    log.wait_for(COMPLETED, given)
    return Told(given, answer, log.about(given))


def names_of(request: Request, server: Server) -> list[str]:
    """Return what a request may be called: a prefix of the URL is perhaps a proxy's."""
    target = request.target
    paths = dict.fromkeys((target, target.removeprefix(server.address.prefix)))
    return [f"{request.method} {path}" for path in paths]


@pytest.mark.parametrize("kind", REQUESTS)
@requirement("LOG-1", profile=READS)
def test_start_is_logged(demand: Requirement, logged: tuple[Server, ServerLog], kind: str) -> None:
    """A request's first line says what was asked, under which id."""
    told = ask(logged, kind)
    wanted = [
        f"{STARTED}: {name} [request_id={told.id}]"
        for name in names_of(told.answer.request, logged[0])
    ]
    line = told.line(STARTED)

    seen = f"logged: {line or 'no such line'}; wanted: {wanted[0]}"
    check(demand, line.endswith(tuple(wanted)), seen, told.answer)


@pytest.mark.parametrize("kind", REQUESTS)
@requirement("LOG-2", profile=READS)
def test_end_is_logged(demand: Requirement, logged: tuple[Server, ServerLog], kind: str) -> None:
    """Its last line says how it ended and how long it took."""
    told = ask(logged, kind)
    names = "|".join(map(re.escape, names_of(told.answer.request, logged[0])))
    wanted = (
        rf"{COMPLETED}: ({names}) status={told.answer.status} {DURATION.pattern} "
        rf"\[request_id={told.id}\]$"
    )
    line = told.line(COMPLETED)

    seen = f"logged: {line or 'no such line'}; wanted: {wanted}"
    check(demand, re.search(wanted, line) is not None, seen, told.answer)


@pytest.mark.parametrize("kind", CHATS)
@requirement("LOG-3", profile=READS)
def test_processing_is_logged(
    demand: Requirement, logged: tuple[Server, ServerLog], kind: str
) -> None:
    """That a request has come to the model is told as well."""
    told = ask(logged, kind)
    line = told.line(PROCESSING)

    seen = f"logged: {line or 'no such line'}"
    check(demand, line.endswith(f"[request_id={told.id}]"), seen, told.answer)


@pytest.mark.parametrize("kind", CHATS)
@requirement("LOG-4", profile=READS)
def test_chat_can_be_followed(
    demand: Requirement, logged: tuple[Server, ServerLog], kind: str
) -> None:
    """From its lines alone one knows which model did what, for how long and with what success."""
    told = ask(logged, kind)
    text = "\n".join(told.lines).replace(told.id, "")
    wanted = {
        "the model's id": re.escape(logged[0].model),
        "the endpoint": re.escape(CHAT),
        "the duration": r"duration\W+\d",
        "the status": rf"status\W+{told.answer.status}\b",
    }
    missing = [name for name, pattern in wanted.items() if not re.search(pattern, text)]

    seen = f"the log doesn't tell {', '.join(missing)}: {told.lines}"
    check(demand, not missing, seen, told.answer)


@pytest.mark.parametrize("kind", CHATS)
@requirement("LOG-5", profile=READS)
def test_duration_is_the_requests(
    demand: Requirement, logged: tuple[Server, ServerLog], kind: str
) -> None:
    """What is logged as its duration is about what its client waited, to the end of a stream."""
    told = ask(logged, kind)
    found = DURATION.search(told.line(COMPLETED))
    waited_s = told.answer.total_s
    if not found:
        not_tested("the log shows no duration for the request's id")
    if waited_s < MEASURABLE_S:
        not_tested(f"the generation took only {waited_s:.3f} s")
    logged_s = float(found[1])

    check(
        demand,
        waited_s / 2 <= logged_s <= waited_s + AGREES_WITHIN_S,
        f"{logged_s:g} s in the log, but the client waited {waited_s:.3f} s",
        told.answer,
    )


@requirement("LOG-6", profile=READS)
def test_lines_have_their_form(demand: Requirement, logged: tuple[Server, ServerLog]) -> None:
    """Moment, level and message can be told apart in every line about a request."""
    told = ask(logged, "completion")
    if not told.lines:
        not_tested("the log does not show requests by their id")
    for line in told.lines:
        check(demand, has_form(line.rstrip()), f"logged: {line}", told.answer)


def has_form(line: str) -> bool:
    """Whether a line begins with a moment that exists, and a level."""
    found = LINE.fullmatch(line)
    try:
        return found is not None and bool(datetime.fromisoformat(found[1]))
    except ValueError:
        return False


def is_logged(launched: Launched) -> bool:
    """Whether a request leaves a line with its id."""
    given = f"level-{uuid.uuid4()}"
    launched.server.get("/v1/models", [(HEADER, given)])
    return bool(launched.log.wait_for(given, within_s=LOGGED_WITHIN_S))


@requirement("LOG-7", profile="managed")
def test_level_is_honoured(demand: Requirement, launcher: Launcher, launched: Launched) -> None:
    """Lines of level INFO are written down to that level, and not above."""
    quiet = Turned(environment={"LOG_LEVEL": "WARNING"})
    loud = Turned(environment={"LOG_LEVEL": "DEBUG"})
    is_quiet = not is_logged(started(demand, launcher, quiet))

    check(demand, is_quiet, f"a request is in the log with {quiet}")
    is_loud = is_logged(launched) or is_logged(started(demand, launcher, loud))
    check(demand, is_loud, f"a request isn't in the log with {loud}")


def check_pair(demand: Requirement, log: ServerLog, request_id: str) -> None:
    """Demand one line of a request's beginning and one of its end."""
    lines = log.about(f"[request_id={request_id}]")
    for words in (STARTED, COMPLETED):
        n = sum(words in line for line in lines)
        check(demand, n == 1, f"{n} lines of the log have {words!r} and the id: {lines}")


def settle(server: Server, log: ServerLog) -> None:
    """Wait for another request's end: the log is written in order, so what came before is there."""
    after = f"after-{uuid.uuid4()}"
    server.get("/health", [(HEADER, after)])
    log.wait_for(COMPLETED, after)


@pytest.mark.parametrize("kind", REQUESTS)
@requirement("LOG-8", profile=READS)
def test_one_start_and_one_end(
    demand: Requirement, logged: tuple[Server, ServerLog], kind: str
) -> None:
    """Good or bad, routed or not, streamed or whole: there are two such lines, no more, no less."""
    told = ask(logged, kind)
    settle(*logged)

    check_pair(demand, logged[1], told.id)


@requirement("LOG-8", profile=READS)
def test_vanished_client_leaves_an_end(
    demand: Requirement, logged: tuple[Server, ServerLog]
) -> None:
    """A client that goes away in the middle of a stream has its two lines as well."""
    server, log = logged
    given = f"log-vanished-{uuid.uuid4()}"

    def leave(piece: bytes) -> None:
        raise Left

    try:
        server.send(REQUESTS["stream"](server, [(HEADER, given)]), leave)
    except Left:
        pass
    else:
        not_tested("the answer had no body to leave in the middle of")
    log.wait_for(COMPLETED, given, within_s=server.timeout_s)
    settle(server, log)

    check_pair(demand, log, given)


@requirement("LOG-8", profile=READS)
def test_paths_write_no_lines(demand: Requirement, logged: tuple[Server, ServerLog]) -> None:
    """Control characters of a path don't reach the log as they are, so no line can be forged."""
    server, log = logged
    given, mark = f"log-path-{uuid.uuid4()}", uuid.uuid4().hex
    with suppress(NoAnswer):  # it may be refused before it is a request
        server.get(f"/{mark}{mark.join(FORGED)}{mark}/end", [(HEADER, given)])
    settle(server, log)
    text = log.text()
    raw = [name for name, control in FORGED.items() if mark.encode() + control in text]

    check(demand, not raw, f"of a path's {', '.join(raw)} the character itself is in the log")
