"""RID: `X-Request-ID`."""

import re
import string
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from conformance.answers import GREETING, KINDS, N_TOKENS, UNKNOWN_ROUTE, Answers
from conformance.catalogue import Requirement
from conformance.client import CHAT, Exchange, NoAnswer, Request, Server
from conformance.launch import Launched, Launcher
from conformance.odd import REFUSALS, refusal_of
from conformance.serverlog import ServerLog
from conformance.start import UNREADY, Moment
from conformance.verdicts import check, inapplicable, not_tested, requirement

HEADER = "X-Request-ID"
UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
USABLE = re.compile(rb"[!-~]{1,128}")
N_AT_ONCE = 16
N_ROUNDS = 3
N_LOGGED = 6
LEGAL = {
    "plain": "req-tier2-abc123",
    "uuid": "6f1c9d0e-2b7a-4c55-9a3e-8d1f0b2c4e6a",
    "one": "7",
    "case": "MiXeD-Case-ID",
    "punctuation": string.punctuation,
    "percent": "a%20b%0d%0ac",
    "longest": "x" * 128,
}
HOSTILE = {
    "escape": [b"evil\x1b[31mred"],
    "delete": [b"evil\x7f"],
    "tab": [b"evil\ttab"],
    "nul": [b"evil\x00nul"],
    "long": [b"evil" + b"x" * 125],
    "latin": [b"evil-\xe9"],
    "utf8": ["evil-\u00fc\u2028".encode()],
    "two": [b"evil-1", b"evil-2"],
}


def sole_id(demand: Requirement, answer: Exchange) -> str:
    """Return the response's one request id; none or several break the requirement."""
    ids = answer.values("x-request-id")
    check(demand, len(ids) == 1, f"{len(ids)} {HEADER} headers: {ids}", answer)
    return ids[0]


@pytest.mark.parametrize("kind", LEGAL)
@requirement("RID-1")
def test_given_id_comes_back(demand: Requirement, server: Server, kind: str) -> None:
    """Whatever visible characters a client chose, it gets them back as they were."""
    given = LEGAL[kind]
    answer = server.get("/v1/models", [(HEADER, given)])

    check(demand, answer.request_id == given, f"{HEADER}: {answer.request_id}", answer)


@pytest.mark.parametrize("kind", ["health", "unrouted", "completion"])
@requirement("RID-2")
def test_missing_id_becomes_a_uuid(demand: Requirement, answers: Answers, kind: str) -> None:
    """Without an id of the client's, the server makes a UUID."""
    answer = answers.of(kind)

    is_uuid = UUID.fullmatch(answer.request_id) is not None
    check(demand, is_uuid, f"{HEADER}: {answer.request_id or 'none'}", answer)


@requirement("RID-3")
def test_each_request_gets_a_fresh_id(demand: Requirement, server: Server) -> None:
    """Ids are never given twice, on new connections or on one kept open."""
    request = server.request("GET", "/health")
    found = [server.send(request) for _ in range(3)]
    with server.connect() as connection:
        found.append(connection.exchange(request))
        if connection.is_reusable:
            with suppress(NoAnswer):  # a server may close a connection whenever nothing is asked
                found.append(connection.exchange(request))
    ids = [sole_id(demand, answer) for answer in found]

    check(demand, len(set(ids)) == len(ids), f"ids: {ids}", found[-1])


@pytest.mark.parametrize("kind", KINDS)
@requirement("RID-4")
def test_header_on_every_response(demand: Requirement, answers: Answers, kind: str) -> None:
    """Success or error, routed or not, streamed or without a body: there is one id, just one."""
    sole_id(demand, answers.truly_of(kind))


@pytest.mark.parametrize("kind", ["not-ready", "not-ready-other-route"])
@requirement("RID-4", profile=UNREADY)
def test_header_while_not_ready(demand: Requirement, moments: list[Moment], kind: str) -> None:
    """What a server says that isn't ready carries an id as well, whatever other routes say."""
    if kind == "not-ready":
        found = [moment.health for moment in moments if moment.health.status == 503]
    else:
        found = [moment.other for moment in moments if moment.other]
        if not found:
            inapplicable("no other route was asked between two 503s of /health")
    for answer in found or not_tested("no 503 was seen"):
        sole_id(demand, answer)


@pytest.mark.closing
@requirement("RID-4", profile=("wire", "openai"))
def test_header_on_all_that_was_seen(demand: Requirement, server: Server, answers: Answers) -> None:
    """Of all responses in this run, on whichever route and with whatever status, none lacks it."""
    answers.of("models")
    for answer in server.journal.seen:
        sole_id(demand, answer)


@pytest.mark.parametrize("kind", REFUSALS)
@requirement("RID-4", profile="managed")
def test_header_on_rare_refusals(
    demand: Requirement, launcher: Launcher, launched: Launched, kind: str
) -> None:
    """What can't be had from any server for nothing carries an id, too."""
    sole_id(demand, refusal_of(kind, launcher, launched))


@pytest.mark.closing
@requirement("RID-1", profile=("wire", "openai"))
def test_given_id_came_back_always(demand: Requirement, server: Server, answers: Answers) -> None:
    """Wherever a client chose a name in this run, it got it back, with errors as well."""
    answers.of("models")
    for answer in server.journal.seen:
        check_is_echoed(demand, answer)


@pytest.mark.parametrize("kind", REFUSALS)
@requirement("RID-1", profile="managed")
def test_given_id_comes_back_with_rare_refusals(
    demand: Requirement, launcher: Launcher, launched: Launched, kind: str
) -> None:
    """It does with what can't be had from any server for nothing, too."""
    check_is_echoed(demand, refusal_of(kind, launcher, launched))


def check_is_echoed(demand: Requirement, answer: Exchange) -> None:
    """Demand the id that was sent, where that is legal; that there is none is told by RID-4."""
    sent = [value for name, value in answer.request.headers if name.lower() == HEADER.lower()]
    is_legal = len(sent) == 1 and USABLE.fullmatch(sent[0])
    if is_legal and answer.request_id:
        given = sent[0].decode()
        check(demand, answer.request_id == given, f"{HEADER}: {answer.request_id}", answer)


@pytest.mark.parametrize("name", ["x-request-id", "X-REQUEST-ID", "x-ReQuEsT-iD"])
@requirement("RID-5")
def test_header_name_in_any_case(demand: Requirement, server: Server, name: str) -> None:
    """The header is found however its name is spelled."""
    answer = server.get("/v1/models", [(name, "any-case-1")])

    check(demand, answer.request_id == "any-case-1", f"{HEADER}: {answer.request_id}", answer)


@requirement("RID-6")
def test_no_cross_talk(demand: Requirement, server: Server) -> None:
    """Requests side by side, one of them generating, keep their own ids."""
    paths = ["/v1/models", "/health", UNKNOWN_ROUTE]
    requests = [
        server.request("GET", paths[number % 3], [(HEADER, f"at-once-{number}")])
        for number in range(N_AT_ONCE * N_ROUNDS - 1)
    ]
    last = [(HEADER, f"at-once-{len(requests)}")]
    requests.append(server.chat_request(GREETING, last, max_tokens=2))
    barrier = threading.Barrier(N_AT_ONCE)

    def send(request: Request) -> Exchange:
        barrier.wait(server.timeout_s)
        return server.send(request)

    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        found = list(pool.map(send, requests))

    for number, answer in enumerate(found):
        seen = f"{HEADER}: {answer.request_id or 'none'}"
        check(demand, answer.request_id == f"at-once-{number}", seen, answer)


@pytest.mark.parametrize("route", ["models", "unrouted", "invalid-json"])
@requirement("RID-7", profile=("managed", "log"))
def test_log_carries_the_id(
    demand: Requirement, logged: tuple[Server, ServerLog], route: str
) -> None:
    """The lines about a request's start and end can be found by its id."""
    server, log = logged
    given = f"log-{route}-{uuid.uuid4()}"
    request = {
        "models": server.request("GET", "/v1/models", [(HEADER, given)]),
        "unrouted": server.request("GET", UNKNOWN_ROUTE, [(HEADER, given)]),
        "invalid-json": server.request("POST", CHAT, [(HEADER, given)], b"{"),
    }[route]
    answer = server.send(request)

    for words in ("Request started", "Request completed"):
        line = log.wait_for(words, f"[request_id={given}]")
        check(demand, bool(line), f"no line of the log has {words!r} and the id", answer)


@requirement("RID-7", profile=("managed", "log"))
def test_log_keeps_ids_apart(demand: Requirement, logged: tuple[Server, ServerLog]) -> None:
    """Of requests that run at the same time each has its own lines, with its own path."""
    server, log = logged
    mark = uuid.uuid4()
    given = [f"log-at-once-{number}-{mark}" for number in range(N_LOGGED)]
    requests = [
        server.chat_request(GREETING, [(HEADER, each)], max_tokens=N_TOKENS, stream=bool(at % 2))
        for at, each in enumerate(given)
    ]
    with ThreadPoolExecutor(N_LOGGED) as pool:
        found = list(pool.map(server.send, requests))

    for each, answer in zip(given, found, strict=True):
        for words in ("Request started", "Request completed"):
            log.wait_for(words, f"[request_id={each}]")
            n = sum(words in line for line in log.about(f"[request_id={each}]"))
            check(demand, n == 1, f"{n} lines of the log have {words!r} and the id", answer)


@pytest.mark.parametrize("kind", HOSTILE)
@requirement("RID-8")
def test_hostile_id_is_replaced(demand: Requirement, server: Server, kind: str) -> None:
    """An id that could forge a log line or a header is replaced, or its request refused."""
    headers = [(HEADER, value) for value in HOSTILE[kind]]
    request = server.request("GET", "/health", headers)
    try:
        with server.connect() as connection:
            answer = connection.exchange(request)
    except NoAnswer as error:
        if "not HTTP" in str(error) or "within" in str(error):
            raise
        return  # refused before it was a request
    is_refused = answer.status in {400, 431} and "evil" not in answer.request_id
    is_replaced = UUID.fullmatch(answer.request_id) is not None

    check(demand, is_refused or is_replaced, f"{HEADER}: {answer.request_id}", answer)


@requirement("RID-8", profile=("managed", "log"))
def test_hostile_id_stays_out_of_the_log(
    demand: Requirement, logged: tuple[Server, ServerLog]
) -> None:
    """No byte of a hostile id reaches the log as it was sent."""
    server, log = logged
    mark = f"evil-{uuid.uuid4()}".encode()
    values = [mark + b"\x1b[31m", mark + b"\xff", mark + b"x" * 128]
    for value in values:
        with server.connect() as connection:
            connection.exchange(server.request("GET", "/health", [(HEADER, value)]))
    # The log is written in order: once this request's line is there, the others' are too.
    after = f"after-{uuid.uuid4()}"
    answer = server.get("/health", [(HEADER, after)])
    if not log.wait_for("Request completed", after):
        not_tested("the log does not show requests by their id")

    found = [value for value in values if value in log.text()]
    check(demand, not found, f"raw in the log: {found}", answer)


@requirement("RID-9")
def test_curl_without_content_type_is_answered(demand: Requirement, server: Server) -> None:
    """What curl -d sends, with a form's content type, is read as the JSON that it is."""
    chat = server.chat_request(GREETING, [(HEADER, "req-tier2-curl")], max_tokens=2)
    curl = [
        ("User-Agent", "curl/8.5.0"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        (HEADER, "req-tier2-curl"),
    ]
    answer = server.send(server.request("POST", CHAT, curl, chat.body))

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, answer.request_id == "req-tier2-curl", "another id", answer)
