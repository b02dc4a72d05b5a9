"""Which web pages may read answers."""

from typing import Any

import pytest

from service.web.cors import Cors, Headers

PAGE = "https://chat.example"


def scope(method: str = "GET", **headers: str) -> dict[str, Any]:
    """Return a request with *headers*."""
    raw = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
    return {"method": method, "headers": raw}


def values(headers: Headers | None) -> dict[str, str]:
    """Return headers as text."""
    return {name.decode(): value.decode() for name, value in headers or ()}


@pytest.mark.parametrize("headers", [{}, {"origin": PAGE}, {"Origin": "null"}])
def test_nothing_is_said_where_nothing_is_set(headers: dict[str, str]) -> None:
    """By default no page reads anything, and no answer is longer for it."""
    assert [] == Cors().headers(scope(**headers))


@pytest.mark.parametrize("origin", [PAGE, "HTTPS://Chat.Example"])
@pytest.mark.parametrize("allowed", [[PAGE], ["http://localhost:3000", PAGE], ["*"]])
def test_page_that_may(origin: str, allowed: list[str]) -> None:
    """It is named as it named itself, and may read our own headers, too."""
    found = values(Cors(allowed).headers(scope(Origin=origin)))

    assert (origin, "Origin") == (found["access-control-allow-origin"], found["vary"])
    exposed = found["access-control-expose-headers"].split(", ")
    assert {"X-Request-ID", "X-Process-Time", "Retry-After"} <= set(exposed)
    assert "access-control-allow-credentials" not in found


@pytest.mark.parametrize("origin", ["https://chat.example.evil", "http://chat.example", "null", ""])
def test_page_that_may_not(origin: str) -> None:
    """Another host, another scheme, or none: nothing lets it read, and caches know that it depends."""
    assert {"vary": "Origin"} == values(Cors([PAGE]).headers(scope(Origin=origin)))


def test_preflight_of_a_page_that_may() -> None:
    """What it wants to send is what it may."""
    asked = scope(
        "OPTIONS",
        Origin=PAGE,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization,content-type",
    )
    found = values(Cors([PAGE]).preflight(asked))

    assert "POST" in found["access-control-allow-methods"].split(", ")
    assert "authorization,content-type" == found["access-control-allow-headers"]


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {"Origin": PAGE, "Access_Control_Request_Method": "POST"}),
        ("OPTIONS", {"Origin": PAGE}),
        ("OPTIONS", {"Access_Control_Request_Method": "POST"}),
        ("OPTIONS", {"Origin": "https://evil.example", "Access_Control_Request_Method": "POST"}),
    ],
)
def test_request_that_is_no_preflight(method: str, headers: dict[str, str]) -> None:
    """Another method, no question, or a page that may not: it goes the way of all requests."""
    assert Cors([PAGE]).preflight(scope(method, **headers)) is None
