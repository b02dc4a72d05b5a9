"""
Who may ask: the one key of API_KEY, and those of API_KEYS_FILE, which have names.

    [[key]]
    name = "anna"                     # stands in the log and in metrics
    sha256 = "9f86d081884c7d65..."    # of the key; `tier3a key anna` makes both
    requests_per_minute = 60          # limits; without them there are none
    tokens_per_minute = 100000

The file holds no key itself. The keys that `tier3a key` makes can't be guessed, so that a plain hash of one
tells nothing. It is read again when it has changed, while the server runs; a fault in it stops the start, and
later leaves the keys as they were and is logged.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from service.settings import BOOT_FAILURE_STATUS
from service.tables import line_of
from service.web.limits import Limits

_log = logging.getLogger(__name__)

LOOK_S = 1.0  # taste: between two looks whether the file has changed
NAME = r"[A-Za-z0-9._@-]{1,64}"  # what needs no quotes in a log or a label
N_RANDOM_BYTES = 32
PREFIX = "t3a-"  # so that who finds a key knows what it is for
_LIMITS = ("requests_per_minute", "tokens_per_minute")
_FIELDS = ("name", "sha256", *_LIMITS)


class BadKeys(click.ClickException):
    """What is wrong with the file of keys, and where."""

    exit_code = BOOT_FAILURE_STATUS


@dataclass(frozen=True, slots=True)
class Key:
    """
    Whoever bears a key.

    Attributes:
        name: empty for API_KEY, which is nobody's in particular.
        limits: how much may be asked for with it.
    """

    name: str
    limits: Limits


NO_KEY = Key("", Limits())


class Keys:
    """
    All keys that open this server.

    Args:
        api_key: the one of API_KEY; None: there is none.
        file: where the others stand; None: there are no others.
        admin_key: the one for /admin; None: the one of API_KEY.
        clock: monotonic seconds.

    Raises:
        BadKeys: the file can't be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        file: str | None = None,
        admin_key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api_key = None if api_key is None else NO_KEY
        self._api_secret = b"" if api_key is None else api_key.encode()
        admin_key = api_key if admin_key is None else admin_key
        self._admin_secret = None if admin_key is None else admin_key.encode()
        self._path = None if file is None else Path(file).expanduser()
        self._clock = clock
        self._looked_s = clock()
        self._by_hash: dict[str, Key] = {}
        self._version: object = None
        if self._path is not None:
            self._version = _version(self._path)
            self._by_hash = read(self._path)

    @property
    def are_needed(self) -> bool:
        """Whether nobody is let in without one."""
        return self._api_key is not None or self._path is not None

    @property
    def has_admin(self) -> bool:
        """Whether there is a key for /admin."""
        return self._admin_secret is not None

    def is_admin(self, secret: bytes) -> bool:
        """Tell whether *secret* is the key for /admin."""
        return self._admin_secret is not None and hmac.compare_digest(secret, self._admin_secret)

    def find(self, secret: bytes) -> Key | None:
        """Return the key that *secret* is; None: it is none. Nothing stops early where it is nearly right."""
        self._look()
        is_api_key = hmac.compare_digest(secret, self._api_secret) and self._api_key
        return is_api_key or self._by_hash.get(hashed(secret))

    def _look(self) -> None:
        """Read the file again if it has changed since somebody last looked."""
        if self._path is None or self._clock() - self._looked_s < LOOK_S:
            return
        self._looked_s = self._clock()
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            found = read(self._path)
        except BadKeys as error:
            _log.error("The keys stay as they were: %s", error.message)
            return
        used = {key.name: key for key in self._by_hash.values()}
        self._by_hash = {digest: _as_before(key, used) for digest, key in found.items()}
        _log.info("Read %d keys from %s.", len(found), self._path.name)


def read(path: Path) -> dict[str, Key]:
    """
    Return the keys in the file at *path* by the hash of each.

    Raises:
        BadKeys: it is not there, or holds what can't be used.
    """
    try:
        text = path.read_text("utf-8")
        found = tomllib.loads(text)
    except OSError as error:
        raise BadKeys(f"API_KEYS_FILE {str(path)!r}: {error.strerror}.") from None
    except ValueError as error:  # no UTF-8, or no TOML: the message has the line
        raise BadKeys(f"{path.name}: {error}.") from None
    tables = found.pop("key", [])
    for other in found:
        raise BadKeys(f"{path.name}, line {line_of(text, 'key', 0, other)}: unknown {other!r}.")
    if not isinstance(tables, list) or not tables:
        raise BadKeys(f"{path.name}: it has no [[key]].")
    keys: dict[str, Key] = {}
    names: set[str] = set()
    for number, table in enumerate(tables, 1):
        place = _Place(path, text, number)
        digest, key = _read(table, place)
        if key.name in names:
            raise place.fault("name", f"there is another key of the name {key.name!r}.")
        if digest in keys:
            raise place.fault("sha256", f"it is the key of {keys[digest].name!r} as well.")
        names.add(key.name)
        keys[digest] = key
    return keys


@dataclass(frozen=True)
class _Place:
    """The table with this *number* in a file, counted from 1."""

    path: Path
    text: str
    number: int

    def fault(self, field: str, why: str) -> BadKeys:
        """Return what is wrong with a field of it."""
        return BadKeys(
            f"{self.path.name}, line {line_of(self.text, 'key', self.number, field)}: {why}"
        )


def _read(table: Mapping[str, Any], place: _Place) -> tuple[str, Key]:
    """Return hash and key of one table."""
    for field in table:
        if field not in _FIELDS:
            raise place.fault(field, f"unknown {field!r}; there are {', '.join(_FIELDS)}.")
    name, digest = table.get("name"), table.get("sha256")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise place.fault("name", "'name' has 1 to 64 letters, digits, or any of . _ @ -.")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise place.fault(
            "sha256", f"'sha256' has 64 hexadecimal digits; `tier3a key {name}` makes it."
        )
    if digest == hashed(b""):
        raise place.fault("sha256", "it is the hash of an empty key, which everybody has.")
    for field in _LIMITS:
        limit = table.get(field, 1)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise place.fault(field, f"{field!r} is a whole number from 1 on.")
    n_requests, n_tokens = (table.get(field) for field in _LIMITS)
    return digest, Key(name, Limits(n_requests, n_tokens))


def hashed(secret: bytes) -> str:
    """Return what the file says of a key."""
    return hashlib.sha256(secret).hexdigest()


def new(name: str) -> tuple[str, str]:
    """Return a new key and the table for it."""
    secret = PREFIX + secrets.token_urlsafe(N_RANDOM_BYTES)
    return secret, f'[[key]]\nname = "{name}"\nsha256 = "{hashed(secret.encode())}"\n'


def _as_before(key: Key, used: Mapping[str, Key]) -> Key:
    """Return the key of that name with what it has used, if its limits are the same."""
    before = used.get(key.name)
    return before if before and before.limits.per_minute == key.limits.per_minute else key


def _version(path: Path) -> object:
    """Return what is another after each change of a file; None: it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
