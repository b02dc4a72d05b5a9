"""Refusals that take a server of one's own: a queue that is full, a body that is too large."""

import functools
from collections.abc import Callable

from conformance.answers import JSON_TYPE
from conformance.client import CHAT, Connection, Exchange, NoAnswer
from conformance.crowd import pace_of
from conformance.launch import Launched, Launcher, LaunchFailed, Turned
from conformance.queueing import ONE, filled
from conformance.verdicts import inapplicable, not_tested

HEADER = "X-Request-ID"
GIVEN = "conformance-refusal"
LARGE_BYTES = 10**12
WAITS_S = 1.0
FULL = Turned(environment=ONE | {"QUEUE_SIZE": "2"})
N_PLACES = 2


def too_many(launcher: Launcher, launched: Launched) -> Exchange:
    """Return what is told to who finds every place in the queue taken."""
    try:
        server = launcher.variant(FULL).server
    except LaunchFailed as error:
        not_tested(f"didn't start with {FULL}: {error}")
    pace = pace_of(launched.server)
    crowd = filled(server, pace, N_PLACES)
    refusals = [each.answer for each in crowd.refused if each.answer]
    return refusals[0] if refusals else not_tested(f"nobody was refused with {FULL}")


def too_large(launcher: Launcher, launched: Launched) -> Exchange:
    """Return what is told to who announces more than anybody wants to read."""
    server = launched.server
    headers = [JSON_TYPE, (HEADER, GIVEN), ("Content-Length", str(LARGE_BYTES))]
    try:
        with Connection(server.address, WAITS_S) as connection:
            return connection.exchange(server.request("POST", CHAT, headers, b""))
    except NoAnswer as error:
        inapplicable(f"a body of {LARGE_BYTES} bytes isn't refused before it is there: {error}")


REFUSALS: dict[str, Callable[[Launcher, Launched], Exchange]] = {
    "too-large": too_large,
    "too-many": too_many,
}


def refusal_of(kind: str, launcher: Launcher, launched: Launched) -> Exchange:
    """
    Return a refusal of that kind, which is had once for all checks.

    Raises:
        NotTested: it can't be had.
    """
    found = _known(kind, launcher, launched)
    launched.server.journal.looked_at.append(found)
    return found


@functools.cache
def _known(kind: str, launcher: Launcher, launched: Launched) -> Exchange:
    return REFUSALS[kind](launcher, launched)
