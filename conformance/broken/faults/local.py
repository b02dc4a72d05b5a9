"""Servers that don't keep to themselves. They do it in a way that leaves no machine in truth."""

import contextlib
import socket
import urllib.request

from conformance.broken.fault import breaks
from conformance.broken.miniature import LOG, Asked, Miniature, Reply

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
        if hasattr(socket, "SO_BINDTODEVICE"):
            home.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            home.connect((HOME, 9))  # bound to loopback, a datagram socket sends nothing for that
        vars(self).setdefault("homes", []).append(home)
        return super().chat(asked)
