"""
Where a server's processes connect to, seen from outside.

Where a server can have a network of its own, see `secluded`, that shows all. Else there are two
ways, and each sees what the other doesn't. A proxy that is named in the
environment is asked by whatever heeds such variables, however short its visit; it lets nothing
pass. And on Linux the open sockets of a process group can be read from /proc, whoever opened
them, as long as they are open for longer than the time from one look to the next.
"""

import contextlib
import ipaddress
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

PROC = Path("/proc")
TABLES = ("tcp", "tcp6", "udp", "udp6")
LISTENING = "0A"
DNS_PORT = 53
STEP_S = 0.005
FAMILY_S = 0.25
LINE_BYTES = 4096
WORD_DIGITS = 8
REFUSAL = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
PROXIED = ("http_proxy", "https_proxy", "all_proxy")
UNPROXIED = "127.0.0.1,localhost,::1"


class _Asked(StreamRequestHandler):
    """One connection to the proxy."""

    server: "Proxy"

    def handle(self) -> None:
        """Note who is asked for, and refuse."""
        words = self.rfile.readline(LINE_BYTES).decode("latin-1").split()
        target = words[1] if len(words) > 1 else "somebody"
        if not is_own(urlsplit(target if "//" in target else f"//{target}").hostname or ""):
            self.server.asked.append(target)
        self.wfile.write(REFUSAL)


class Proxy(ThreadingTCPServer):
    """
    An HTTP proxy on loopback that lets nothing pass.

    Attributes:
        asked: the other machines that were asked for through it, as host and port or URL.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Asked)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name it."""
        return naming_proxy(f"http://127.0.0.1:{self.server_address[1]}")


def naming_proxy(url: str) -> dict[str, str]:
    """Return the variables that name a proxy, in both spellings, for all but this machine."""
    named = dict.fromkeys(PROXIED, url) | {"no_proxy": UNPROXIED}
    return named | {name.upper(): value for name, value in named.items()}


class Connection(NamedTuple):
    """A socket that leads to another machine."""

    local: str
    remote: str

    def __str__(self) -> str:
        """Show where it leads."""
        return self.remote


class Sockets:
    """
    Looks at a process group's sockets again and again, in a thread of its own.

    Attributes:
        seen: each connection that leaves the machine, and when it was seen first, on the
            monotonic clock.
    """

    def __init__(self, root: int, own_port: int) -> None:
        self.seen: dict[Connection, float] = {}
        self._root = root
        self._own_port = own_port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def can_be_seen() -> bool:
        """Whether this system shows the sockets of its processes."""
        return (PROC / "self/net/tcp").exists()

    def __enter__(self) -> Self:
        if self.can_be_seen():
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self.can_be_seen():
            self._thread.join()
            self._look(family(self._root))  # at what was left open, however busy the machine was

    def _watch(self) -> None:
        looked_s, pids = 0.0, {self._root}
        while not self._over.wait(STEP_S):
            if time.monotonic() > looked_s + FAMILY_S:
                looked_s, pids = time.monotonic(), family(self._root)
            self._look(pids)

    def _look(self, pids: set[int]) -> None:
        now_s = time.monotonic()
        for pid in pids:
            for connection in leaving(pid, self._own_port):
                self.seen.setdefault(connection, now_s)


def family(root: int) -> set[int]:
    """Return the processes of the session that *root* leads, and all that descend from it."""
    parents: dict[int, int] = {}
    found = {root}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in brackets may hold anything; what comes after it is numbers.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            if int(fields[3]) == root:
                found.add(int(folder.name))
    n_found = 0
    while n_found != len(found):
        n_found = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def leaving(pid: int, own_port: int) -> Iterator[Connection]:
    """
    Yield a process's connections to other machines; those who came to *own_port* aren't its own.

    Questions to a name server are left out: they are asked for this machine's own name as well.
    """
    inodes = set(_inodes(pid))
    if not inodes:
        return
    for table in TABLES:
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] not in inodes or fields[3] == LISTENING:
                    continue
                (host, port), (own_host, at) = _address(fields[2]), _address(fields[1])
                if port and at != own_port and port != DNS_PORT and not is_own(host):
                    yield Connection(f"{own_host}:{at}", f"{host}:{port}")


def is_own(host: str) -> bool:
    """Whether *host* is an address of this machine, on loopback or not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_loopback or mapped.is_unspecified:
        return True
    family = socket.AF_INET if mapped.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(mapped), 0))
    except OSError:
        return False
    return True


def _inodes(pid: int) -> Iterator[str]:
    """Yield the inodes of a process's sockets; none where it is gone, or another user's."""
    with contextlib.suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                link = os.readlink(descriptor)
                if link.startswith("socket:["):
                    yield link.removeprefix("socket:[").rstrip("]")


def _address(text: str) -> tuple[str, int]:
    """Read `0100007F:1F90`: an address in words of the machine's own byte order, and a port."""
    digits, _, port = text.partition(":")
    words = [digits[at : at + WORD_DIGITS] for at in range(0, len(digits), WORD_DIGITS)]
    step = -1 if sys.byteorder == "little" else 1
    packed = b"".join(bytes.fromhex(word)[::step] for word in words)
    return str(ipaddress.ip_address(packed)), int(port, 16)
