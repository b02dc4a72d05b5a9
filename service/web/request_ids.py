"""A request's id: the one that it came with, if it can be used, else a new one."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable

_FIT_ID = re.compile(r"[\x21-\x7e]{1,128}")  # no space: the log puts more than one field on a line


def request_id_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id in *headers* if it is fit to be logged and sent, else a new one."""
    given = [value for name, value in headers if name.lower() == b"x-request-id"]
    if len(given) == 1:
        text = given[0].decode("latin-1")
        if _FIT_ID.fullmatch(text):
            return text
    return str(uuid.uuid4())
