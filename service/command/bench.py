"""
`tier3a bench URL`: how fast a live server is, seen for a moment as its clients see it.

One client, then eight at once, each with a question that nobody asked before, streamed. What is measured is
what a person would notice: the time to the first token, and tokens a second. `tests/benchmarks` does it at
length, in turns with other servers; this only says where one stands.
"""

from __future__ import annotations

import http.client
import json
import secrets
import statistics
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import click

CLIENTS = (1, 8)
N_TOKENS = 128
TIMEOUT_S = 60.0  # taste: for one sign of life
LIMIT_S = 30.0  # taste: an answer that takes longer is measured as far as it is


class NoAnswer(click.ClickException):
    """The server can't be measured; the message says why."""


@dataclass(frozen=True)
class Answer:
    """
    One answer as its client saw it.

    Attributes:
        first_s: seconds from the request until the first text came.
        n_tokens: tokens that the server says it generated; pieces of text, where it was not waited for that.
    """

    first_s: float
    n_tokens: int


@dataclass(frozen=True)
class Server:
    """Where requests go, and what lets them in."""

    url: str
    api_key: str | None

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection, not opened yet."""
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        return kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)

    @property
    def headers(self) -> dict[str, str]:
        """What each request carries."""
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return {"Content-Type": "application/json", **key}


@click.command(
    "bench", help="Measure the server at URL for a moment: with one client, then with eight."
)
@click.argument("url")
@click.option("--api-key", envvar="API_KEY", help="Key that the server asks for.")
@click.option(
    "--model", help="Model to ask; the first of those that are listed where it is left out."
)
@click.option(
    "--tokens", default=N_TOKENS, show_default=True, type=click.IntRange(1, 4096),
    help="Most tokens of an answer.",
)  # fmt: skip
def command(url: str, api_key: str | None, model: str | None, tokens: int) -> None:
    """Ask, and print a line for each number of clients."""
    server = Server(url.rstrip("/").removesuffix("/v1"), api_key)
    model = model or first_model(server)
    click.echo(f"{model} at {server.url}, answers of {tokens} tokens at most")
    for n_clients in CLIENTS:
        answers, lasted_s = crowd(server, model, tokens, n_clients)
        click.echo(line(answers, lasted_s))


def line(answers: list[Answer], lasted_s: float) -> str:
    """Return in words what a number of clients saw, who began together and were done after *lasted_s*."""
    first = [answer.first_s for answer in answers]
    n_tokens = sum(answer.n_tokens for answer in answers)
    n = len(answers)
    return (
        f"{n} client{'s' * (n > 1)}: first token after {statistics.median(first):.3f} s "
        f"(slowest {max(first):.3f} s), {n_tokens / lasted_s:,.1f} tokens/s in all"
    )


def first_model(server: Server) -> str:
    """
    Return the id of the first model that the server lists.

    Raises:
        NoAnswer: it lists none, or does not answer as such a server does.
    """
    connection = server.connect()
    try:
        connection.request("GET", f"{urlsplit(server.url).path}/v1/models", headers=server.headers)
        response = connection.getresponse()
        body = json.loads(response.read())
        return str(body["data"][0]["id"])
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{server.url}: {error or type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise NoAnswer(f"{server.url} lists no model (status {response.status})") from error
    finally:
        connection.close()


def crowd(server: Server, model: str, tokens: int, n_clients: int) -> tuple[list[Answer], float]:
    """
    Return the answers to so many clients at once, and the seconds until the last was done.

    Raises:
        NoAnswer: one of them got none.
    """
    answers: list[Answer] = []
    faults: list[NoAnswer] = []

    def client() -> None:
        try:
            answers.append(ask(server, model, tokens))
        except NoAnswer as fault:
            faults.append(fault)
        except (OSError, http.client.HTTPException, ValueError) as error:
            faults.append(NoAnswer(f"{server.url}: {error or type(error).__name__}"))

    clients = [threading.Thread(target=client, daemon=True) for _ in range(n_clients)]
    began_s = time.monotonic()
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    if faults:
        raise faults[0]
    return answers, time.monotonic() - began_s


def ask(server: Server, model: str, tokens: int) -> Answer:
    """
    Ask one question by a connection of its own, and read its stream to the end.

    Raises:
        NoAnswer: what came is no such stream.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me a story about {secrets.token_hex(8)}."}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = server.connect()
    began_s = time.monotonic()
    first_s, n_pieces, n_tokens = None, 0, None
    try:
        path = f"{urlsplit(server.url).path}/v1/chat/completions"
        connection.request("POST", path, json.dumps(body), server.headers)
        response = connection.getresponse()
        if response.status != 200:
            raise NoAnswer(f"{server.url} answered {response.status}: {response.read(300)!r}")
        for row in response:
            if not row.startswith(b"data: {"):
                continue
            event = json.loads(row[6:])
            if "error" in event:
                raise NoAnswer(f"{server.url} broke off: {event['error']}")
            said = [choice.get("delta") or {} for choice in event.get("choices") or ()]
            passed_s = time.monotonic() - began_s
            if any(value for delta in said for name, value in delta.items() if name != "role"):
                first_s = passed_s if first_s is None else first_s
                n_pieces += 1
            n_tokens = (event.get("usage") or {}).get("completion_tokens", n_tokens)
            if first_s is not None and passed_s > LIMIT_S:
                break
    finally:
        connection.close()
    if first_s is None:
        raise NoAnswer(f"{server.url} streamed no text")
    return Answer(first_s, n_pieces if n_tokens is None else n_tokens)
