"""
The wire as a client sees it: bytes out, every byte and its moment back.

The suite writes its requests itself, so that what a check sends is what travels (raw slashes,
two equal headers, control characters), and h11 reads the responses. Nothing is normalized,
followed, retried or decoded behind a check's back, and no exchange outlives its deadline.
"""

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import h11

CHAT = "/v1/chat/completions"
MAX_BODY_BYTES = 10_000_000
PIECE_BYTES = 65_536
SHOWN_CHARACTERS = 160
LATE_TIMEOUT_S = 1.0
N_REDIRECTS = 3
REDIRECTS = {301, 302, 307, 308}
TOO_MANY = 429
CLOSED = "connection closed without a response"
# Which of these a client sees of a server that hangs up is chance: it depends on whether it
# connects, writes or reads when the end of the connection reaches it.
HANGS_UP = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError)

Headers = Iterable[tuple[str, str | bytes]]


class NoAnswer(Exception):
    """
    The server gave no complete HTTP response within the time allowed.

    Attributes:
        is_late: it was still to come, or still coming, when the time was over.
    """

    def __init__(self, text: str, *, is_late: bool = False) -> None:
        super().__init__(text)
        self.is_late = is_late


def shorten(text: str) -> str:
    """Return *text* on one line and short enough for a message."""
    line = text.encode("unicode_escape").decode("ascii")
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."


@dataclass(frozen=True)
class Address:
    """Where a server lives: *prefix* is the base URL's own path, without a slash at its end."""

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def of(cls, url: str) -> Self:
        """
        Read a base URL.

        Raises:
            ValueError: it isn't an http or https URL with a host.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// URL")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def origin(self) -> str:
        """Scheme, host and port; a request's target comes after it."""
        return f"{self.scheme}://{self.host_header}"

    @property
    def host_header(self) -> str:
        """The Host header's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Request:
    """A request as it is written to the wire, without its request line's version."""

    method: str
    target: str
    headers: tuple[tuple[str, bytes], ...]
    body: bytes

    def to_bytes(self) -> bytes:
        """Return the bytes that travel."""
        lines = [f"{self.method} {self.target} HTTP/1.1".encode("latin-1")]
        lines += [name.encode("latin-1") + b": " + value for name, value in self.headers]
        return b"\r\n".join([*lines, b"", self.body])

    def __str__(self) -> str:
        """Show it in one line, secrets left out, and without the headers that all requests have."""
        usual = {"host", "user-agent", "accept", "accept-encoding", "content-length"}
        shown = [
            f"{name}: {'<redacted>' if name.lower() == 'authorization' else value.decode('latin-1')}"
            for name, value in self.headers
            if name.lower() not in usual or (name.lower() == "accept" and value != b"*/*")
        ]
        parts = [f"{self.method} {self.target}", *shown, self.body.decode("utf-8", "replace")]
        return " | ".join(shorten(part) for part in parts if part)


@dataclass(frozen=True)
class Exchange:
    """
    One request and its whole response.

    Attributes:
        headers: in the order and the spelling of the wire.
        url: scheme, host and port of the server.
        at_s: when it began, on the monotonic clock.
        head_s: seconds from before the request to the end of the response's headers.
        total_s: the same, to the end of its body.
    """

    request: Request
    status: int
    headers: tuple[tuple[str, bytes], ...]
    body: bytes
    url: str
    at_s: float
    head_s: float
    total_s: float

    def values(self, name: str) -> list[str]:
        """Return the values of all headers called *name*, one for each line of the wire."""
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == name]

    @property
    def request_id(self) -> str:
        """The response's X-Request-ID; empty when there is none, joined when there are more."""
        return ", ".join(self.values("x-request-id"))

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return ", ".join(self.values("content-type")).partition(";")[0].strip().lower()

    def document(self) -> object:
        """Return the body read as strict JSON, or None where it isn't."""
        return read_json(self.body)

    def fields(self) -> dict[str, Any]:
        """Return the body's JSON object, or an empty one where it is something else."""
        found = self.document()
        return found if isinstance(found, dict) else {}

    def __str__(self) -> str:
        """Show status and body in one line."""
        body = shorten(self.body.decode("utf-8", "replace"))
        return f"{self.status} {self.media_type or 'without content type'} {body}".rstrip()


def models_in(answer: Exchange) -> list[dict[str, Any]]:
    """Return the entries of a list of models; none where it is no such list."""
    data = answer.fields().get("data")
    return [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []


def read_json(text: bytes | str) -> object:
    """Return what *text* says as strict JSON (no NaN, valid UTF-8), or None where it isn't."""
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        parsed: object = _STRICT.decode(decoded)
    except (ValueError, RecursionError):
        return None
    return parsed


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass
class Journal:
    """
    What the suite has seen, with all servers that share it.

    Attributes:
        seen: every complete exchange so far, for the checks that look at all of them.
        looked_at: those that the check under way has looked at, for its report.
    """

    seen: list[Exchange] = field(default_factory=list)
    looked_at: list[Exchange] = field(default_factory=list)

    def add(self, exchange: Exchange) -> None:
        """Take note of a new exchange."""
        self.seen.append(exchange)
        self.looked_at.append(exchange)


class Connection:
    """One TCP or TLS connection, good for one exchange after another."""

    def __init__(
        self, address: Address, timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._began = time.monotonic()
        self._http = h11.Connection(h11.CLIENT)
        self._is_fresh = True
        self._has_begun = False
        try:
            self._socket = _connect(address, timeout_s, tls)
        except HANGS_UP as error:
            raise NoAnswer(CLOSED) from error
        except OSError as error:
            raise NoAnswer(f"no connection: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def exchange(
        self, request: Request, on_piece: Callable[[bytes], None] | None = None
    ) -> Exchange:
        """
        Send *request* and read the response; *on_piece* sees what each read brings of its body at once.

        Raises:
            NoAnswer: nothing, nonsense, too much, or not all of it within the time allowed.
        """
        self._start_cycle(request.method)
        try:
            self._send(request.to_bytes())
            return self._read(request, on_piece)
        except TimeoutError as error:
            text = f"no complete response within {self._timeout_s:g} s"
            raise NoAnswer(text, is_late=True) from error
        except OSError as error:
            is_closed = isinstance(error, HANGS_UP) and not self._has_begun
            raise NoAnswer(CLOSED if is_closed else f"connection lost: {error}") from error
        except h11.RemoteProtocolError as error:
            raise NoAnswer(f"not HTTP, or cut short: {shorten(str(error))}") from error

    @property
    def is_reusable(self) -> bool:
        """Whether the server keeps the connection open for another exchange."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def _start_cycle(self, method: str) -> None:
        """Tell h11 which method is under way; the bytes it would send are not ours."""
        if not self._is_fresh:
            self._began = time.monotonic()
            self._http.start_next_cycle()
        self._is_fresh = self._has_begun = False
        self._http.send(h11.Request(method=method, target="/", headers=[("Host", "h11")]))
        self._http.send(h11.EndOfMessage())

    def _send(self, data: bytes) -> None:
        self._socket.settimeout(self._time_left())
        try:
            self._socket.sendall(data)
        except HANGS_UP:
            return  # refused half-way: the answer may be there to read all the same

    def _read(self, request: Request, on_piece: Callable[[bytes], None] | None) -> Exchange:
        head, head_s = h11.Response(status_code=200, headers=[]), 0.0
        body = bytearray()
        n_told = 0

        def tell() -> None:
            nonlocal n_told
            if on_piece and len(body) > n_told:
                on_piece(bytes(body[n_told:]))
                n_told = len(body)

        while not isinstance(event := self._next_event(tell), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                head, head_s = event, time.monotonic() - self._began
            elif isinstance(event, h11.Data):
                body += event.data
            if len(body) > MAX_BODY_BYTES:
                raise NoAnswer(f"more than {MAX_BODY_BYTES} bytes")
        tell()
        headers = tuple((name.decode("latin-1"), value) for name, value in head.headers.raw_items())
        total_s = time.monotonic() - self._began
        return Exchange(
            request,
            head.status_code,
            headers,
            bytes(body),
            self._address.origin,
            self._began,
            head_s,
            total_s,
        )

    def _next_event(self, before_read: Callable[[], None]) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            before_read()
            self._socket.settimeout(self._time_left())
            piece = self._socket.recv(PIECE_BYTES)
            if not piece and not self._has_begun:
                raise NoAnswer(CLOSED)
            self._has_begun = True
            self._http.receive_data(piece)
        return event

    def _time_left(self) -> float:
        left = self._began + self._timeout_s - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _connect(address: Address, timeout_s: float, tls: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection((address.host, address.port), timeout=timeout_s)
    with suppress(OSError):  # macOS refuses it where the server has hung up already
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.scheme == "http":
        return plain
    try:
        return (tls or ssl.create_default_context()).wrap_socket(
            plain, server_hostname=address.host
        )
    except OSError:
        plain.close()
        raise


class Server:
    """
    The server under test.

    A route that let a request time out once is given a second from then on, until it answers:
    a server that hangs shall not hang its checks one by one.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        journal: Journal,
        api_key: str = "",
        model: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url
        self.address = Address.of(url)
        self.timeout_s = timeout_s
        self.journal = journal
        self._late: set[tuple[str, str]] = set()
        self._tls = tls
        self._api_key = api_key
        self._model = model

    @property
    def known_model(self) -> str:
        """The model to ask, as far as it is known without asking the server."""
        return self._model

    @property
    def model(self) -> str:
        """The model to ask: the one given, or else the first listed that can chat."""
        if not self._model:
            models = self.models()
            chatting = [model for model in models if "chat" in tags_of(model)]
            self._model = str((chatting or models or [{}])[0].get("id", "no-model-listed"))
        return self._model

    def models(self) -> list[dict[str, Any]]:
        """Return the entries of /v1/models; none where it gives no such list."""
        return models_in(self.get("/v1/models"))

    def request(
        self, method: str, path: str, headers: Headers = (), body: bytes | None = None
    ) -> Request:
        """Build a request; *headers* come after the usual ones and replace those they name."""
        usual: list[tuple[str, str | bytes]] = [
            ("Host", self.address.host_header),
            ("User-Agent", "tier3a-conformance"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        ]
        if self._api_key:
            usual.append(("Authorization", f"Bearer {self._api_key}"))
        if body is not None:
            usual.append(("Content-Length", str(len(body))))
        own = list(headers)
        named = {name.lower() for name, _ in own}
        lines = [*(pair for pair in usual if pair[0].lower() not in named), *own]
        encoded = tuple(
            (name, value.encode("latin-1") if isinstance(value, str) else value)
            for name, value in lines
        )
        return Request(method, self.address.prefix + path, encoded, body or b"")

    def connect(self) -> Connection:
        """
        Open a connection of its own.

        Raises:
            NoAnswer: it can't be had.
        """
        return Connection(self.address, self.timeout_s, self._tls)

    def send(self, request: Request, on_piece: Callable[[bytes], None] | None = None) -> Exchange:
        """
        Exchange one request on a new connection.

        Raises:
            NoAnswer: no complete response came in time.
        """
        route = (request.method, request.target)
        timeout_s = min(self.timeout_s, LATE_TIMEOUT_S) if route in self._late else self.timeout_s
        try:
            with Connection(self.address, timeout_s, self._tls) as connection:
                exchange = connection.exchange(request, on_piece)
        except NoAnswer as error:
            if error.is_late:
                self._late.add(route)
            raise
        self._late.discard(route)
        self.journal.add(exchange)
        return exchange

    def ask(self, request: Request) -> Exchange:
        """
        Exchange a request as the guide's clients would.

        A redirect within the server is followed a few times, if nothing is sent with it. Who is
        told that it is too much now (429), and when to come again, comes again once.

        Raises:
            NoAnswer: no complete response came in time.
        """
        answer = self.send(request)
        for _ in range(N_REDIRECTS):
            place = self._place_of(answer)
            if not place or request.method != "GET":
                break
            answer = self.send(replace(request, target=place))
        wait_s = _seconds(answer.values("retry-after")) if answer.status == TOO_MANY else None
        if wait_s is None or wait_s > self.timeout_s:
            return answer
        time.sleep(wait_s)
        return self.send(request)

    def _place_of(self, answer: Exchange) -> str:
        """Return where a redirect leads on this server; empty where it leads away, or is none."""
        places = answer.values("location")
        if answer.status not in REDIRECTS or len(places) != 1:
            return ""
        there = urljoin(f"{self.address.origin}{answer.request.target}", places[0])
        is_own = there.startswith(f"{self.address.origin}/")
        return there.removeprefix(self.address.origin) if is_own else ""

    def abandon(self, request: Request, after_s: float) -> None:
        """Send *request* on a connection of its own, and hang up after that time."""
        with suppress(NoAnswer), Connection(self.address, after_s, self._tls) as connection:
            connection.exchange(request)

    def get(self, path: str, headers: Headers = ()) -> Exchange:
        """GET *path*."""
        return self.ask(self.request("GET", path, headers))

    def json_request(self, path: str, body: object, headers: Headers = ()) -> Request:
        """Build a request that posts *body* as JSON."""
        json_type = ("Content-Type", "application/json")
        return self.request("POST", path, [json_type, *headers], json.dumps(body).encode())

    def post(self, path: str, body: object, headers: Headers = ()) -> Exchange:
        """Post *body* as JSON."""
        return self.ask(self.json_request(path, body, headers))

    def chat_request(self, content: str, headers: Headers = (), **fields: object) -> Request:
        """Build a chat request of one user message; *fields* are added to its body."""
        return self.json_request(
            CHAT, chat_body(content, **({"model": self.model} | fields)), headers
        )

    def chat(self, content: str, headers: Headers = (), **fields: object) -> Exchange:
        """Post a chat request of one user message."""
        return self.ask(self.chat_request(content, headers, **fields))


def _seconds(values: list[str]) -> float | None:
    """Return what Retry-After says, if it says so in seconds."""
    return (
        float(values[0])
        if len(values) == 1 and values[0].isascii() and values[0].isdigit()
        else None
    )


def tags_of(model: dict[str, Any]) -> set[str]:
    """Return a listed model's tags; none where they aren't a list of strings."""
    tags = model.get("tags")
    return {tag for tag in tags if isinstance(tag, str)} if isinstance(tags, list) else set()


def chat_body(content: str, **fields: object) -> dict[str, object]:
    """Return a chat request's body: one user message, and *fields*."""
    return {"messages": [{"role": "user", "content": content}]} | fields
