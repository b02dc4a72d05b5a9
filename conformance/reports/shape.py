"""
The JSON report of a run, as Python sees it.

One run of the suite gives one `Report`. Its JSON form is `contracts/conformance-report.schema.json`,
and the two are held against each other by the tests. Times that end in `_s` are seconds.
"""

from __future__ import annotations

from typing import Final, Literal, TypedDict

FORMAT: Final = 1

Level = Literal["MUST", "SHOULD"]
Verdict = Literal["PASS", "FAIL", "WARN", "NOT-TESTED", "INAPPLICABLE", "ENGINE-ERROR"]
Outcome = Literal[
    "conformant", "not conformant", "not fully verified", "unreachable", "engine error"
]
StartState = Literal["refused", "not ready", "warming up", "ready"]

Counts = TypedDict(
    "Counts",
    {
        "PASS": int,
        "FAIL": int,
        "WARN": int,
        "NOT-TESTED": int,
        "INAPPLICABLE": int,
        "ENGINE-ERROR": int,
    },
)


class Suite(TypedDict):
    """
    What tested.

    Attributes:
        revision: number of the catalogue of requirements; grows when one changes.
        catalogue_sha256: hash of the catalogue, 64 hexadecimal digits.
        code_sha256: hash of the suite's own code.
    """

    name: str
    revision: int
    catalogue_sha256: str
    code_sha256: str


class RunAlways(TypedDict):
    """
    When and how it was tested.

    Attributes:
        started_at: UTC, as `2026-11-22T23:40:01Z`.
        timeout_s: seconds that one exchange was allowed.
        selected: what was picked out by hand, in words; empty when nothing was left out.
    """

    started_at: str
    duration_s: float
    profiles: list[str]
    timeout_s: float
    selected: str


class Run(RunAlways, total=False):
    """
    A run, with what older reports don't tell.

    Attributes:
        assumed: capabilities that the model was taken to have, whatever its tags say.
    """

    assumed: list[str]


class Server(TypedDict):
    """
    What was tested.

    Attributes:
        name: what people call it; its host and port unless another name was given.
        command: how the suite started it; empty when it was running already.
        model: id of the model that was asked; empty when none was found.
        software: its `Server` header; empty when it has none.
    """

    name: str
    url: str
    command: str
    model: str
    software: str


class StartSpan(TypedDict):
    """One state of a server that starts, in seconds since it was launched."""

    state: StartState
    from_s: float
    to_s: float


class Check(TypedDict):
    """
    One check of a requirement.

    Attributes:
        id: the requirement's id, with the case where there are several.
        test: pytest's id of it.
        summary: what it looks at, in a sentence.
        seen: what was found instead, or why it wasn't tested or doesn't apply.
        accepted: the baseline's reason when its finding is accepted; else empty.
        exchange: index into the report's exchanges; None when it has none of its own.
    """

    id: str
    test: str
    profile: str
    summary: str
    verdict: Verdict
    seen: str
    accepted: str
    duration_s: float
    exchange: int | None


class Requirement(TypedDict):
    """
    One row of the catalogue, and what came of it.

    Attributes:
        section: heading of the integration guide that it comes from.
        lines: lines of the guide, such as `102-103`.
        implied: whether the guide doesn't write it but nothing works without it.
        profiles: kinds of run in which it can be checked.
    """

    id: str
    level: Level
    demand: str
    section: str
    lines: str
    implied: bool
    profiles: list[str]
    verdict: Verdict
    accepted: str
    checks: list[Check]


class Excluded(TypedDict):
    """A demand of the guide that no run can check over the wire, and why."""

    id: str
    level: Level
    demand: str
    section: str
    lines: str
    reason: str


class Request(TypedDict):
    """
    A request as it was sent; `body` is cut when long, `body_bytes` is its whole length.

    Attributes:
        headers: pairs of name and value, in their order.
    """

    method: str
    target: str
    headers: list[list[str]]
    body: str
    body_bytes: int


class Response(TypedDict):
    """A response as it came; `body` is cut when long, `body_bytes` is its whole length."""

    status: int
    headers: list[list[str]]
    body: str
    body_bytes: int


class Exchange(TypedDict):
    """
    One request and what came of it; secrets are already replaced.

    Attributes:
        at_s: from the start of the run to the request.
        response: None when no response came.
        head_s: from the request to the end of the response's head.
        total_s: from the request to the end of the response.
        curl: a command line that repeats the request.
    """

    at_s: float
    request: Request
    response: Response | None
    head_s: float
    total_s: float
    curl: str


class Accepted(TypedDict):
    """A finding that the baseline accepts: the run doesn't fail for it."""

    id: str
    verdict: Verdict
    reason: str


class Baseline(TypedDict):
    """
    Findings that were known before.

    Attributes:
        stale: ids that the baseline accepts although nothing is found there any more.
    """

    file: str
    accepted: list[Accepted]
    stale: list[str]


class Report(TypedDict):
    """
    One run of the suite against one server.

    Attributes:
        format: version of this shape.
        verdict: what the run says of the server as a whole.
        reason: the verdict explained in one line.
        exit_code: what pytest ended with.
        counts: requirements by verdict.
        startup: the states of a start that was watched; empty when none was.
        requirements: rows of the run's profiles, in the catalogue's order.
    """

    format: int
    suite: Suite
    run: Run
    server: Server
    verdict: Outcome
    reason: str
    exit_code: int
    counts: Counts
    startup: list[StartSpan]
    requirements: list[Requirement]
    excluded: list[Excluded]
    exchanges: list[Exchange]
    baseline: Baseline | None
