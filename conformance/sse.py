"""Server-sent events, read as the HTML standard has it."""

import re

LINE_END = re.compile(r"\r\n|\r|\n")


def data_of(body: bytes) -> list[str]:
    """
    Return the data of each event in *body*.

    Comments and other fields are passed over. An event that no blank line closes is dropped,
    as the standard demands.
    """
    found: list[str] = []
    lines: list[str] = []
    *complete, _unfinished = LINE_END.split(body.decode("utf-8", "replace"))
    for line in complete:
        name, _, value = line.partition(":")
        if name == "data":
            lines.append(value.removeprefix(" "))
        if not line and lines:
            found.append("\n".join(lines))
            lines = []
    return found
