"""Where things stand in a TOML file of tables, for messages about it: the parser tells of syntax only."""

from __future__ import annotations

import re


def line_of(text: str, name: str, number: int, key: str) -> int:
    """
    Return the line of *key*, from 1 on, or that of its table where the table has no such key.

    Args:
        text: the file.
        name: what its tables are called.
        number: which of them holds the key, from 1 on; 0: it stands before all.
        key: the one to find.
    """
    current, own = 0, 1
    for at, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\[\[\s*{re.escape(name)}\s*\]\]", line):
            current += 1
            own = at if current == number else own
        elif current == number and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return at
    return own
