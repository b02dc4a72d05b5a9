"""
Streams side by side: when each of them spoke, and how many spoke at the same time.

A stream's head, its role and its pings may come while it still waits; only text counts. How long
a stream lasts is measured once on the server as it is, and what is asked of others is made to
fit: long enough that two of them can't seem to overlap by chance, short enough for a quick run.

On a busy machine a stream may be read long after it was sent, but then much of it at once: what
was sent before another stream began can't come in many reads after that one's first.
"""

import functools
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from conformance.answers import LONG_TASK
from conformance.client import Exchange, NoAnswer, Request, Server, read_json
from conformance.verdicts import not_tested

FEWEST_TOKENS, MOST_TOKENS = 16, 1536
MEASURABLE_S = 0.12
TOO_SHORT_S = 0.05
FEWEST_PIECES = 4
READS_UNDER_WAY = 2  # the one that another thread is busy with, and the one that takes all the rest
LATE_SHARE = 0.3
GIVEN = ("X-Request-ID", "conformance-stream")
MOST_STREAMS = 64


class Left(Exception):
    """The client hung up in the middle of an answer."""


class Stream:
    """
    One streamed chat.

    Attributes:
        sent_s: when it was asked for, on the monotonic clock.
        times: when each piece of its text came.
        reads: when each read from the socket that brought text did.
        speaking: set once the first has come, or none will.
        leaves_early: whether it hangs up as soon as the first has come.
        answer: the whole response; None until it is there, and where none came.
        error: why none came.
    """

    def __init__(self, server: Server, request: Request) -> None:
        self._server = server
        self._request = request
        self._line = b""
        self.sent_s = 0.0
        self.times: list[float] = []
        self.reads: list[float] = []
        self.speaking = threading.Event()
        self.leaves_early = False
        self.answer: Exchange | None = None
        self.error: NoAnswer | None = None

    def run(self) -> "Stream":
        """Ask, and read to the end."""
        self.sent_s = time.monotonic()
        try:
            self.answer = self._server.send(self._request, self._hear)
        except NoAnswer as error:
            self.error = error
        except Left:
            pass
        finally:
            self.speaking.set()
        return self

    def _hear(self, piece: bytes) -> None:
        now_s = time.monotonic()
        *lines, self._line = (self._line + piece).split(b"\n")
        data = [line.removeprefix(b"data:") for line in lines if line.startswith(b"data:")]
        if n_pieces := sum(map(_has_text, data)):
            self.times += [now_s] * n_pieces
            self.reads.append(now_s)
            self.speaking.set()
            if self.leaves_early:
                raise Left

    def is_speaking(self, moment: float) -> bool:
        """Whether it had begun at *moment*, and had more to say than what can have been on its way."""
        n_to_come = sum(moment < read for read in self.reads)
        n_late = max(READS_UNDER_WAY, LATE_SHARE * len(self.reads))
        return self.times[0] <= moment and n_to_come > n_late

    @property
    def was_refused(self) -> bool:
        """Whether it was answered with an error."""
        return self.answer is not None and self.answer.status >= 400

    @property
    def waited_s(self) -> float:
        """Seconds to its first text."""
        return self.times[0] - self.sent_s

    @property
    def lasted_s(self) -> float:
        """Seconds from its first text to its last."""
        return self.times[-1] - self.times[0]


class Pace(NamedTuple):
    """
    What to ask for, so that a stream lasts long enough.

    Attributes:
        n_tokens: how many tokens.
        fields: what else; `ignore_eos`, which many servers know, where it isn't refused.
        lasts_s: seconds from the first piece of text to the last.
        waits_s: seconds to the first.
    """

    n_tokens: int
    fields: Mapping[str, object] = {"ignore_eos": True}
    lasts_s: float = 0.0
    waits_s: float = 0.0

    def stream(self, server: Server, n_times: int = 1) -> Stream:
        """Return a stream, not asked for yet, that lasts *n_times* as long."""
        n_tokens = min(n_times * self.n_tokens, MOST_TOKENS)
        request = server.chat_request(
            LONG_TASK, [GIVEN], max_tokens=n_tokens, temperature=0, stream=True, **self.fields
        )
        return Stream(server, request)


@functools.cache
def pace_of(server: Server) -> Pace:
    """
    Measure one stream after another, each of twice the tokens, until one is long enough.

    Raises:
        NotTested: none lasts, or none comes in pieces.
    """
    pace = Pace(FEWEST_TOKENS)
    pace.stream(server).run()  # the first of all may be slow
    while True:
        stream = pace.stream(server).run()
        if stream.was_refused and pace.fields:
            pace = Pace(FEWEST_TOKENS, {})
            continue
        n_pieces = len(stream.times)
        if n_pieces < FEWEST_PIECES:
            seen = stream.error or stream.answer
            not_tested(f"asked for a stream, got {n_pieces} pieces of text: {seen}")
        is_at_its_end = n_pieces < pace.n_tokens / 2  # it stops by itself
        if stream.lasted_s >= MEASURABLE_S or pace.n_tokens == MOST_TOKENS or is_at_its_end:
            break
        pace = pace._replace(n_tokens=2 * pace.n_tokens)
    if stream.lasted_s < TOO_SHORT_S:
        not_tested(f"too fast to tell: {n_pieces} pieces of text within {stream.lasted_s:.3f} s")
    return pace._replace(lasts_s=stream.lasted_s, waits_s=stream.waited_s)


def together(server: Server, n_streams: int, pace: Pace) -> list[Stream]:
    """Run so many streams at once, to the end of the last."""
    streams = [pace.stream(server) for _ in range(n_streams)]
    with ThreadPoolExecutor(n_streams) as pool:
        return list(pool.map(Stream.run, streams))


def most_at_once(streams: Sequence[Stream]) -> int:
    """Return how many of them spoke at the same time, as far as that is sure."""
    spoken = [each for each in streams if each.times]
    moments = [each.times[0] for each in spoken]
    counts = [sum(each.is_speaking(moment) for each in spoken) for moment in moments]
    return max([min(1, len(spoken)), *counts])


def _has_text(data: bytes) -> bool:
    """Whether a chunk says something, whatever the field is called that says it."""
    chunk = read_json(data)
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = choice.get("delta") if isinstance(choice, dict) else None
    if not isinstance(delta, dict):
        return False
    return any(isinstance(value, str) and value for key, value in delta.items() if key != "role")
