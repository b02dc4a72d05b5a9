"""
The error tree: what can go wrong, in the words of the domain.

ServiceError
├── ClientError (4xx, the caller can mend it; `param` names the place)
│   ├── InvalidRequest            400  invalid_value and finer codes
│   │   ├── UnsupportedParameter  400  unsupported_parameter
│   │   ├── UnsupportedModelType  400  unsupported_model_type
│   │   └── PromptTooLong         400  context_length_exceeded
│   ├── Unauthorized              401  invalid_api_key
│   ├── HostNotAllowed            403  host_not_allowed
│   ├── OriginNotAllowed          403  origin_not_allowed
│   ├── AdminNotAllowed           403  admin_not_allowed
│   ├── ModelNotFound             404  model_not_found
│   ├── ResponseNotFound          404  response_not_found
│   ├── RequestTimeout            408  request_timeout
│   ├── ModelInUse                409  model_in_use
│   ├── RequestTooLarge           413  request_too_large
│   ├── UriTooLong                414  uri_too_long
│   ├── UnsupportedMedia          415  unsupported_media_type
│   ├── HeadersTooLarge           431  headers_too_large
│   ├── InvalidHttp               400  invalid_http_request
│   ├── QueueFull                 429  queue_full            + Retry-After
│   └── RateLimited               429  rate_limit_exceeded   + Retry-After
└── ServerError (5xx, ours; the message never tells internals)
    ├── InternalError             500  internal_error
    ├── EngineDied                500  engine_died
    ├── NumericalError            500  numerical_error
    ├── ModelNotReady             503  model_not_ready       + Retry-After
    ├── InsufficientMemory        503  insufficient_memory
    ├── QueueTimeout              503  queue_timeout         + Retry-After
    └── ShuttingDown              503  shutting_down         + Retry-After

Domain code raises these; two places know their wire form: `web/failures.py` (a response) and
`web/sse.py` (the last event of a stream that had begun).
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """
    A failure with a place in the public interface.

    Attributes:
        status: HTTP status code of the response, if none has begun.
        type: OpenAI's coarse class of the error.
        code: stable word a program can act on.
        param: the request field at fault, in dotted form such as `messages.0.role`; None if none is.
        retry_after_s: whole seconds after which a second try makes sense; None: never by itself.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class ClientError(ServiceError):
    """The request is at fault; sending the same again fails the same way, save after a 429."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class InvalidRequest(ClientError):
    """The body breaks its contract, or asks for what this model cannot do."""


class UnsupportedParameter(InvalidRequest):
    """A documented field that is not implemented and would have changed the answer."""

    code = "unsupported_parameter"


class UnsupportedModelType(InvalidRequest):
    """The model is of another kind than the endpoint is for; the message names what it does."""

    code = "unsupported_model_type"


class PromptTooLong(InvalidRequest):
    """
    Prompt and one token of an answer do not fit into the context.

    Attributes:
        n_tokens: the prompt's.
        max_tokens: how many it could have.
    """

    code = "context_length_exceeded"

    def __init__(self, message: str, n_tokens: int, max_tokens: int, *, param: str | None) -> None:
        super().__init__(message, param=param)
        self.n_tokens = n_tokens
        self.max_tokens = max_tokens


class Unauthorized(ClientError):
    """A key is configured, and the request carries none or another."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class HostNotAllowed(ClientError):
    """The request names a host that is not this server; ALLOWED_HOSTS lists those that are."""

    status = 403
    code = "host_not_allowed"


class OriginNotAllowed(ClientError):
    """A web page of another origin asks; ALLOWED_ORIGINS lists those that may."""

    status = 403
    code = "origin_not_allowed"


class AdminNotAllowed(ClientError):
    """No key for /admin is set, and the request comes from another machine or past a file of keys."""

    status = 403
    code = "admin_not_allowed"


class ModelNotFound(ClientError):
    """No model is served under that name."""

    status = 404
    code = "model_not_found"


class ResponseNotFound(ClientError):
    """No response is kept under that id, or not any more."""

    status = 404
    code = "response_not_found"


class RequestTimeout(ClientError):
    """The request's body stopped arriving."""

    status = 408
    code = "request_timeout"


class ModelInUse(ClientError):
    """The model can't be unloaded now: requests need it, or it is to be up all the time."""

    status = 409
    code = "model_in_use"


class RequestTooLarge(ClientError):
    """The request's body is over the limit."""

    status = 413
    code = "request_too_large"


class UriTooLong(ClientError):
    """Path and query together are over the limit."""

    status = 414
    code = "uri_too_long"


class UnsupportedMedia(ClientError):
    """A content type or encoding that is not read here."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(ClientError):
    """The request has too many headers, or too long ones."""

    status = 431
    code = "headers_too_large"


class InvalidHttp(ClientError):
    """What came is no request of HTTP/1.1."""

    code = "invalid_http_request"


class QueueFull(ClientError):
    """Every permit is taken and every place in the queue as well."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class RateLimited(ClientError):
    """The request's key has used what API_KEYS_FILE lets it have in a minute."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class ServerError(ServiceError):
    """Nothing the caller did."""


class InternalError(ServerError):
    """A bug of ours; the log has it under the request's id."""


class EngineDied(ServerError):
    """The engine process ended while it worked on the request."""

    code = "engine_died"


class NumericalError(ServerError):
    """The model computed what is no number, so that no token could be drawn."""

    code = "numerical_error"


class ModelNotReady(ServerError):
    """The model is starting, loading, or has failed."""

    status = 503
    type = "service_unavailable"
    code = "model_not_ready"


class InsufficientMemory(ServerError):
    """The model that the request asks for has no room beside those that stay in memory."""

    status = 503
    type = "service_unavailable"
    code = "insufficient_memory"


class QueueTimeout(ServerError):
    """The request waited QUEUE_TIMEOUT seconds for a permit and was never started."""

    status = 503
    type = "service_unavailable"
    code = "queue_timeout"


class ShuttingDown(ServerError):
    """The server is ending; what was generated until now has been sent."""

    status = 503
    type = "service_unavailable"
    code = "shutting_down"
