"""
Requests that are nearly right, very many of them: `python -m tests.fuzz`.

Without a URL it starts a server for them, and looks at the end whether the engine is the same and every
request that was begun has ended. What is done is recorded as it goes, and where the record is there already,
the run goes on behind it. It ends with status 1 if any answer was a fault of the server's, and names the
requests, each of which can be sent again by its number.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tests.fuzz.accounts import left_over
from tests.fuzz.asking import READY_S
from tests.fuzz.record import Row, tell
from tests.fuzz.requests import request
from tests.live import UVICORN, LiveServer, running

RECORD_EVERY = 5000
MAX_AHEAD = 5000  # requests sent behind one that has no answer yet
TIMEOUT_S = 600  # of a machine that does much besides; who waits how long is measured elsewhere
# A request that lost its `max_tokens` is answered up to the context's end: a short one, many at once.
SERVER = {"CONTEXT_LENGTH": "256", "MAX_CONCURRENCY": "32", "QUEUE_SIZE": "1000"}
INTENDED = {503}  # it may be busy, or starting again after a fault that was told already


def send(host: str, port: int, data: bytes) -> tuple[int, str | None]:
    """Send a request; return the status, 0 for a connection without an answer, and what was wrong with it."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
            connection.sendall(data)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, wrong(response, response.read())
    except (http.client.HTTPException, ConnectionError):
        return 0, None
    except TimeoutError:
        return 0, "no answer in time"


def wrong(response: http.client.HTTPResponse, body: bytes) -> str | None:
    """Return what is wrong with an answer; None: nothing."""
    if response.status >= 500 and response.status not in INTENDED:
        return f"status {response.status}"
    if not response.getheader("X-Request-ID") or not response.getheader("X-Process-Time"):
        return "a header is missing"
    if b"Traceback" in body or b"site-packages" in body:
        return "it tells internals"
    if response.status >= 400:
        try:
            code = json.load(io.BytesIO(body))["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return "no envelope"
        return None if code else "no code"
    broken = b'"internal_error"' in body or b'"engine_died"' in body
    return "the stream broke" if broken else None


Outcome = tuple[int, int, str | None]


def outcomes(url: str, numbers: Iterable[int], seed: int, n_clients: int) -> Iterator[Outcome]:
    """
    Send the requests of *numbers*; yield the number, the status and what was wrong of each, in order.

    Whoever waits long for an answer holds up what is yielded, not what is sent.
    """
    host, _, port = url.removeprefix("http://").partition(":")

    def one(number: int) -> Outcome:
        return number, *send(host, int(port), request(number, seed))

    with ThreadPoolExecutor(n_clients) as pool:
        sent: deque[Future[Outcome]] = deque()
        for number in numbers:
            sent.append(pool.submit(one, number))
            while sent[0].done() or len(sent) >= MAX_AHEAD:
                yield sent.popleft().result()
                if not sent:
                    break
        for each in sent:
            yield each.result()


def told(number: int, seed: int, fault: str) -> str:
    """Return a *fault* as it is told."""
    return f"request {number} of seed {seed}: {fault}"


def run(
    url: str, numbers: Iterable[int], seed: int, n_clients: int
) -> tuple[Counter[int], list[str]]:
    """Send the requests of *numbers*; return how often each status came, and what was wrong with which."""
    seen: Counter[int] = Counter()
    faults: list[str] = []
    for number, status, fault in outcomes(url, numbers, seed, n_clients):
        seen[status] += 1
        if fault is not None:
            faults.append(told(number, seed, fault))
    return seen, faults


@contextmanager
def server_of_ours(log: Path) -> Iterator[LiveServer]:
    """Start a server; when all was sent, fail if the engine is another or a request has not ended."""
    with running(log, UVICORN, **SERVER) as server:
        server.wait_until("/readyz", 200, READY_S)
        engine = server.engine_pid()
        yield server
        if engine != server.engine_pid() or "Traceback" in server.log_text():
            raise click.ClickException("the engine died, or the log has a traceback")
        if wrong := left_over(server):
            raise click.ClickException(wrong)


def send_all(url: str, n_requests: int, seed: int, n_clients: int, record: Path) -> list[str]:
    """Send what the *record* does not have yet, and keep it; return the faults of all."""
    known: dict[str, Any] = {"n": 0, "statuses": {}, "faults": []}
    if record.exists():
        known = json.loads(record.read_text())
    seen = Counter({int(status): n for status, n in known["statuses"].items()})
    faults: list[str] = known["faults"]
    began_s, n_before = time.monotonic(), known["n"]
    for number, status, fault in outcomes(url, range(n_before, n_requests), seed, n_clients):
        seen[status] += 1
        if fault is not None:
            faults.append(told(number, seed, fault))
        n = number + 1
        if n % RECORD_EVERY and n < n_requests:
            continue
        statuses = {str(each): n_seen for each, n_seen in sorted(seen.items())}
        record.write_text(
            json.dumps({"n": n, "seed": seed, "statuses": statuses, "faults": faults})
        )
        rate = (n - n_before) / (time.monotonic() - began_s)
        click.echo(f"{n:,} of {n_requests:,}, {rate:.0f}/s, {len(faults)} faults, {statuses}")
    return faults


def row(record: Path, n_faults: int) -> Row:
    """Return what all runs of a *record* saw."""
    known = json.loads(record.read_text())
    statuses = ", ".join(f"{status}: {n:,}" for status, n in known["statuses"].items())
    return Row(
        f"{known['n']:,} requests that are nearly right",
        "no fault of the server's",
        f"{n_faults} faults ({statuses})",
        is_met=not n_faults,
        command=f"python -m tests.fuzz --requests {known['n']}",
    )


@click.command()
@click.option("--base-url", help="A server that runs. None: one is started.")
@click.option("--requests", "n_requests", default=10_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--clients", default=32, show_default=True)
@click.option(
    "--record", type=click.Path(path_type=Path), default=Path("fuzz.json"), show_default=True
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the row.")
def main(
    base_url: str | None, n_requests: int, seed: int, clients: int, record: Path, out: Path | None
) -> None:
    """Send requests that are nearly right, and look for answers that are not."""
    if base_url is not None:
        faults = send_all(base_url, n_requests, seed, clients, record)
    else:
        log = Path(tempfile.mkdtemp(prefix="fuzz-")) / "log"
        click.echo(f"The server's log: {log}")
        with server_of_ours(log) as server:
            faults = send_all(server.url, n_requests, seed, clients, record)
    for fault in faults:
        click.echo(fault)
    tell(row(record, len(faults)), out)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
