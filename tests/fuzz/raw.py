"""
Bytes that are hardly HTTP, to a server's socket: `python -m tests.fuzz.raw`.

Each connection is made of its number alone: a request, or several, mutated, cut into pieces, left half way or
closed hard. What comes back is a response, or the end of the connection, in bounded time; whatever it was,
the server lives on and all that was begun ends.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import click

from tests.fuzz.accounts import left_over
from tests.fuzz.asking import READY_S, chat, connected, posted
from tests.fuzz.record import Row, tell
from tests.live import UVICORN, LiveServer, running

ANSWER_S = 15.0  # a head that doesn't come is answered after ten
STATUSES = {200, 400, 403, 404, 405, 408, 411, 413, 414, 415, 417, 426, 429, 431, 501, 503, 505}
CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
)
BODY = posted(chat(max_tokens=1)).partition(b"\r\n\r\n")[2]
GOOD = [
    posted(chat(max_tokens=1)),
    posted(chat(max_tokens=1, stream=True)),
    CHUNKED % (len(BODY), BODY),
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a.example\r\n\r\n",
    b"GET /health HTTP/1.0\r\n\r\n",
    b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
]
ODD = [
    b"\r\n", b"\n", b"\r", b"\x00", b":", b" ", b"\t", b"\xff\xfe", b"%00", b"%0d%0a", b"../", b"?", b"#",
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"Host: evil.example\r\n", b"Connection: close\r\n", b"X-A: " + b"a" * 9000 + b"\r\n",
    b"ffffffffffffffff\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n",
]  # fmt: skip
Change = Callable[[bytes, random.Random], bytes]


def _insert(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(ODD) + data[at:]


def _header(data: bytes, dice: random.Random) -> bytes:
    line, end, rest = data.partition(b"\r\n")
    return line + end + dice.choice(ODD) + rest


def _byte(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]


def _drop(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + data[at + dice.randrange(1, 9) :]


def _cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(1, len(data) + 1)]


def _double(data: bytes, dice: random.Random) -> bytes:
    return data + dice.choice(GOOD)


def _noise(data: bytes, dice: random.Random) -> bytes:
    return dice.randbytes(dice.randrange(1, 200)) + data[dice.randrange(len(data)) :]


CHANGES: list[Change] = [_insert, _header, _byte, _drop, _cut, _double, _noise]


def conversation(number: int, seed: int) -> tuple[list[bytes], str]:
    """Return the pieces to send, and how to go then: wait, half (close for writing), leave or reset."""
    dice = random.Random(f"raw/{seed}/{number}")
    data = dice.choice(GOOD)
    for _ in range(dice.choice([0, 1, 1, 2, 3])):
        data = dice.choice(CHANGES)(data, dice) or b"\r\n"
    borders = sorted(dice.randrange(len(data)) for _ in range(dice.choice([0, 0, 1, 3])))
    edges = [0, *borders, len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges) if a < b]
    return pieces, dice.choice(["wait", "wait", "half", "leave", "reset"])


def talk(server: LiveServer, number: int, seed: int, patience_s: float) -> tuple[str, str | None]:
    """Have one conversation; return how it ended, and what was wrong with that."""
    pieces, how = conversation(number, seed)
    with connected(server) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how in {"leave", "reset"}:
                return how, None
            if how == "half":
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(patience_s)
            return _heard(connection, "HEAD" if b"".join(pieces).startswith(b"HEAD") else "GET")
        except TimeoutError:
            return (
                "silence",
                None,
            )  # more was waited for than was sent: the server's deadlines end that
        except OSError:
            return "closed", None


def _heard(connection: socket.socket, method: str) -> tuple[str, str | None]:
    """Read the first response, if there is one."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
    except http.client.RemoteDisconnected:
        return "closed", None
    except http.client.BadStatusLine as broken:
        return "no HTTP", str(broken)[:200]
    except http.client.IncompleteRead:
        return "cut", "the answer has no end"
    status = response.status
    if status not in STATUSES:
        return str(status), f"status {status}"
    if not (response.getheader("X-Request-ID") and response.getheader("X-Process-Time")):
        return str(status), f"a header is missing at {status}"
    if b"Traceback" in body:
        return str(status), "it tells internals"
    return str(status), None


def run(
    server: LiveServer, numbers: Iterable[int], seed: int, n_clients: int, patience_s: float
) -> tuple[Counter[str], list[str]]:
    """Have the conversations of *numbers*; return how often each ended how, and what was wrong with which."""
    ends: Counter[str] = Counter()
    faults: list[str] = []

    def one(number: int) -> tuple[int, str, str | None]:
        return number, *talk(server, number, seed, patience_s)

    with ThreadPoolExecutor(n_clients) as pool:
        for number, end, fault in pool.map(one, numbers):
            ends[end] += 1
            if fault is not None:
                faults.append(f"conversation {number} of seed {seed}: {fault}")
    return ends, faults


@click.command()
@click.option("--connections", default=20_000, show_default=True)
@click.option("--clients", default=32, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the record.")
def main(connections: int, clients: int, seed: int, out: Path | None) -> None:
    """Talk so often, and look for answers that are none and for what is left over."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "log", UVICORN, MAX_CONCURRENCY="32") as server,
    ):
        server.wait_until("/readyz", 200, READY_S)
        engine = server.engine_pid()
        ends, faults = run(server, range(connections), seed, clients, ANSWER_S)
        time.sleep(1)
        wrong = left_over(server)
        log = server.log_text()
        if engine != server.engine_pid():
            wrong = "the engine died"
        if "Traceback" in log:
            wrong = "the log has a traceback"
            click.echo(log[log.index("Traceback") :][:4000])
    for fault in faults:
        click.echo(fault)
    told = ", ".join(f"{end}: {n:,}" for end, n in sorted(ends.items()))
    row = Row(
        what=f"{connections:,} connections with bytes that are hardly HTTP",
        goal="no fault of the server's, nothing left over",
        seen=f"{len(faults)} faults ({told})" + f"; {wrong}" * bool(wrong),
        is_met=not (faults or wrong),
        command=f"python -m tests.fuzz.raw --connections {connections}",
    )
    tell(row, out)
    sys.exit(not row.is_met)


if __name__ == "__main__":
    main()
