"""Servers that don't keep to themselves. They do it in a way that leaves no machine in truth."""

import contextlib
import socket
import subprocess
import sys
import urllib.request

from conformance.broken.fault import breaks
from conformance.broken.miniature import LOG, Asked, Miniature, Reply
from conformance.network import is_own

HOME = "192.0.2.1"  # an address that nobody has, by RFC 5737


@breaks("LOCAL-1")
class LooksForUpdates(Miniature):
    def before_listening(self) -> None:
        LOG.info("looking for updates at %s", HOME)
        if urllib.request.getproxies():
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{HOME}/latest", timeout=1)


@breaks("LOCAL-1")
class CountsChatsElsewhere(Miniature):
    homes: list[socket.socket]

    def chat(self, asked: Asked) -> Reply:
        LOG.info("counted at %s", HOME)
        home = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if hasattr(socket, "SO_BINDTODEVICE") and not is_own(HOME):
            home.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            home.connect((HOME, 9))  # bound to loopback, a datagram socket sends nothing for that
        if is_own(HOME):
            home.sendto(b"counted", (HOME, 9))
        vars(self).setdefault("homes", []).append(home)
        return super().chat(asked)


class Secretly(Miniature):
    """Leaves for so short a time, or in such a way, that it takes a network of its own to see it."""

    needs_seclusion = True

    def before_listening(self) -> None:
        LOG.info("calling %s", HOME)
        if is_own(HOME):
            self.call()

    def call(self) -> None:
        """Turn to another machine; here every address is this one's."""


@breaks("LOCAL-1")
class CallsForAMoment(Secretly):
    def call(self) -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((HOME, 9)).close()


@breaks("LOCAL-1")
class CallsByDatagram(Secretly):
    def call(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as home:
            home.sendto(b"started", (HOME, 9))


@breaks("LOCAL-1")
class CallsFromAChild(Secretly):
    def call(self) -> None:
        words = f"import socket; socket.socket().connect_ex(({HOME!r}, 9))"
        subprocess.run([sys.executable, "-S", "-c", words], check=False)


@breaks("LOCAL-1")
class LooksUpAName(Secretly):
    def call(self) -> None:
        with contextlib.suppress(OSError):
            socket.getaddrinfo("updates.example", 443)
