"""What a request must bring before any route sees it: a key where one is set, a type that is read here."""

from __future__ import annotations

import hmac
import ipaddress
import logging

from falcon.asgi import Request, Response

from service.errors import Unauthorized, UnsupportedMedia, UriTooLong

_log = logging.getLogger(__name__)

PROBES = frozenset({"/health", "/livez", "/readyz"})
MAX_URI_BYTES = 8192
_JSON = "application/json"
_CURLS_DEFAULT = "application/x-www-form-urlencoded"


class Guard:
    """Falcon middleware; it refuses by raising."""

    def __init__(self, api_key: str | None) -> None:
        self._key = None if api_key is None else api_key.encode()
        self._may_be_open = api_key is None

    async def process_request(self, req: Request, resp: Response) -> None:  # noqa: ARG002
        """
        Let *req* pass or raise.

        Raises:
            UriTooLong: path and query are over MAX_URI_BYTES.
            Unauthorized: a key is set and this is not it; probes need none.
            UnsupportedMedia: the body is of a type or an encoding that is not read here.
        """
        path = req.scope.get("raw_path") or req.scope["path"].encode()
        if len(path) + len(req.scope["query_string"]) > MAX_URI_BYTES:
            raise UriTooLong(f"The URI is over {MAX_URI_BYTES} bytes.")
        if self._may_be_open:
            self._warn_if_open(req)
        if self._key is not None and req.path not in PROBES:
            self._check_key(req)
        if req.method in {"POST", "PUT", "PATCH"}:
            _check_media(req)

    def _warn_if_open(self, req: Request) -> None:
        """Warn once if a request came in at an address that other machines reach: no key is set."""
        host = (req.scope.get("server") or ("127.0.0.1",))[0]
        try:
            is_local = ipaddress.ip_address(host).is_loopback
        except ValueError:  # a name, or the path of a local socket
            return
        if not is_local:
            self._may_be_open = False
            _log.warning(
                "Reached at %s without an API_KEY: anyone who can reach it may use it.", host
            )

    def _check_key(self, req: Request) -> None:
        assert self._key is not None
        scheme, _, token = (req.get_header("Authorization") or "").partition(" ")
        given = [token if scheme.lower() == "bearer" else None, req.get_header("x-api-key")]
        fits = [
            hmac.compare_digest(key.encode("latin-1", "replace"), self._key)
            for key in given
            if key is not None
        ]
        if not any(fits):
            raise Unauthorized("A valid API key is required, as a bearer token or as x-api-key.")


def _check_media(req: Request) -> None:
    """Refuse what is not JSON: a page can post a form blindly to any address, JSON makes it ask first."""
    encoding = req.get_header("Content-Encoding") or "identity"
    if encoding.lower() != "identity":
        raise UnsupportedMedia("Compressed request bodies are not read here.")
    media = (req.content_type or "").partition(";")[0].strip().lower()
    is_from_browser = req.get_header("Origin") is not None
    if media == _JSON or (not is_from_browser and media in {"", _CURLS_DEFAULT}):
        return
    raise UnsupportedMedia(f"The body must be sent as {_JSON}.")
