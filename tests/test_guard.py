"""What a request must bring before any route sees it."""

import asyncio
import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from falcon.asgi import App, Request, Response

from service import contracts
from service.telemetry import Metrics
from service.web import failures, keys
from service.web.edge import Edge
from service.web.guard import MAX_URI_BYTES, Guard
from service.web.journal import Journal
from service.web.keys import Keys

OPEN = ["/health", "/livez", "/readyz", "/", "/docs", "/pages/status.js"]
GUARDED = [
    "/v1/models", "/v1/models/org/m", "/v1/chat/completions", "/openapi.json", "/metrics",
    "/nowhere", "/status", "/pages", "/HEALTH", "/health/x",
]  # fmt: skip
KEY = "k\u00e9y-1"
FORM = "application/x-www-form-urlencoded"
PAGE = "https://chat.example"


class Everything:
    """A resource that lets everyone in."""

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Answer."""
        resp.text = "in"

    on_post = on_put = on_patch = on_delete = on_get


def ask(
    method: str,
    path: str,
    headers: dict[str, str | bytes] | None = None,
    *,
    key: str | None = None,
    keys_file: str | None = None,
    admin_key: str | None = None,
    client: str = "127.0.0.1",
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    address: str = "test",
    content: bytes = b"",
) -> httpx.Response:
    """Ask an app with nothing but the guard before an open door."""

    async def scenario() -> httpx.Response:
        app: Any = App()
        failures.install(app)
        app.add_sink(Everything().on_get)
        transport = httpx.ASGITransport(
            Edge(app, Journal(Metrics()), Guard(Keys(key, keys_file, admin_key), hosts, origins)),
            client=(client, 1234),
        )
        async with httpx.AsyncClient(transport=transport) as http:
            raw = [
                (name.encode(), value.encode() if isinstance(value, str) else value)
                for name, value in (headers or {}).items()
            ]
            request = httpx.Request(method, f"http://{address}{path}", headers=raw, content=content)
            return await http.send(request)

    return asyncio.run(scenario())


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code of a refusal, whose envelope keeps its contract."""
    contracts.check("error", answer.json())
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong"])
def test_open_path_when_a_key_is_set(path: str, authorization: str | None) -> None:
    """What watches the server, and pages that hold nothing, need no key, and a wrong one does no harm."""
    headers: dict[str, str | bytes] = (
        {} if authorization is None else {"Authorization": authorization}
    )

    assert 200 == ask("GET", path, headers, key=KEY).status_code


@pytest.mark.parametrize("path", GUARDED)
def test_route_when_the_key_is_missing(path: str) -> None:
    """Every other route wants the key, those that do not exist and look-alikes of probes included."""
    assert (401, "invalid_api_key") == refusal(ask("GET", path, key=KEY))


@pytest.mark.parametrize("path", ["/v1/models", "/nowhere"])
def test_route_when_the_key_is_right(path: str) -> None:
    """The key, as a bearer token in UTF-8, opens."""
    assert 200 == ask("GET", path, {"Authorization": f"Bearer {KEY}"}, key=KEY).status_code


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Basic {KEY}",
        KEY,
        f"Bearer  {KEY}",
        b"Bearer k\xe9y-1",
        b"Bearer \xff\xfe",
        "Bearer \u043a\u043b\u044e\u0447",
        "Bearer " + "k" * 5000,
    ],
)
def test_route_when_the_key_is_wrong(authorization: str | bytes) -> None:
    """Anything but the key is refused in the same words, other alphabets included."""
    answer = ask("GET", "/v1/models", {"Authorization": authorization}, key=KEY)

    assert (401, "invalid_api_key") == refusal(answer)
    assert KEY not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": KEY}, 200),
        ({"X-API-Key": KEY, "Authorization": "Bearer wrong"}, 200),
        ({"x-api-key": "wrong", "Authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": KEY, "Authorization": ""}, 200),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": f"Bearer {KEY}"}, 401),
        ({"x-api-key": b"k\xe9y-1"}, 401),
        ({"x-api-key": "wrong", "Authorization": f"Basic {KEY}"}, 401),
    ],
)
def test_route_when_the_key_is_in_a_header_of_its_own(
    headers: dict[str, str | bytes], status: int
) -> None:
    """Anthropic's clients send it bare, in a header of its own; either place will do."""
    answer = ask("POST", "/v1/messages", headers, key=KEY)

    assert status == answer.status_code
    if status == 401:
        contracts.check("messages-error", answer.json())
        assert "authentication_error" == answer.json()["error"]["type"]
        assert KEY not in answer.text


@pytest.mark.parametrize("authorization", [None, "Bearer anything"])
def test_route_when_no_key_is_set(authorization: str | None) -> None:
    """Without a configured key everyone may come, also with one."""
    headers: dict[str, str | bytes] = (
        {} if authorization is None else {"Authorization": authorization}
    )

    assert 200 == ask("GET", "/v1/models", headers).status_code


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is the library's, which tells nothing by the time it takes."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append((given, expected))
        return hmac.compare_digest(given, expected)

    class Spy:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(keys, "hmac", Spy)
    for authorization in ("Bearer wrong", "Bearer k"):
        ask("GET", "/v1/models", {"Authorization": authorization}, key="k")
    ask("GET", "/v1/models", {"Authorization": "Bearer k", "x-api-key": "wrong"}, key="k")

    assert [(b"wrong", b"k"), (b"k", b"k"), (b"k", b"k"), (b"wrong", b"k")] == compared


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    ("content_type", "origin", "status"),
    [
        ("application/json", None, 200),
        ("application/json; charset=utf-8", None, 200),
        ("Application/JSON", None, 200),
        (None, None, 200),
        (FORM, None, 200),
        (f"{FORM}; charset=utf-8", None, 200),
        ("application/json", PAGE, 200),
        (None, PAGE, 415),
        (FORM, PAGE, 415),
        ("text/plain", PAGE, 415),
        ("text/plain", None, 415),
        ("multipart/form-data; boundary=x", None, 415),
        ("multipart/form-data; boundary=x", PAGE, 415),
        ("application/xml", None, 415),
        ("application/jsonp", None, 415),
        ("text/json", None, 415),
        ("x; application/json", None, 415),
    ],
)
def test_media_type(method: str, content_type: str | None, origin: str | None, status: int) -> None:
    """JSON passes; curl's defaults pass from anything but a browser; all else is refused."""
    headers: dict[str, str | bytes] = {}
    if content_type is not None:
        headers["Content-Type"] = content_type
    if origin is not None:
        headers["Origin"] = origin
    answer = ask(method, "/v1/chat/completions", headers, origins=[PAGE], content=b"{}")

    assert status == answer.status_code
    if status == 415:
        assert (415, "unsupported_media_type") == refusal(answer)
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip", "x"])
def test_encoding_when_compressed(encoding: str) -> None:
    """Compressed bodies are not read here: a small one could unpack to any size."""
    headers: dict[str, str | bytes] = {
        "Content-Type": "application/json", "Content-Encoding": encoding,
    }  # fmt: skip

    assert (415, "unsupported_media_type") == refusal(ask("POST", "/x", headers, content=b"{}"))


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_encoding_when_identity(encoding: str) -> None:
    """Saying that nothing is compressed is fine."""
    headers: dict[str, str | bytes] = {
        "Content-Type": "application/json", "Content-Encoding": encoding,
    }  # fmt: skip

    assert 200 == ask("POST", "/x", headers, content=b"{}").status_code


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_media_type_when_no_body_is_read(method: str) -> None:
    """Where no body is read its type does not matter."""
    headers: dict[str, str | bytes] = {"Content-Type": "text/plain"}

    assert 200 == ask(method, "/v1/models", headers).status_code


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/" + "a" * (MAX_URI_BYTES - 1), 200),
        ("/" + "a" * MAX_URI_BYTES, 414),
        ("/health?" + "a" * MAX_URI_BYTES, 414),
        ("/health?" + "a" * (MAX_URI_BYTES - 7), 200),
        ("/" + "%41" * (MAX_URI_BYTES // 3), 200),
        ("/" + "%41" * (MAX_URI_BYTES // 3 + 1), 414),
    ],
    ids=lambda value: str(value)[:12],
)
def test_uri_length(path: str, status: int) -> None:
    """Path and query together, as sent, have their limit, for probes too."""
    answer = ask("GET", path)

    assert status == answer.status_code
    if status == 414:
        assert (414, "uri_too_long") == refusal(answer)


def test_uri_when_too_long_and_without_key() -> None:
    """The length is looked at first: it costs nothing and tells nothing."""
    assert (414, "uri_too_long") == refusal(ask("GET", "/" + "a" * 9000, key=KEY))


@pytest.mark.parametrize(
    ("host", "address", "hosts", "status"),
    [
        ("evil.example", "127.0.0.1", [], 403),
        ("evil.example:8000", "127.0.0.1", [], 403),
        ("evil.example", "[::1]", [], 403),
        ("localhost.evil.example", "127.0.0.1", [], 403),
        ("127.0.0.1.evil.example", "127.0.0.1", [], 403),
        ("10.0.0.7", "127.0.0.1", [], 403),
        ("", "127.0.0.1", [], 403),
        ("localhost", "127.0.0.1", [], 200),
        ("LOCALHOST.:8000", "127.0.0.1", [], 200),
        ("app.localhost", "127.0.0.1", [], 200),
        ("127.0.0.1:8000", "127.0.0.1", [], 200),
        ("127.8.9.1", "127.0.0.1", [], 200),
        ("0.0.0.0:8000", "127.0.0.1", [], 200),
        ("[::1]:8000", "[::1]", [], 200),
        ("[::1]", "[::1]", [], 200),
        ("mac.example", "127.0.0.1", ["mac.example"], 200),
        ("MAC.example:443", "127.0.0.1", ["mac.example"], 200),
        ("localhost", "127.0.0.1", ["mac.example"], 200),
        ("evil.example", "127.0.0.1", ["mac.example"], 403),
        ("evil.example", "127.0.0.1", ["*"], 200),
        ("evil.example", "10.0.0.7", [], 200),
        ("evil.example", "10.0.0.7", ["mac.example"], 403),
        ("10.0.0.7", "10.0.0.7", ["10.0.0.7"], 200),
    ],
)
def test_host(host: str, address: str, hosts: list[str], status: int) -> None:
    """Where only this machine can come, only its own names pass, and those that the operator lists."""
    for path in ("/v1/models", "/health"):
        answer = ask("GET", path, {"Host": host}, hosts=hosts, address=address)

        assert status == answer.status_code
        if status == 403:
            assert (403, "host_not_allowed") == refusal(answer)


@pytest.mark.parametrize(
    ("origin", "origins", "status"),
    [
        ("http://evil.example", [], 403),
        ("null", [], 403),
        ("", [], 403),
        ("http://localhost:3000", [], 403),
        ("http://127.0.0.1", [], 200),
        ("http://127.0.0.1:3000", [], 403),
        ("https://chat.example", ["https://chat.example"], 200),
        ("https://CHAT.example", ["https://chat.example"], 200),
        ("https://chat.example.evil", ["https://chat.example"], 403),
        ("http://chat.example", ["https://chat.example"], 403),
        ("null", ["https://chat.example"], 403),
        ("null", ["null"], 200),
        ("http://evil.example", ["*"], 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_origin(method: str, origin: str, origins: list[str], status: int) -> None:
    """A web page asks only if it came from this very server, or the operator lists it."""
    headers: dict[str, str | bytes] = {"Origin": origin, "Content-Type": "application/json"}
    answer = ask(method, "/v1/models", headers, origins=origins, address="127.0.0.1")

    if status == 403:
        assert (403, "origin_not_allowed") == refusal(answer)
        assert "Access-Control-Allow-Origin" not in answer.headers
    else:
        assert 403 != answer.status_code


def test_key_is_looked_at_before_the_body() -> None:
    """Who has none is not listened to any further: nothing of the body is read."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(event: Any) -> None:
        sent.append(event)

    async def nobody(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the app was asked")

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/x",
        "query_string": b"", "headers": [(b"content-length", b"1000000")],
    }  # fmt: skip
    asyncio.run(Edge(nobody, Journal(Metrics()), Guard(Keys(KEY)))(scope, receive, send))

    assert 401 == sent[0]["status"]


@pytest.mark.parametrize("path", ["/admin/models", "/admin/models/m/load", "/admin", "//admin/x"])
@pytest.mark.parametrize(
    ("key", "admin_key", "given", "status"),
    [
        ("user", "boss", "boss", 200),
        ("user", "boss", "user", 401),
        ("user", "boss", None, 401),
        (None, "boss", "boss", 200),
        (None, "boss", None, 401),
        ("user", None, "user", 200),
        ("user", None, None, 401),
    ],
)
def test_admin_when_there_is_a_key(
    path: str, key: str | None, admin_key: str | None, given: str | None, status: int
) -> None:
    """What is below /admin has its own key, or the server's where it has none, in either header."""
    for name, value in (("Authorization", f"Bearer {given}"), ("x-api-key", f"{given}")):
        headers: dict[str, str | bytes] = {name: value} if given else {}
        answer = ask("GET", path, headers, key=key, admin_key=admin_key)

        assert status == answer.status_code
        if status == 401:
            assert (401, "invalid_api_key") == refusal(answer)


def test_admin_key_opens_nothing_else() -> None:
    """Who is an operator is no user by that."""
    headers: dict[str, str | bytes] = {"Authorization": "Bearer boss"}

    assert 401 == ask("GET", "/v1/models", headers, key="user", admin_key="boss").status_code


@pytest.mark.parametrize(
    ("client", "status"),
    [("127.0.0.1", 200), ("::1", 200), ("10.0.0.7", 403), ("", 403), ("testclient", 403)],
)
def test_admin_when_no_key_is_set(client: str, status: int) -> None:
    """Then only this machine is let in; others may ask for all the rest."""
    answer = ask("GET", "/admin/models", client=client)

    assert status == answer.status_code
    assert 200 == ask("GET", "/v1/models", client=client).status_code
    if status == 403:
        assert (403, "admin_not_allowed") == refusal(answer)


def test_admin_when_only_users_have_keys(tmp_path: Path) -> None:
    """A user's key opens nothing there, and being on this machine is not enough where keys are used."""
    secret, table = keys.new("anna")
    (tmp_path / "keys.toml").write_text(table)
    file = str(tmp_path / "keys.toml")
    headers: dict[str, str | bytes] = {"Authorization": f"Bearer {secret}"}

    assert 200 == ask("GET", "/v1/models", headers, keys_file=file).status_code
    assert (403, "admin_not_allowed") == refusal(
        ask("GET", "/admin/models", headers, keys_file=file)
    )
