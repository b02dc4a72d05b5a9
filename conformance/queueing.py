"""
What a crowd of streams shows of permits and the queue.

Some functions send a crowd, others say what is wrong with what became of it, and return an empty
string where nothing is. Where a crowd has to wait, the instance has one permit.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import NamedTuple

from conformance.answers import LONG_TASK
from conformance.client import Exchange, NoAnswer, Request, Server
from conformance.crowd import (
    MOST_STREAMS,
    Pace,
    Stream,
    most_at_once,
    together,
)
from conformance.lag import Lag
from conformance.verdicts import not_tested

ONE = {"MAX_CONCURRENCY": "1"}
N_STREAMS = 4
N_TOO_MANY = 4
HOLDS = (3, 12, 12, 24)
CROWDS = (3, 12)  # of how many timeouts' streams; the larger one where the first was over too soon
EARLY_S = 0.1
LATE_S = 1.0
N_LAGS = 3  # of this process, of the server's two
AT_ONCE_S = 1.0
ARRIVES_S = 0.1
GONE_WITHIN_S = 4.0


class Crowd(NamedTuple):
    """
    Streams that were asked for at once.

    Attributes:
        answered: those that spoke.
        refused: those that were answered with an error.
        lost: those that were neither, in the time of an exchange.
        lag_s: how late this machine was meanwhile, at worst.
    """

    answered: list[Stream]
    refused: list[Stream]
    lost: list[Stream]
    lag_s: float = 0.0


def crowd_of(streams: list[Stream]) -> Crowd:
    """
    Sort *streams* by what became of them.

    Raises:
        NoAnswer: one of them was cut off.
    """
    for stream in streams:
        if stream.error and not stream.error.is_late:
            raise stream.error
    answered = [stream for stream in streams if stream.times]
    refused = [stream for stream in streams if stream.was_refused]
    lost = [stream for stream in streams if stream.error and not stream.times]
    return Crowd(answered, refused, lost)


def n_at_once(server: Server, pace: Pace, n_streams: int = N_STREAMS) -> int:
    """Return how many of a few streams speak at the same time."""
    crowd = crowd_of(together(server, n_streams, pace))
    if len(crowd.answered) < 2:
        not_tested(f"only {len(crowd.answered)} of {n_streams} streams were answered")
    return most_at_once(crowd.answered)


def waiting(server: Server, pace: Pace, timeout_s: float) -> Crowd:
    """
    Ask for more streams at once than there is time for.

    Those that found the queue full aren't among the refused: they show nothing of the time.

    Raises:
        NotTested: nobody has to wait for long enough.
    """
    if server.timeout_s < timeout_s + pace.waits_s + LATE_S:
        not_tested(f"--timeout is too short for a wait of {timeout_s:g} s")
    for n_times in CROWDS:
        n_streams = min(MOST_STREAMS, ceil(n_times * timeout_s / pace.lasts_s) + 2)
        if n_streams * pace.lasts_s < 2 * timeout_s:
            not_tested(f"too fast: {n_streams} streams of {pace.lasts_s:.3f} s keep nobody waiting")
        with Lag() as lag:
            crowd = crowd_of(together(server, n_streams, pace))
        waited_s = max((each.waited_s for each in crowd.answered), default=timeout_s)
        if crowd.refused or crowd.lost or waited_s >= timeout_s:
            break  # else the pace was measured while the machine had much else to do
    if most_at_once(crowd.answered) > 1:
        not_tested("MAX_CONCURRENCY=1 isn't kept, so that nobody has to wait")
    late = [each for each in crowd.refused if not _found_it_full(each, timeout_s)]
    return crowd._replace(refused=late, lag_s=lag.worst_s)


def _found_it_full(stream: Stream, timeout_s: float) -> bool:
    """Whether a stream was refused for want of a place, which shows nothing of the time."""
    answer = stream.answer
    return answer is not None and answer.status == 429 and answer.total_s < timeout_s / 2


def timeout_problem(crowd: Crowd, pace: Pace, timeout_s: float) -> str:
    """
    Say what is wrong with the time after which *waiting* streams were refused.

    Raises:
        NotTested: nobody had waited for long enough.
    """
    limit_s = timeout_s + pace.waits_s + LATE_S + N_LAGS * crowd.lag_s
    waited_s = max((each.waited_s for each in crowd.answered), default=0.0)
    refused_s = [each.answer.total_s for each in crowd.refused if each.answer]
    if crowd.lost:
        return f"{len(crowd.lost)} were neither answered nor refused"
    if waited_s > limit_s:
        return f"one that had waited {waited_s:.2f} s was answered all the same"
    if not refused_s:
        not_tested(f"nobody was refused, but then nobody waited longer than {waited_s:.2f} s")
    if min(refused_s) < timeout_s - EARLY_S or max(refused_s) > limit_s:
        return f"refused after {min(refused_s):.2f} to {max(refused_s):.2f} s"
    return ""


def filled(server: Server, pace: Pace, n_places: int) -> Crowd:
    """
    Let one stream hold the permit, ask at once for more than may wait, and return these.

    Raises:
        NotTested: the permit was free again too soon, or the crowd had to wait too long.
    """
    for n_times in HOLDS:
        with Lag() as lag:
            holder, crowd = _crowd_behind(server, pace, n_places, n_times)
        if not holder.times:
            not_tested(f"the first stream got {holder.error or holder.answer}")
        if max(stream.sent_s for stream in crowd) + ARRIVES_S < holder.times[-1]:
            break
    else:
        not_tested(f"too fast: the first stream was over after {holder.lasted_s:.3f} s")
    found = crowd_of(crowd)._replace(lag_s=lag.worst_s)
    if found.lost:
        not_tested(f"too slow: {len(found.lost)} got neither text nor refusal in time")
    if most_at_once([holder, *found.answered]) > 1:
        not_tested("MAX_CONCURRENCY=1 isn't kept, so that the queue can't be filled")
    return found


def _crowd_behind(
    server: Server, pace: Pace, n_places: int, n_times: int
) -> tuple[Stream, list[Stream]]:
    """Run a stream of *n_times* the usual length, and a crowd as soon as it speaks."""
    holder = pace.stream(server, n_times)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(holder.run)
        holder.speaking.wait(server.timeout_s)
        crowd = together(server, n_places + N_TOO_MANY, pace)
        held.result()
    return holder, crowd


def size_problem(crowd: Crowd, n_places: int) -> str:
    """Say what is wrong with how many of a *filled* queue's streams were let in."""
    n_waited = len(crowd.answered)
    return "" if n_waited == n_places else f"{n_waited} waited where {n_places} may"


def refused_by_full_queue(
    server: Server, pace: Pace, n_streams: int, probes: Mapping[str, Request]
) -> dict[str, Exchange | NoAnswer]:
    """
    Fill the queue with *n_streams*, and return what each of *probes* gets that comes then.

    What isn't refused is asked again behind a longer stream: on a busy machine a place may not
    have been taken yet, or be free again.

    Raises:
        NotTested: the permit isn't held for long enough.
    """
    found: dict[str, Exchange | NoAnswer] = {}
    for n_times in HOLDS:
        left = {name: each for name, each in probes.items() if not is_refusal(found.get(name))}
        holder = pace.stream(server, n_times)
        crowd = [pace.stream(server) for _ in range(n_streams)]
        with ThreadPoolExecutor(1 + n_streams + len(probes)) as pool:
            streams = [pool.submit(holder.run)]
            holder.speaking.wait(server.timeout_s)
            streams += [pool.submit(each.run) for each in crowd]
            time.sleep(ARRIVES_S)
            asked = {name: pool.submit(_ask, server, each) for name, each in left.items()}
            is_held = not streams[0].done()
            found |= {name: each.result() for name, each in asked.items()}
        if not holder.times:
            not_tested(f"the first stream got {holder.error or holder.answer}")
        if is_held and all(map(is_refusal, found.values())):
            break
    if not is_held:
        not_tested(f"too fast: the first stream was over after {holder.lasted_s:.3f} s")
    return found


def is_refusal(answer: Exchange | NoAnswer | None) -> bool:
    """Whether a full queue was told of."""
    return isinstance(answer, Exchange) and answer.status == 429


def _ask(server: Server, request: Request) -> Exchange | NoAnswer:
    try:
        return server.send(request)
    except NoAnswer as error:
        return error


def shortage(server: Server, n_places: int) -> str:
    """
    Say what is missing of one permit and *n_places* in the queue, once all who had them are gone.

    Who has hung up may be generated for to the end, so this is patient for a while.
    """
    deadline = time.monotonic() + GONE_WITHIN_S
    request = server.chat_request(LONG_TASK, max_tokens=1)
    while True:
        with ThreadPoolExecutor(1 + n_places) as pool:
            found = list(pool.map(lambda _: _ask(server, request), range(1 + n_places)))
        lacking = [str(each) for each in found if getattr(each, "status", 0) != 200]
        if not lacking or time.monotonic() > deadline:
            return f"{len(lacking)} of {len(found)}: {lacking[0]}" if lacking else ""
        time.sleep(ARRIVES_S)
