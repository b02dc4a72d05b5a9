"""Server-sent events, read as the HTML standard has it."""

import re
from typing import NamedTuple

LINE_END = re.compile(r"\r\n|\r|\n")


class Event(NamedTuple):
    """One event: its name, empty where it has none, and its data."""

    name: str
    data: str


def data_of(body: bytes) -> list[str]:
    """Return the data of each event in *body*."""
    return [event.data for event in events_of(body)]


def events_of(body: bytes) -> list[Event]:
    """
    Return the events in *body*.

    Comments and other fields are passed over, and so are events without data. An event that no
    blank line closes is dropped, as the standard demands.
    """
    found: list[Event] = []
    lines: list[str] = []
    event = ""
    *complete, _unfinished = LINE_END.split(body.decode("utf-8", "replace"))
    for line in complete:
        name, _, value = line.partition(":")
        if name == "data":
            lines.append(value.removeprefix(" "))
        if name == "event":
            event = value.removeprefix(" ")
        if not line:
            found += [Event(event, "\n".join(lines))] if lines else []
            event, lines = "", []
    return found
