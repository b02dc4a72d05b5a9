"""The engine's end of the socket pair."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from service.engine.channel import Channel
from service.protocol import Cancel, frame


def test_messages_until_the_other_end_closes() -> None:
    """What was said is heard, and then there is no more."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(frame(Cancel(1)) + frame(Cancel(2)))

        assert list(Channel(theirs).messages()) == [Cancel(1), Cancel(2)]


def test_no_child_of_the_engine_inherits_its_end() -> None:
    """The supervisor hands it down, and so it would go on: the end of file would not come at its death."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.set_inheritable(True)
        Channel(theirs)
        look = f"import os; os.fstat({theirs.fileno()})"
        child = subprocess.run(
            [sys.executable, "-c", look], close_fds=False, capture_output=True, check=False
        )

        assert not os.get_inheritable(theirs.fileno())
        assert b"Bad file descriptor" in child.stderr
