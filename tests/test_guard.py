"""What a request must bring before any route sees it."""

import asyncio
import hmac
from typing import Any

import httpx
import pytest
from falcon.asgi import App, Request, Response

from service import contracts
from service.web import failures, guard
from service.web.guard import MAX_URI_BYTES, Guard

PROBES = ["/health", "/livez", "/readyz"]
GUARDED = [
    "/v1/models", "/v1/models/org/m", "/v1/chat/completions", "/openapi.json", "/metrics",
    "/nowhere", "/", "/health/", "/HEALTH", "//health", "/health/x",
]  # fmt: skip
KEY = "k\u00e9y-1"
FORM = "application/x-www-form-urlencoded"


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
    content: bytes = b"",
) -> httpx.Response:
    """Ask an app with nothing but the guard before an open door."""

    async def scenario() -> httpx.Response:
        app: Any = App(middleware=[Guard(key)])
        failures.install(app)
        app.add_sink(Everything().on_get)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport) as client:
            raw = [
                (name.encode(), value.encode() if isinstance(value, str) else value)
                for name, value in (headers or {}).items()
            ]
            request = httpx.Request(method, f"http://test{path}", headers=raw, content=content)
            return await client.send(request)

    return asyncio.run(scenario())


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code of a refusal, whose envelope keeps its contract."""
    contracts.check("error", answer.json())
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong"])
def test_probe_when_a_key_is_set(path: str, authorization: str | None) -> None:
    """What watches the server needs no key, and a wrong one does no harm."""
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

    monkeypatch.setattr(guard, "hmac", Spy)
    for authorization in ("Bearer wrong", "Bearer k"):
        ask("GET", "/v1/models", {"Authorization": authorization}, key="k")
    ask("GET", "/v1/models", {"Authorization": "Bearer k", "x-api-key": "wrong"}, key="k")

    assert [(b"wrong", b"k"), (b"k", b"k"), (b"k", b"k"), (b"wrong", b"k")] == compared


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    ("content_type", "origin", "status"),
    [
        ("application/json", None, 200),
        ("application/json", "http://evil.example", 200),
        ("application/json; charset=utf-8", None, 200),
        ("Application/JSON", None, 200),
        (None, None, 200),
        (FORM, None, 200),
        (f"{FORM}; charset=utf-8", None, 200),
        (None, "http://evil.example", 415),
        (None, "null", 415),
        (FORM, "http://evil.example", 415),
        ("text/plain", "http://evil.example", 415),
        ("text/plain", None, 415),
        ("multipart/form-data; boundary=x", None, 415),
        ("multipart/form-data; boundary=x", "null", 415),
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
    answer = ask(method, "/v1/chat/completions", headers, content=b"{}")

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
    headers: dict[str, str | bytes] = {"Content-Type": "text/plain", "Origin": "null"}

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
