"""PT: `X-Process-Time`."""

import re

import pytest

from conformance.answers import BAD, ERRORS, GOOD, KINDS, LONG_TASK, OTHERS, Answers
from conformance.catalogue import Requirement
from conformance.client import Exchange, Server
from conformance.launch import Launched, Launcher
from conformance.odd import REFUSALS, refusal_of
from conformance.serverlog import ServerLog
from conformance.start import UNREADY, Moment
from conformance.verdicts import check, not_tested, requirement

HEADER = "X-Process-Time"
DECIMAL = re.compile(r"\d+(\.\d+)?")
DURATION = re.compile(r"duration=(\d+\.\d+)s")
MEASURABLE_S = 0.05
N_LONG = 512
LOG_AGREES_WITHIN_S = 0.05


def header_of(answer: Exchange) -> str:
    """Return the header's value; empty when there is none, joined when there are more."""
    return ", ".join(answer.values(HEADER.lower()))


def check_is_decimal(demand: Requirement, answer: Exchange) -> None:
    """Demand one plain decimal number."""
    header = header_of(answer)
    is_decimal = DECIMAL.fullmatch(header) is not None
    check(demand, is_decimal, f"{HEADER}: {header or 'none'}", answer)


def seconds_of(answer: Exchange) -> float:
    """Return the header's value; leave the check open where it can't be read."""
    try:
        return float(header_of(answer))
    except ValueError:
        not_tested(f"no readable {HEADER}")


def last_place(header: str) -> float:
    """Return the step of the last digit written, which may have been rounded up."""
    return float(10 ** -len(header.partition(".")[2]))


@pytest.mark.parametrize("kind", OTHERS)
@requirement("PT-1")
def test_time_on_every_response(demand: Requirement, answers: Answers, kind: str) -> None:
    """Every response says how long it took, as a plain decimal number."""
    check_is_decimal(demand, answers.truly_of(kind))


@pytest.mark.parametrize("kind", KINDS)
@requirement("PT-2")
def test_time_is_within_the_clients(demand: Requirement, answers: Answers, kind: str) -> None:
    """The server can't have worked for longer than the client waited for its headers."""
    answer = answers.truly_of(kind)
    seconds = seconds_of(answer)
    limit = answer.head_s + last_place(header_of(answer))

    check(
        demand,
        0 <= seconds <= limit,
        f"{HEADER}: {header_of(answer)}, but the client waited {answer.head_s:.4f} s",
        answer,
    )


@requirement("PT-3")
def test_time_covers_the_work(demand: Requirement, server: Server, answers: Answers) -> None:
    """A generation's time is most of what the client waited for, and more than a quick answer's."""
    quick, answer = server.get("/health"), answers.truly_of("completion")
    if answer.total_s - quick.total_s <= MEASURABLE_S:
        longer = server.chat(LONG_TASK, max_tokens=N_LONG, temperature=0)
        answer = longer if longer.status in GOOD else answer
    quick_s, work_s = seconds_of(quick), seconds_of(answer)
    waited_s = answer.total_s - quick.total_s
    if waited_s <= MEASURABLE_S:
        not_tested(f"the generation took only {waited_s:.3f} s")

    check(
        demand,
        work_s >= waited_s / 2 and work_s > quick_s,
        f"{HEADER}: {work_s:g}, but the generation took the client {waited_s:.3f} s "
        f"(/health: {quick_s:g})",
        answer,
    )


@requirement("PT-4", profile=("managed", "log"))
def test_time_agrees_with_the_log(demand: Requirement, logged: tuple[Server, ServerLog]) -> None:
    """Client and log are told the same duration."""
    server, log = logged
    answer = server.chat("Hello", max_tokens=8)
    line = log.wait_for("Request completed", answer.request_id)
    found = DURATION.search(line)
    if not found:
        not_tested("the log shows no duration for the request's id")
    logged_s, told_s = float(found[1]), seconds_of(answer)

    check(
        demand,
        abs(logged_s - told_s) <= LOG_AGREES_WITHIN_S,
        f"{HEADER}: {told_s:g}, in the log {logged_s:g} s",
        answer,
    )


@pytest.mark.parametrize("kind", ERRORS)
@requirement("PT-5")
def test_time_on_errors(demand: Requirement, answers: Answers, kind: str) -> None:
    """An error took its time as well, and says so."""
    check_is_decimal(demand, answers.truly_of(kind))


@pytest.mark.closing
@requirement("PT-1", "PT-5", profile=("wire", "openai"))
def test_time_on_all_that_was_seen(demand: Requirement, server: Server, answers: Answers) -> None:
    """Of all responses in this run, on whichever route, none lacks its time: good ones, errors."""
    answers.of("models")
    for answer in server.journal.seen:
        if (answer.status >= BAD.start) == (demand.id == "PT-5"):
            check_is_decimal(demand, answer)


@pytest.mark.parametrize("kind", REFUSALS)
@requirement("PT-5", profile="managed")
def test_time_on_rare_refusals(
    demand: Requirement, launcher: Launcher, launched: Launched, kind: str
) -> None:
    """What can't be had from any server for nothing says its time, too."""
    check_is_decimal(demand, refusal_of(kind, launcher, launched))


@requirement("PT-5", profile=UNREADY)
def test_time_while_not_ready(demand: Requirement, moments: list[Moment]) -> None:
    """The 503 of a server that isn't ready says its time as well."""
    unready = [each.health for each in moments if each.health.status == 503]
    if not unready:
        not_tested("no 503 was seen")
    for answer in unready:
        check_is_decimal(demand, answer)
