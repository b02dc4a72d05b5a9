"""
Errors into responses: one envelope for all of them, whatever the client says it accepts.

Which one the path tells: Anthropic's clients look for theirs, everybody else for OpenAI's.
"""

from __future__ import annotations

import logging
from typing import Any

import falcon
import msgspec
from falcon.asgi import App, Request, Response

from service.anthropic import errors as anthropic
from service.errors import ClientError, InternalError, ServerError, ServiceError
from service.openai.errors import envelope
from service.telemetry import request_id

_log = logging.getLogger(__name__)

_MESSAGES = "/v1/messages"


def install(app: App[Request, Response]) -> None:
    """Make *app* answer every failure with the envelope."""
    app.add_error_handler(Exception, _on_bug)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(ServiceError, _on_service_error)


def explained(error: ServiceError, path: str) -> dict[str, Any]:
    """Return the body that tells *error* to who asked for *path*."""
    if path == _MESSAGES or path.startswith(f"{_MESSAGES}/"):
        return anthropic.envelope(error, request_id.get())
    return envelope(error)


class _FrameworkError(ServiceError):
    """What the framework refuses by itself: an unknown route, a method that a route does not have."""

    def __init__(self, error: falcon.HTTPError) -> None:
        title = falcon.code_to_http_status(error.status_code).partition(" ")[2]
        super().__init__(f"{title}.", code=title.lower().replace(" ", "_"))
        # One class for all of the framework's, so what is the class's elsewhere is the instance's here.
        self.status = error.status_code  # type: ignore[misc]
        self.type = ClientError.type if error.status_code < 500 else ServerError.type  # type: ignore[misc]


async def _on_service_error(req: Request, resp: Response, error: ServiceError, params: Any) -> None:  # noqa: ARG001
    resp.status = error.status
    resp.data = msgspec.json.encode(explained(error, req.path))
    resp.content_type = falcon.MEDIA_JSON
    if error.retry_after_s is not None:
        resp.set_header("Retry-After", str(error.retry_after_s))


async def _on_http_error(
    req: Request, resp: Response, error: falcon.HTTPError, params: Any
) -> None:
    await _on_service_error(req, resp, _FrameworkError(error), params)
    if error.headers:
        resp.set_headers(error.headers)


async def _on_bug(req: Request, resp: Response, error: Exception, params: Any) -> None:
    _log.error("A request broke", exc_info=error)
    await _on_service_error(req, resp, InternalError("The server failed on this request."), params)
