"""
A server in a network of its own: `python -m conformance.secluded --port N --seen FILE -- COMMAND`.

On Linux a process can leave the network it was born in. In the new one there is nothing but
loopback, and every address there is leads to it: whoever turns to another machine is refused at
once, and nothing leaves this one. All that is sent can be read on loopback, however short it was,
by TCP or UDP, from the server or from a child of its own, which is born into the same network.

The port is listened on before the old network is left, and so is still in it: what comes to it
from outside is handed on to the same port inside.

Where that isn't allowed, the exit status is `NOT_ALLOWED`, and nothing was started.
"""

import argparse
import ctypes
import fcntl
import functools
import ipaddress
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NOT_ALLOWED = 97
HOST = "127.0.0.1"
PIECE_BYTES = 65_536
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40
ETH_P_ALL, PACKET_OUTGOING = 3, 4
LOOPBACK = 1
RTM_NEWROUTE, ADD = 24, 0x0405  # a request to create that is to be answered
TABLE_LOCAL, PROTOCOL_BOOT, SCOPE_HOST, TYPE_LOCAL, OUTGOING_INTERFACE = 255, 3, 254, 2, 4
TCP, UDP, DNS_PORT = 6, 17, 53
SYN, ACK = 0x02, 0x10


def seclude() -> None:
    """
    Leave this network for a new one, of which every address is this machine's.

    Raises:
        OSError: it isn't allowed here.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError("this system has no networks of one's own")
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP | IFF_RUNNING))
    own_every_address(socket.AF_INET)
    with suppress(OSError):  # a system without IPv6 has nobody to turn to by it
        own_every_address(socket.AF_INET6)


def own_every_address(family: int) -> None:
    """Make loopback the way to every address; see rtnetlink(7)."""
    numbers = (family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_BOOT, SCOPE_HOST, TYPE_LOCAL, 0)
    route = struct.pack("=8BI", *numbers) + struct.pack("=HHi", 8, OUTGOING_INTERFACE, LOOPBACK)
    head = struct.pack("=IHHII", 16 + len(route), RTM_NEWROUTE, ADD, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.send(head + route)
        (error,) = struct.unpack("=i", kernel.recv(PIECE_BYTES)[16:20])
    if error:
        raise OSError(-error, "rtnetlink")


def turned_to(packet: bytes) -> str:
    """Return whom a packet is the first to; empty where that is loopback, or it isn't the first."""
    if packet[0] >> 4 == 4:
        protocol, host, rest = packet[9], packet[16:20], packet[4 * (packet[0] & 15) :]
    else:
        protocol, host, rest = packet[6], packet[24:40], packet[40:]
    address = ipaddress.ip_address(host)
    if address.is_loopback or protocol not in {TCP, UDP}:
        return ""
    if protocol == TCP and rest[13] & (SYN | ACK) != SYN:
        return ""
    port = int.from_bytes(rest[2:4], "big")
    if protocol == UDP and port == DNS_PORT:
        name = ".".join(labels(rest[20:]))
        return "" if is_own_name(name) else f"a name server, about {name}"
    return f"{address} port {port}"


def labels(question: bytes) -> Iterator[str]:
    """Yield the parts of the name that a DNS question is about."""
    while question and (length := question[0]):
        yield question[1 : 1 + length].decode("latin-1")
        question = question[1 + length :]


def is_own_name(name: str) -> bool:
    """Whether a name is this machine's own, which is looked up by many a program at its start."""
    own = socket.gethostname().lower()
    return name.lower().split(".")[0] in {own.split(".")[0], "localhost"} or name.endswith(".arpa")


def watch(sniffer: socket.socket, seen: Path) -> None:
    """Write down whom packets are to, one in a line, each once."""
    known = {""}
    with seen.open("a", buffering=1) as file:
        while True:
            packet, address = sniffer.recvfrom(PIECE_BYTES)
            told = turned_to(packet) if address[2] == PACKET_OUTGOING else ""
            if told not in known:
                known.add(told)
                file.write(f"{told}\n")


def hand_on(outside: socket.socket, port: int) -> None:
    """Hand all connections on to the same port inside."""
    while True:
        client, _ = outside.accept()
        try:
            server = socket.create_connection((HOST, port))
        except OSError:
            client.close()
            continue
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=pour, args=(source, sink), daemon=True).start()


def pour(source: socket.socket, sink: socket.socket) -> None:
    """Hand on one way of a connection, to its end."""
    with suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@functools.cache
def can_be_had() -> bool:
    """Whether a process may have a network of its own on this machine."""
    words = [sys.executable, "-m", "conformance.secluded", "--port", "0", "--seen", os.devnull]
    return subprocess.run([*words, "--", sys.executable, "-c", ""], check=False).returncode == 0


def main(words: list[str]) -> int:
    """Run the command in a network of its own, and return its exit status."""
    parser = argparse.ArgumentParser(prog="conformance.secluded")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seen", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(words)
    outside = socket.create_server((HOST, options.port))
    try:
        seclude()
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    except (OSError, AttributeError):
        return NOT_ALLOWED
    for work in ((watch, sniffer, options.seen), (hand_on, outside, options.port)):
        threading.Thread(target=work[0], args=work[1:], daemon=True).start()
    return subprocess.Popen(options.command).wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
