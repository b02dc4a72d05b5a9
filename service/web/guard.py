"""
What a request must bring before its body is read: our name, a key where one is set, a type.

Any web page may send requests to any address, this machine's own included, from the browser of whoever
looks at it. Such a request names the page's origin, and is refused unless the operator knows that page. A
page can also give its own name this machine's address (DNS rebinding) and so be of the same origin: then
the request names the page's host, and where the server listens to this machine alone, only this machine's
names pass.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection, Mapping
from typing import Any

from service.errors import (
    AdminNotAllowed,
    HostNotAllowed,
    InvalidRequest,
    OriginNotAllowed,
    Unauthorized,
    UnsupportedMedia,
    UriTooLong,
)
from service.web.keys import NO_KEY, Key, Keys

_log = logging.getLogger(__name__)

PROBES = frozenset({"/health", "/livez", "/readyz"})
PAGES = ("/", "/docs")  # and what they are made of; they ask for a key themselves
MAX_URI_BYTES = 8192
ANY = "*"
_JSON = "application/json"
_CURLS_DEFAULT = "application/x-www-form-urlencoded"

Headers = dict[str, str]


class Guard:
    """
    Lets requests pass, or refuses them by raising.

    Args:
        keys: of which all but probes and pages must carry one, if there are any.
        allowed_hosts: further names of this server, in lower case; `*`: any name.
        allowed_origins: whose pages may ask, in lower case; `*`: any page.
    """

    def __init__(
        self,
        keys: Keys | None = None,
        allowed_hosts: Collection[str] = (),
        allowed_origins: Collection[str] = (),
    ) -> None:
        self._keys = keys or Keys()
        self._hosts = frozenset(allowed_hosts)
        self._origins = frozenset(allowed_origins)
        self._may_be_open = not self._keys.are_needed

    def check(self, scope: Mapping[str, Any]) -> Key:
        """
        Let the request of an ASGI *scope* pass, with the key that it bears, or raise.

        Raises:
            UriTooLong: path and query are over MAX_URI_BYTES.
            InvalidRequest: it is of HTTP/1.1 and has no Host header, or several; RFC 9112 wants 400.
            HostNotAllowed: it names another host.
            OriginNotAllowed: it comes from a page that may not ask.
            Unauthorized: it bears no key, where one is needed; probes and pages need none.
            AdminNotAllowed: it is for /admin, which has no key, and does not come from this machine.
            UnsupportedMedia: the body is of a type or an encoding that is not read here.
        """
        path = scope.get("raw_path") or scope["path"].encode()
        if len(path) + len(scope["query_string"]) > MAX_URI_BYTES:
            raise UriTooLong(f"The URI is over {MAX_URI_BYTES} bytes.")
        _check_one_host(scope)
        headers = _headers(scope)
        address = (scope.get("server") or ("",))[0]
        self._check_host(headers, address)
        self._check_origin(headers)
        if self._may_be_open:
            self._warn_if_open(address)
        if is_admins(scope["path"]):
            self._check_admin(headers, (scope.get("client") or ("",))[0])
            key = NO_KEY
        elif self._keys.are_needed and not _is_open(scope["path"]):
            key = self._key_in(headers)
        else:
            key = NO_KEY
        if scope["method"] in {"POST", "PUT", "PATCH"}:
            _check_media(headers)
        return key

    def _check_host(self, headers: Headers, address: str) -> None:
        host = headers.get("host")
        if host is None or ANY in self._hosts or not (self._hosts or _is_loopback(address)):
            return
        name = _name_in(host)
        if not _is_this_machine(name) and name not in self._hosts:
            raise HostNotAllowed(
                "The Host header names another server; ALLOWED_HOSTS lists the names of this one."
            )

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or ANY in self._origins or origin.lower() in self._origins:
            return
        _, _, host = origin.partition("://")
        if not host or host != headers.get("host"):
            raise OriginNotAllowed(
                "Web pages of this origin may not ask; ALLOWED_ORIGINS lists those that may."
            )

    def _warn_if_open(self, address: str) -> None:
        """Warn once if a request came in at an address that other machines reach: no key is set."""
        try:
            is_local = ipaddress.ip_address(address).is_loopback
        except ValueError:  # a name, or the path of a local socket
            return
        if not is_local:
            self._may_be_open = False
            _log.warning(
                "Reached at %s without an API_KEY: anyone who can reach it may use it.", address
            )

    def _key_in(self, headers: Headers) -> Key:
        found = [self._keys.find(secret) for secret in _secrets_in(headers)]
        for key in found:
            if key is not None:
                return key
        raise Unauthorized("A valid API key is required, as a bearer token or as x-api-key.")

    def _check_admin(self, headers: Headers, client: str) -> None:
        """Let an operator pass: by the key for it, or, where no key at all is set, from this machine."""
        if self._keys.has_admin:
            if not any(self._keys.is_admin(secret) for secret in _secrets_in(headers)):
                raise Unauthorized(
                    "The key for /admin is required, as a bearer token or as x-api-key."
                )
        elif self._keys.are_needed or not _is_loopback(client):
            raise AdminNotAllowed("Only this machine may ask that; ADMIN_KEY opens it to others.")


def is_admins(path: str) -> bool:
    """Tell whether *path* is for operators."""
    return path == "/admin" or path.startswith("/admin/")


def _secrets_in(headers: Headers) -> list[bytes]:
    """Return what may be a key among *headers*."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = [token if scheme.lower() == "bearer" else None, headers.get("x-api-key")]
    return [each.encode("latin-1") for each in given if each is not None]


def _is_open(path: str) -> bool:
    """Tell whether *path* needs no key: nothing there tells of anyone's requests."""
    return path in PROBES or path in PAGES or path.startswith("/pages/")


def _check_one_host(scope: Mapping[str, Any]) -> None:
    n_hosts = sum(name.lower() == b"host" for name, _ in scope["headers"])
    if scope.get("http_version") == "1.1" and n_hosts != 1:
        raise InvalidRequest(
            "A request of HTTP/1.1 has exactly one Host header.", code="invalid_host"
        )


def _headers(scope: Mapping[str, Any]) -> Headers:
    """Return the headers by their names in lower case; of several by one name the last."""
    return {name.decode("latin-1").lower(): v.decode("latin-1") for name, v in scope["headers"]}


def _check_media(headers: Headers) -> None:
    """Refuse what is not JSON: a page can post a form blindly to any address, JSON makes it ask first."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("Compressed request bodies are not read here.")
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_from_browser = "origin" in headers
    if media == _JSON or (not is_from_browser and media in {"", _CURLS_DEFAULT}):
        return
    raise UnsupportedMedia(f"The body must be sent as {_JSON}.")


def _name_in(host: str) -> str:
    """Return the name or address in a Host header, without port, brackets and the root's dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".").lower()


def _is_this_machine(name: str) -> bool:
    """Tell whether *name* can mean nothing but this machine, whatever a name server says."""
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    """Tell whether *address* leads to this machine alone; a name is no address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback or found.is_unspecified
