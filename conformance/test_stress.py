"""HEALTH and RID while a crowd of streams and of quick requests keeps the server busy."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from conformance.answers import LONG_TASK, UNKNOWN_ROUTE
from conformance.catalogue import Requirement
from conformance.client import Exchange, NoAnswer, Request, Server
from conformance.test_health import check_stays_ready
from conformance.verdicts import check, not_tested, requirement

HEADER = "X-Request-ID"
HEALTH = "/health"
PATHS = (HEALTH, "/v1/models", HEALTH, UNKNOWN_ROUTE)
N_STREAMS = 16
N_STREAM_TOKENS = 48
N_QUICK = 200
N_AT_ONCE = 8
ANSWERS_WITHIN_S = 5.0


class Sent(NamedTuple):
    """A request of the crowd, its id, and what came of it."""

    id: str
    request: Request
    answer: Exchange | NoAnswer


class Storm:
    """
    A crowd of requests, sent at once.

    Attributes:
        streams: chats, as many as run or wait at the same time.
        quick: other requests, sent while the first of the streams flowed.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._flowing = threading.Event()
        with ThreadPoolExecutor(N_STREAMS + N_AT_ONCE) as pool:
            streams = [pool.submit(self._stream, number) for number in range(N_STREAMS)]
            self._flowing.wait(server.timeout_s)
            self.quick = list(pool.map(self._ask, range(N_QUICK)))
            self.streams = [stream.result() for stream in streams]

    def _stream(self, number: int) -> Sent:
        given = f"storm-stream-{number}"
        request = self._server.chat_request(
            LONG_TASK, [(HEADER, given)], max_tokens=N_STREAM_TOKENS, stream=True
        )
        return self._send(given, request)

    def _ask(self, number: int) -> Sent:
        given = f"storm-{number}"
        path = PATHS[number % len(PATHS)]
        return self._send(given, self._server.request("GET", path, [(HEADER, given)]))

    def _send(self, given: str, request: Request) -> Sent:
        try:
            return Sent(given, request, self._server.send(request, lambda _: self._flowing.set()))
        except NoAnswer as error:
            return Sent(given, request, error)

    @property
    def has_broken_out(self) -> bool:
        """Whether any of the streams flowed."""
        answers = [each.answer for each in self.streams]
        return any(isinstance(each, Exchange) and each.status == 200 for each in answers)


@pytest.fixture(scope="module")
def storm(server: Server) -> Storm:
    found = Storm(server)
    return found if found.has_broken_out else not_tested("none of the streams was answered")


def percentile(values: list[float], share: float) -> float:
    """Return the value that *share* of them don't exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


@requirement("HEALTH-16", profile="stress")
def test_health_answers_in_a_storm(demand: Requirement, server: Server, storm: Storm) -> None:
    """However many are served, whoever asks for the server's health is told in time."""
    if server.timeout_s < ANSWERS_WITHIN_S:
        not_tested(f"--timeout is below the {ANSWERS_WITHIN_S:g} s allowed")
    asked = [each for each in storm.quick if each.request.target.endswith(HEALTH)]
    answered = [each.answer for each in asked if isinstance(each.answer, Exchange)]
    if not answered:
        check(demand, False, f"none of {len(asked)} was answered: {asked[0].answer}")
    slowest = max(answered, key=lambda answer: answer.total_s)
    p99_s = percentile([answer.total_s for answer in answered], 0.99)

    n_lost = len(asked) - len(answered)
    check(demand, not n_lost, f"{n_lost} of {len(asked)} got no answer; p99 {p99_s:.2f} s", slowest)
    seen = f"after {slowest.total_s:.2f} s at worst, p99 {p99_s:.2f} s"
    check(demand, slowest.total_s <= ANSWERS_WITHIN_S, seen, slowest)


def answered_healths(storm: Storm) -> list[Exchange]:
    """Return the answers of /health in the storm; leave the check open where there are none."""
    asked = (each for each in storm.quick if each.request.target.endswith(HEALTH))
    found = [each.answer for each in asked if isinstance(each.answer, Exchange)]
    return found or not_tested("/health wasn't answered")


@requirement("HEALTH-18", profile="stress")
def test_health_stays_in_a_storm(demand: Requirement, storm: Storm) -> None:
    """A server with all permits taken and a queue before them is as healthy as before."""
    for health in answered_healths(storm):
        check_stays_ready(demand, health)


@requirement("RID-6", profile="stress")
def test_ids_are_kept_apart_in_a_storm(demand: Requirement, storm: Storm) -> None:
    """Each of many requests, streamed or quick, is answered, and under its own id."""
    for each in (*storm.quick, *storm.streams):
        if isinstance(each.answer, NoAnswer):
            # A stream may still be waiting for its turn when the time of an exchange is over.
            is_waiting = each in storm.streams and each.answer.is_late
            check(demand, is_waiting, f"{each.id} got no answer: {each.answer}")
        else:
            seen = f"{each.id} was answered as {each.answer.request_id}"
            check(demand, each.answer.request_id == each.id, seen, each.answer)
