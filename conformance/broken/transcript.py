"""
What a server does on the wire, in words that come out alike for every run of a correct one.

Before a fault counts as found, it has to be there: its transcript differs from that of the
correct server. A transcript judges nothing and knows no requirement. It is a series of probes,
each a key and what was seen; ids, times and dates are replaced by what they have in common.
"""

import importlib
import pkgutil
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from urllib.parse import quote

from conformance import questions
from conformance.answers import JSON_TYPE, KINDS, Question
from conformance.broken.sequels import SEQUELS, asking, posted, visits
from conformance.client import CHAT, Connection, Exchange, Journal, NoAnswer, Server
from conformance.launch import FLAGS, Launched, Launcher, Turned, free_port, other_host
from conformance.questions.responses import response

TIMEOUT_S = 8.0
SLOW_S = 0.5
STEP_S = 0.01
START_S = 1.5
HOST = "127.0.0.1"
FORM = ("Content-Type", "application/x-www-form-urlencoded")
N_AT_ONCE = 6
QUICK_S = 0.0001
MANY = 4
LEFT_TO_CHANCE = {"BY_CHANCE"}
LEFT_S = 1.0
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
POLLED = re.compile(r"GET /(health|v1/models) |GET /(health|v1/models)$")
PLAIN = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "MOMENT"),
    (re.compile(r"\b\d{10}\b"), "SECONDS"),
    (re.compile(r"\b\d{13}\b"), "MILLISECONDS"),
    (re.compile(r"duration=0\.\d{3}s"), "duration=SHORT"),
    (re.compile(r"127\.0\.0\.\d:\d+|\[::1\]:\d+|port=\d+"), "ADDRESS"),
)

Pair = tuple[str, str]
Ask = Callable[[Server], Exchange]
Probe = Callable[[Launcher], Iterator[Pair]]


def transcript(words: list[str], order: list[str]) -> Iterator[Pair]:
    """
    Yield what is seen of the server that *words* start, probe by probe.

    Args:
        words: the command, with {port} where its port has to stand.
        order: names of PROBES.
    """
    launcher = Launcher(
        shlex.join(words),
        lambda url: Server(url, timeout_s=TIMEOUT_S, journal=Journal()),
    )
    try:
        for name in order:
            for key, seen in PROBES[name](launcher):
                yield f"{name}: {key}", seen
    finally:
        launcher.stop()


def difference(words: list[str], expected: dict[str, str], order: list[str]) -> str:
    """Return the first probe that shows something else than *expected*; empty if none does."""
    for key, seen in transcript(words, order):
        if seen != expected.get(key):
            return f"{key}: {seen[:300]!r} instead of {expected.get(key, '')[:300]!r}"
    return ""


def requests(launcher: Launcher) -> Iterator[Pair]:
    """Ask for one answer of each kind, with all that is odd about some; then read the log."""
    with _running(launcher, Turned()) as launched:
        server = launched.server
        yield "start", " > ".join(_start(launched))
        for name, ask in _ASKS.items():
            yield name, _shown(server, ask)
        yield "ids in a row", _plain(" ".join(server.get("/health").request_id for _ in range(2)))
        yield "vanished client", _vanished(launched)
        yield "log", _log(launched)
        yield "crowd", _crowd(server)
        yield "log of a crowd", _log_of_crowd(launched)
        for n_chats, is_streamed in ((1, False), (3, True), (12, True)):
            seen = _health_meanwhile(server, n_chats, is_streamed)
            yield f"health meanwhile, {n_chats} {is_streamed}", seen
        yield "pace", _pace(server)
        yield "models later", _models_later(server)


def unready(launcher: Launcher) -> Iterator[Pair]:
    """Look at a server that never gets its model."""
    with _running(launcher, Turned(environment={"MODEL_PATH": NO_MODEL})) as launched:
        for path in ("/health", "/v1/models"):
            yield path, _shown(launched.server, lambda server, path=path: server.get(path))  # type: ignore[misc]


def surface(launcher: Launcher) -> Iterator[Pair]:
    """Ask all that the checks of the OpenAI surface ask, without waiting for its tokens."""
    with _running(launcher, Turned({"--token-s": str(QUICK_S)})) as launched:
        server = launched.server
        for name, question in _questions():
            yield name, _shown(server, asking(question))
        for name, ask in SEQUELS.items():
            yield name, _shown(server, ask)
        yield "visits", str(visits(server))


def option(variable: str, launcher: Launcher) -> Iterator[Pair]:
    """Turn an option by its flag and by its variable, well and badly; look at what comes."""
    port = free_port() if variable == "SERVER_PORT" else 0
    host = (other_host() or HOST) if variable == "SERVER_HOST" else HOST
    value = str(port) if port else _VALUES.get(variable, host)
    one = {} if variable == "MAX_CONCURRENCY" else {"MAX_CONCURRENCY": "1"}
    flag, alone = Turned({FLAGS[variable]: value}, one), Turned({}, one | {variable: value})
    yield "by flag", _settled(launcher, flag, host, port)
    yield "by variable", _settled(launcher, alone, host, port)
    yield "by flag, badly", _settled(launcher, Turned({FLAGS[variable]: NO_VALUE}))
    yield "by variable, badly", _settled(launcher, Turned({}, {variable: NO_VALUE}))


def options(launcher: Launcher) -> Iterator[Pair]:
    """Turn several options at once, and ask for help."""
    for n in ("2", "3"):
        some = Turned({}, {"MAX_CONCURRENCY": n, "QUEUE_SIZE": "9"})
        yield f"{n} at once", _settled(launcher, some)
    patient = Turned({}, {"MAX_CONCURRENCY": "1", "QUEUE_TIMEOUT": "5"})
    yield "time to wait", _settled(launcher, patient)
    yield from _queued(launcher)
    yield "fewer lines", _settled(launcher, Turned({}, {"LOG_LEVEL": "WARNING"}))
    yield "another type", _settled(launcher, Turned({}, {"MODEL_TYPE": "embeddings"}))
    both = Turned({"--context-length": "512"}, {"CONTEXT_LENGTH": "1024"})
    yield "both", _settled(launcher, both)
    yield "--help", _said(launcher.begin(Turned({"--help": ""})))


PROBES: dict[str, Probe] = {
    "requests": requests,
    "unready": unready,
    "surface": surface,
    "options": options,
    **{variable: partial(option, variable) for variable in FLAGS},
}

NO_MODEL = "/no/such/model"
_RESPONSE = response(max_output_tokens=40)
NO_VALUE = "no-such-value"
_VALUES = {
    "MODEL_PATH": NO_MODEL,
    "MODEL_TYPE": "lm",
    "CONTEXT_LENGTH": "1024",
    "MLX_WARMUP": "false",
    "MAX_CONCURRENCY": "1",
    "QUEUE_TIMEOUT": "0.02",
    "QUEUE_SIZE": "1",
    "LOG_LEVEL": "ERROR",
}


def _queued(launcher: Launcher) -> Iterator[Pair]:
    """Look at who else takes permits and places, and who gives them back."""
    with _running(launcher, Turned({}, {"MAX_CONCURRENCY": "1", "QUEUE_SIZE": "1"})) as launched:
        server = launched.server
        named = [("X-Request-ID", "probe")]
        yield "whole chats", _crowd_of(server, lambda: server.chat("Hello", named, max_tokens=40))
        yield "responses", _crowd_of(server, lambda: posted(server, _RESPONSE))
        for _ in range(MANY):
            server.chat("Hello", max_tokens=-1)
        yield "after refusals", _shown_in_time(server)
        _leave(server, "left", 200)
        yield "after who left", _shown_in_time(server)


def _crowd_of(server: Server, ask: Callable[[], Exchange]) -> str:
    """Name the statuses of a crowd, each with whether the id that was asked for came back."""
    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        answers = [each.result() for each in [pool.submit(ask) for _ in range(N_AT_ONCE)]]
    seen = {f"{each.status} {each.values('x-request-id') == ['probe']}" for each in answers}
    return " ".join(sorted(seen))


def _shown_in_time(server: Server) -> str:
    """Say whether a short chat is answered soon."""
    deadline = time.monotonic() + LEFT_S
    request = server.chat_request("Hello", max_tokens=1)
    while time.monotonic() < deadline:
        with suppress(NoAnswer), Connection(server.address, LEFT_S) as connection:
            if connection.exchange(request).status == 200:
                return "answered"
    return "never"


def _models(*headers: tuple[str, str | bytes]) -> Ask:
    return lambda server: server.get("/v1/models", headers)


def _too_large(server: Server) -> Exchange:
    """Announce more than anybody reads."""
    headers = [JSON_TYPE, ("Content-Length", str(10**12)), ("X-Request-ID", "probe")]
    with Connection(server.address, TIMEOUT_S) as connection:
        return connection.exchange(server.request("POST", CHAT, headers, b""))


_SYSTEMS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "system", "content": "Be brief."},
]
_QUESTIONS = [{"role": "user", "content": "Hello"}, {"role": "user", "content": "Are you there?"}]
_ASKS: dict[str, Ask] = {
    **{name: kind.ask for name, kind in KINDS.items()},
    "model, slash encoded": lambda server: server.get(f"/v1/models/{quote(server.model, safe='')}"),
    "id": _models(("X-Request-ID", "MiXeD-" + "x" * 90)),
    "id in lower case": _models(("x-request-id", "probe")),
    "id of a probe": lambda server: server.get("/health", [("X-Request-ID", "probe")]),
    "hostile id": _models(("X-Request-ID", b"evil\x1b[31m\xff")),
    "two ids": _models(("X-Request-ID", "one"), ("X-Request-ID", "two")),
    "unrouted, xml": lambda server: server.get("/v1/no-such-route", [("Accept", "text/xml")]),
    "id of a refusal": lambda server: server.chat("Hello", [("X-Request-ID", "probe")], n=0),
    "too large": _too_large,
    "encoded in lower case": lambda server: server.get(
        f"/v1/models/{quote(server.model, safe='').replace('%2F', '%2f')}"
    ),
    "forged line": lambda server: server.get("/a%0aRequest%20started:%20GET%20/b"),
    "two systems": lambda server: server.chat("Hello", messages=_SYSTEMS, max_tokens=2),
    "two questions": lambda server: server.chat("Hello", messages=_QUESTIONS, max_tokens=2),
    "by family": lambda server: server.chat("Hello", model="gemma", max_tokens=2),
    "form": lambda server: server.send(
        server.request("POST", CHAT, [FORM], server.chat_request("Hello", max_tokens=2).body)
    ),
}


def _questions() -> Iterator[tuple[str, Question]]:
    """Yield the questions of all tables, however deep they stand in them."""
    for module in pkgutil.iter_modules(questions.__path__):
        tables = vars(importlib.import_module(f"{questions.__name__}.{module.name}"))
        for name, table in tables.items():
            if name in LEFT_TO_CHANCE:
                continue
            yield from _questions_in(table, f"{module.name}.{name}")


def _questions_in(table: object, name: str) -> Iterator[tuple[str, Question]]:
    if isinstance(table, Question):
        yield name, table
    elif isinstance(table, Mapping):
        for key, entry in table.items():
            yield from _questions_in(entry, f"{name}.{key}")


@contextmanager
def _running(launcher: Launcher, turned: Turned) -> Iterator[Launched]:
    launched = launcher.begin(turned)
    try:
        launched.start.watch(START_S, launched.has_ended)
        yield launched
    finally:
        launched.stop()


def _start(launched: Launched) -> Iterator[str]:
    """Name the states of a start, each once, with what was answered in it."""
    seen = (_plain(str(moment.health)) for moment in launched.start.moments)
    return (state for state, _ in groupby(seen))


def _shown(server: Server, ask: Ask) -> str:
    """Return a response as it came, or why none did."""
    try:
        answer = ask(server)
    except NoAnswer as error:
        return f"no answer: {error}"
    times = ", ".join(_time(value, answer) for value in answer.values("x-process-time"))
    ids = answer.values("x-request-id")
    kept = {name.lower(): value.decode("latin-1") for name, value in answer.headers}
    for name in ("x-process-time", "x-request-id", "date", "content-length"):
        kept.pop(name, None)
    body = answer.body.decode("utf-8", "replace")
    return _plain(f"{answer.status} ids={ids} times={times} {sorted(kept.items())} {body}")


def _time(value: str, answer: Exchange) -> str:
    """Say what a time looks like, and whether it is about what the client saw."""
    try:
        seconds = float(value)
    except ValueError:
        return f"text like {re.sub('[0-9]+', '9', value)}"
    if seconds > answer.head_s + 0.01:
        return "too long"
    return "too short" if answer.head_s > 0.05 and seconds < answer.head_s / 2 else "right"


def _crowd(server: Server) -> str:
    """Say whether requests side by side get their own ids."""

    def ask(number: int) -> bool:
        return server.get("/health", [("X-Request-ID", f"c-{number}")]).request_id == f"c-{number}"

    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        return "own" if all(pool.map(ask, range(4 * N_AT_ONCE))) else "mixed"


def _log_of_crowd(launched: Launched) -> str:
    """Say whether requests side by side have their own lines in the log."""
    server, names = launched.server, [f"logged-{number}" for number in range(N_AT_ONCE)]
    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        for name in names:
            pool.submit(server.chat, "Hello", [("X-Request-ID", name)], max_tokens=40)
    log = launched.log
    ends = (log.wait_for("Request completed", f"[request_id={name}]") for name in names)
    return "own" if all(ends) else "mixed"


def _health_meanwhile(server: Server, n_chats: int, is_streamed: bool) -> str:
    """Say what /health answers while chats are generated, and whether at once, or at their end."""
    statuses, n_before, slowest_s = set(), 0, 0.0
    with ThreadPoolExecutor(n_chats) as pool:
        chats = [
            pool.submit(server.chat, "Hello", max_tokens=200, stream=is_streamed)
            for _ in range(n_chats)
        ]
        time.sleep(5 * STEP_S)
        while not all(chat.done() for chat in chats):
            health = server.get("/health")
            n_before += not any(chat.done() for chat in chats)
            statuses.add(health.status)
            slowest_s = max(slowest_s, health.total_s)
            time.sleep(STEP_S)
    speed = "late" if slowest_s > SLOW_S else "at once"
    return f"{sorted(statuses)} {speed} {'meanwhile' if n_before else 'at the end'}"


def _pace(server: Server) -> str:
    """Say whether a stream comes in pieces or all at once."""
    times: list[float] = []
    request = server.chat_request("Hello", max_tokens=100, stream=True)
    answer = server.send(request, lambda _: times.append(time.monotonic()))
    return "at once" if times[-1] - times[0] < answer.total_s / 4 else "in pieces"


def _models_later(server: Server) -> str:
    """Say whether the list stays the same when a second has gone by."""
    first, began_s = server.models(), time.monotonic()
    while time.monotonic() < began_s + 1.1:
        time.sleep(STEP_S)
        if server.models() != first:
            return "changed"
    return "the same"


def _log(launched: Launched) -> str:
    """Return the lines in the order of the alphabet, without those of the polls at the start."""
    lines = (_plain(line) for line in launched.log.text().decode("latin-1").split("\n"))
    return "\n".join(sorted(line for line in lines if not POLLED.search(line)))


def _leave(server: Server, name: str, n_tokens: int) -> None:
    """Hang up in the middle of a stream."""
    given = [("X-Request-ID", name)]
    request = server.chat_request("Hello", given, max_tokens=n_tokens, stream=True)

    def leave(_: bytes) -> None:
        raise NoAnswer("left")

    with suppress(NoAnswer):
        server.send(request, leave)


def _vanished(launched: Launched) -> str:
    """Say whether a request ends in the log when its client has left its stream."""
    _leave(launched.server, "vanished", 200)
    return "ended" if launched.log.wait_for("Request completed", "vanished") else "never ended"


def _settled(launcher: Launcher, turned: Turned, host: str = HOST, port: int = 0) -> str:
    """Say what an instance makes of its options: its health, its models, a crowd of chats."""
    launched = launcher.begin(turned, host=host, port=port)
    try:
        launched.start.watch(START_S, launched.has_settled)
        if not launched.start.moments:
            return _said(launched)
        server = launched.server
        told = " > ".join(_start(launched))
        lengths = [model.get("context_length") for model in server.models()]
        crowd = _queue(server)
        logs = "logged" if "Request " in _log(launched) else "silent"
        return f"{told} {lengths} {crowd} {logs}"
    finally:
        launched.stop()


def _said(launched: Launched) -> str:
    """Return how an instance that gives up ended, and its words."""
    try:
        status = launched.wait_until_ended(START_S)
        return _plain(f"ended with {status}: {launched.log.text().decode('latin-1')}")
    finally:
        launched.stop()


def _queue(server: Server) -> str:
    """Say how a crowd of streams is answered, and how many were generated together."""
    spans: list[tuple[float, float]] = []

    def ask(number: int) -> str:
        times: list[float] = []
        request = server.chat_request("Hello", max_tokens=40, stream=True, model="gemma")
        try:
            answer = server.send(request, lambda _: times.append(time.monotonic()))
        except NoAnswer:
            return "none"
        if answer.status == 200:
            spans.append((times[0], times[-1]))
        retry = answer.values("retry-after")
        named = [len(answer.values(name)) for name in ("x-request-id", "x-process-time")]
        return f"{answer.status} {retry} {answer.fields().get('error', {}).get('code')} {named}"

    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        answers = sorted(set(pool.map(ask, range(N_AT_ONCE))))
    n_together = max((_n_around(began_s, spans) for began_s, _ in spans), default=0)
    is_full = any("queue_full" in answer for answer in answers)
    return f"{answers} {min(n_together, MANY)} together, {len(spans) if is_full else 'all'} let in"


def _n_around(moment_s: float, spans: list[tuple[float, float]]) -> int:
    """Count the spans that hold a moment, their ends left out."""
    return sum(began_s <= moment_s < ended_s - 0.01 for began_s, ended_s in spans)


def _plain(text: str) -> str:
    """Replace what differs from run to run."""
    for pattern, word in PLAIN:
        text = pattern.sub(word, text)
    names: dict[str, str] = {}
    return UUID.sub(lambda found: names.setdefault(found[0], f"UUID{len(names)}"), text)
