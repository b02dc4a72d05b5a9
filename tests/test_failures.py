"""Every failure has one form, whatever the client says it accepts."""

import asyncio
from typing import Any

import falcon
import httpx
import pytest
from falcon.asgi import App, Request, Response

from service import contracts
from service.errors import ModelNotReady, QueueFull, UnsupportedParameter
from service.web import failures

ACCEPTS = ["application/json", "application/xml", "text/html", "text/event-stream", "image/*", None]


class Faulty:
    """A resource whose every method fails in its own way."""

    async def on_get(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Break by a bug."""
        raise RuntimeError("s3cret in /etc/passwd")

    async def on_post(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Refuse by an error of ours."""
        raise UnsupportedParameter("n is not supported.", param="n")

    async def on_put(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Refuse for a while."""
        raise QueueFull("Full.", retry_after_s=3)

    async def on_patch(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Fail by an error of the framework's that carries words of its own."""
        raise falcon.HTTPBadRequest(title="s3cret", description="s3cret")

    async def on_delete(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """Fail for a while without saying for how long."""
        raise ModelNotReady("Not yet.")


def ask(method: str, path: str, accept: str | None = None) -> httpx.Response:
    """Ask an app that is wired as the service is."""

    async def scenario() -> httpx.Response:
        app: Any = App()
        failures.install(app)
        for route in ("/faulty", "/v1/messages", "/v1/messages/count_tokens"):
            app.add_route(route, Faulty())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            request = client.build_request(method, path)
            del request.headers["Accept"]
            if accept is not None:
                request.headers["Accept"] = accept
            return await client.send(request)

    return asyncio.run(scenario())


def error_in(answer: httpx.Response) -> dict[str, Any]:
    """Return the error in *answer*, whose envelope keeps its contract."""
    assert answer.headers["Content-Type"].startswith("application/json")
    contracts.check("error", answer.json())
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "code"),
    [
        ("GET", "/nowhere", 404, "invalid_request_error", "not_found"),
        ("GET", "/", 404, "invalid_request_error", "not_found"),
        ("GET", "/faulty", 500, "server_error", "internal_error"),
        ("POST", "/faulty", 400, "invalid_request_error", "unsupported_parameter"),
        ("PUT", "/faulty", 429, "rate_limit_error", "queue_full"),
        ("PATCH", "/faulty", 400, "invalid_request_error", "bad_request"),
        ("DELETE", "/faulty", 503, "service_unavailable", "model_not_ready"),
    ],
)
def test_failure_for_every_accept(
    method: str, path: str, status: int, kind: str, code: str, accept: str | None
) -> None:
    """Status, type and code are the failure's own, in JSON, and nothing of its inside is told."""
    answer = ask(method, path, accept)
    error = error_in(answer)

    assert (status, kind, code) == (answer.status_code, error["type"], error["code"])
    assert "s3cret" not in answer.text


@pytest.mark.parametrize("accept", ACCEPTS)
def test_wrong_method_names_the_right_ones(accept: str | None) -> None:
    """405 comes in the envelope too, and `Allow` lists what the route has."""

    class OnlyGet:
        async def on_get(self, req: Request, resp: Response) -> None:
            """Answer."""

    async def scenario() -> httpx.Response:
        app: Any = App()
        failures.install(app)
        app.add_route("/one", OnlyGet())
        headers = {} if accept is None else {"Accept": accept}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.delete("/one", headers=headers)

    answer = asyncio.run(scenario())

    assert (405, "method_not_allowed") == (answer.status_code, error_in(answer)["code"])
    assert {"GET", "OPTIONS"} == set(answer.headers["Allow"].split(", "))


def test_param_is_told() -> None:
    """The place at fault reaches the client."""
    assert "n" == error_in(ask("POST", "/faulty"))["param"]


@pytest.mark.parametrize(("method", "expected"), [("PUT", "3"), ("DELETE", None), ("POST", None)])
def test_retry_after_when_it_makes_sense(method: str, expected: str | None) -> None:
    """The header stands where the error knows a time, and only there."""
    assert expected == ask(method, "/faulty").headers.get("Retry-After")


@pytest.mark.parametrize(
    ("method", "status", "kind", "code"),
    [
        ("GET", 500, "api_error", "internal_error"),
        ("POST", 400, "invalid_request_error", "unsupported_parameter"),
        ("PUT", 429, "rate_limit_error", "queue_full"),
        ("DELETE", 503, "overloaded_error", "model_not_ready"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_failure_where_anthropic_s_clients_ask(
    path: str, method: str, status: int, kind: str, code: str
) -> None:
    """Under their routes the envelope is theirs, with our param and code in it."""
    answer = ask(method, path)
    contracts.check("messages-error", answer.json())
    error = answer.json()["error"]

    assert (status, kind, code) == (answer.status_code, error["type"], error["code"])
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    ("path", "contract"),
    [
        ("/v1/messages/nothing", "messages-error"),
        ("/v1/messages/", "messages-error"),
        ("/v1/messagess", "error"),
        ("/v1", "error"),
    ],
)
def test_unknown_route_has_the_envelope_of_its_neighbours(path: str, contract: str) -> None:
    """What begins like Anthropic's routes is answered as they are, and nothing else is."""
    answer = ask("GET", path)

    assert 404 == answer.status_code
    contracts.check(contract, answer.json())
