"""
Images that a request gives by their address, where the settings name its host.

Nobody but these hosts is ever asked, and none of them for anything else: no redirect is followed. A name is
resolved once, and the address that was checked is the one that is asked.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from service.errors import InvalidRequest

MAX_BYTES = 16 * 1024 * 1024  # as of a whole body
DEADLINE_S = 10.0  # taste: for one image, from its name to its last byte
_PIECE_BYTES = 64 * 1024
_PLACES = ("messages", "input")  # where requests have content in parts


class Unfetched(Exception):
    """The image can't be had; the message says why, as a clause."""


class ImageFetch:
    """
    Puts images into requests that give their address.

    Args:
        hosts: who may be asked, each HOST or HOST:PORT; a name stands for itself alone.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)

    async def fill(self, body: dict[str, Any]) -> None:
        """
        Put each image of *body* that an allowed host has in the place of its address, as a data URL.

        Raises:
            InvalidRequest: one can't be had.
        """
        if not self._hosts:
            return
        found = [each for place in _PLACES for each in _addressed(body.get(place), place)]
        wanted = [
            (place, holder, key) for place, holder, key in found if self._is_allowed(holder[key])
        ]
        tasks = [asyncio.to_thread(fetch, holder[key]) for _, holder, key in wanted]
        files = await asyncio.gather(*tasks, return_exceptions=True)
        for (place, holder, key), file in zip(wanted, files, strict=True):
            if isinstance(file, Unfetched):
                raise InvalidRequest(
                    f"The image can't be fetched: {file}.", param=place, code="invalid_image"
                )
            if isinstance(file, BaseException):
                raise file
            holder[key] = f"data:image/fetched;base64,{base64.b64encode(file).decode()}"

    def _is_allowed(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
            named = parts.netloc.rpartition("@")[2].lower()
            _ = parts.port  # raises where it is none
        except ValueError:
            return False
        return (
            parts.scheme in {"http", "https"} and "@" not in parts.netloc and named in self._hosts
        )


def _addressed(value: object, where: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield where an image stands by its address in *value*, the object that holds it, and under what key."""
    if isinstance(value, list):
        for i, each in enumerate(value):
            yield from _addressed(each, f"{where}.{i}")
    elif isinstance(value, dict):
        place: object = value
        key = "image_url"
        if value.get("type") == "image_url":
            place, key = value.get("image_url"), "url"
        elif value.get("type") == "image":
            place, key = value.get("source"), "url"
        if isinstance(place, dict) and isinstance(place.get(key), str):
            yield where, place, key
        for name in ("content", "output"):
            yield from _addressed(value.get(name), f"{where}.{name}")


def fetch(url: str) -> bytes:
    """
    Return what is at *url*, of HTTP or HTTPS; blocks.

    Raises:
        Unfetched: it isn't to be had within `DEADLINE_S` and `MAX_BYTES`.
    """
    parts = urlsplit(url)
    ends_s = time.monotonic() + DEADLINE_S
    try:
        connection = _connected(parts, ends_s)
        try:
            target = parts.path or "/"
            target += f"?{parts.query}" if parts.query else ""
            connection.request("GET", target, headers={"Host": parts.netloc, "Accept": "image/*"})
            return _read(connection.getresponse(), ends_s)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise Unfetched(f"its host could not be asked ({type(error).__name__})") from error


def _connected(parts: SplitResult, ends_s: float) -> http.client.HTTPConnection:
    """Return a connection to the host of a URL, made to the address that was checked."""
    host, is_secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)
    address = _address(host, port)
    left_s = max(ends_s - time.monotonic(), 0.1)
    connection = http.client.HTTPConnection(host, port, timeout=left_s)
    connection.sock = socket.create_connection((address, port), left_s)
    if is_secure:
        context = ssl.create_default_context()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
    return connection


def _address(host: str, port: int) -> str:
    """
    Return the address of *host*; one within a private network only where it was named by its number.

    Raises:
        Unfetched: it has none, or only such.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    found = {
        str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    }
    public = [each for each in sorted(found) if ipaddress.ip_address(each).is_global]
    if not public:
        raise Unfetched("its host's name leads into a private network")
    return public[0]


def _read(answer: http.client.HTTPResponse, ends_s: float) -> bytes:
    if answer.status != http.client.OK:
        raise Unfetched(f"its host answers {answer.status}")
    read = bytearray()
    while piece := answer.read1(_PIECE_BYTES):
        read += piece
        if len(read) > MAX_BYTES:
            raise Unfetched(f"it has more than {MAX_BYTES:,} bytes")
        if time.monotonic() > ends_s:
            raise Unfetched(f"it takes longer than {DEADLINE_S:g} s")
    return bytes(read)
