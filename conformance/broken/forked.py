"""
The servers of the proof, each a fork of the process that runs the suite.

The proof starts thousands of servers, and most of a start is Python's own: the same modules,
imported again. A fork has them already. It is a process group of its own, with its own output and
environment, as if its command had been typed. And it isn't there at once, as no process is: a
start is seen from its beginning only by who came before it.

That is so on Linux. On macOS a fork that runs on without an exec may be ended by the system's own
libraries, which have threads and locks that a fork doesn't take along (Objective-C says so and
aborts). Everywhere but on Linux, then, servers and the proof's own processes are started anew,
which takes several times as long.
"""

import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from conformance.broken import __main__ as server
from conformance.launch import Process, spawn

CAN_FORK = sys.platform == "linux"
STEP_S = 0.002
ABSENT_S = 0.02


class Forked:
    """
    A child of this process, in the words of `subprocess.Popen`.

    Attributes:
        pid: its process id, and its group's.
        returncode: its exit status; -15 for the signal 15; None while it runs.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """
        Return the exit status as soon as there is one.

        Raises:
            subprocess.TimeoutExpired: it still runs after *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(STEP_S)
        return status


def fork(words: Sequence[str], environment: Mapping[str, str], output: IO[bytes]) -> Process:
    """Start a server of `conformance.broken` as a fork, and any other command as it is."""
    if list(words[1:3]) != ["-m", server.__package__]:
        return spawn(words, environment, output)
    pid = os.fork()
    if not pid:
        _serve(words[3:], environment, output.fileno())
    return Forked(pid)


def _serve(words: Sequence[str], environment: Mapping[str, str], output: int) -> None:
    """Be the server and nothing else, to the end of this process."""
    status = 1
    try:
        os.setsid()
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        _close_from(3)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        logging.root.handlers.clear()
        os.environ.clear()
        os.environ.update(environment)
        time.sleep(ABSENT_S)
        server.main(list(words))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _close_from(lowest: int) -> None:
    """Close all open descriptors from *lowest* on; their limit may be far too high to try each."""
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor >= lowest:
            with suppress(OSError):  # the folder's own is closed already
                os.close(descriptor)
