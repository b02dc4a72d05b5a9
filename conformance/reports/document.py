"""One run as its JSON report: what was found, with the exchanges that show it, secrets taken out."""

import functools
import hashlib
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from conformance import catalogue
from conformance.catalogue import Requirement
from conformance.client import Exchange, Request
from conformance.findings import Finding, Findings, Outcome
from conformance.reports import shape
from conformance.session import Session
from conformance.start import Stretch

NAME = "tier3a-conformance"
SUITE = Path(__file__).parent.parent
BODY_CHARACTERS = 4000
REDACTED = "<redacted>"
KEY_VARIABLE = "$TIER3A_API_KEY"
SECRET_HEADERS = {"authorization", "cookie", "set-cookie", "x-api-key", "proxy-authorization"}
CURLS_OWN = {"host", "content-length", "accept", "accept-encoding", "user-agent"}


def build(
    session: Session, findings: Findings, outcome: Outcome, selected: str, now: float
) -> shape.Report:
    """
    Return the report of a run.

    Args:
        session: what was talked to.
        findings: what came of it.
        outcome: the verdict over all.
        selected: what was picked out by hand; empty when nothing was left out.
        now: the end of the run, on the monotonic clock.
    """
    exchanges = _Exchanges(session)
    lasted_s = now - session.started_s
    began = datetime.now(UTC) - timedelta(seconds=lasted_s)
    stretches = session.start.stretches() if session.start else []
    return {
        "format": shape.FORMAT,
        "suite": {
            "name": NAME,
            "revision": catalogue.revision().number,
            "catalogue_sha256": catalogue.sha256(),
            "code_sha256": _code_sha256(),
        },
        "run": {
            "started_at": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "duration_s": round(lasted_s, 3),
            "profiles": session.profiles,
            "timeout_s": session.timeout_s,
            "selected": selected,
            "assumed": session.assumed,
        },
        "server": _server(session),
        "verdict": cast(shape.Outcome, outcome.verdict),
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "counts": cast(shape.Counts, findings.counts()),
        "startup": [_span(stretch) for stretch in stretches],
        "requirements": [_row(row, findings, exchanges) for row in findings.rows],
        "excluded": [_excluded(row) for row in catalogue.load().values() if row.excluded],
        "exchanges": exchanges.listed,
        "baseline": _baseline(findings),
    }


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return *text* with each secret replaced."""
    for secret in filter(None, secrets):
        text = text.replace(secret, REDACTED)
    return text


def curl(request: Request, url: str) -> str:
    """
    Return a command line for bash that sends *request* once more to the server at *url*.

    What curl adds by itself is left to it; a bearer token is taken from an environment variable.
    """
    words = ["curl", "-sS", "-i", "--path-as-is"]
    if request.method == "HEAD":
        words.append("--head")
    elif request.method != ("POST" if request.body else "GET"):
        words += ["-X", request.method]
    words += _curl_headers(request)
    if request.body:
        words += ["--data-raw", _quoted(request.body)]
    return " ".join([*words, _quoted(f"{url}{request.target}".encode())])


def _curl_headers(request: Request) -> Iterable[str]:
    has_type = False
    for name, value in request.headers:
        has_type |= name.lower() == "content-type"
        if name.lower() == "authorization":
            yield f'-H "{name}: Bearer {KEY_VARIABLE}"'
        elif name.lower() not in CURLS_OWN or (name.lower() == "accept" and value != b"*/*"):
            yield f"-H {_quoted(name.encode() + b': ' + value)}"
    if request.body and not has_type:
        yield "-H 'Content-Type:'"  # curl would name a form's type of its own


def _quoted(data: bytes) -> str:
    """Quote for bash, bytes that aren't plain text as escapes."""
    if data.isascii() and data.decode("ascii").isprintable():
        return shlex.quote(data.decode("ascii"))
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in data
    )
    return f"$'{escaped}'"


class _Exchanges:
    """The exchanges that findings refer to, each once."""

    def __init__(self, session: Session) -> None:
        self.listed: list[shape.Exchange] = []
        self._session = session
        self._places: dict[int, int] = {}

    def place_of(self, exchange: Exchange | None) -> int | None:
        """Return an exchange's index, adding it where it is new."""
        if exchange is None:
            return None
        if id(exchange) not in self._places:
            self._places[id(exchange)] = len(self.listed)
            self.listed.append(self._shown(exchange))
        return self._places[id(exchange)]

    def _shown(self, exchange: Exchange) -> shape.Exchange:
        request = exchange.request
        return {
            "at_s": round(max(0.0, exchange.at_s - self._session.started_s), 4),
            "request": {
                "method": request.method,
                "target": self._text(request.target.encode("latin-1")),
                "headers": self._headers(request.headers),
                "body": self._text(request.body)[:BODY_CHARACTERS],
                "body_bytes": len(request.body),
            },
            "response": {
                "status": exchange.status,
                "headers": self._headers(exchange.headers),
                "body": self._text(exchange.body)[:BODY_CHARACTERS],
                "body_bytes": len(exchange.body),
            },
            "head_s": round(exchange.head_s, 6),
            "total_s": round(exchange.total_s, 6),
            "curl": redact(curl(request, exchange.url), self._session.secrets),
        }

    def _text(self, data: bytes) -> str:
        return redact(data.decode("utf-8", "replace"), self._session.secrets)

    def _headers(self, headers: Iterable[tuple[str, bytes]]) -> list[list[str]]:
        return [
            [name, REDACTED if name.lower() in SECRET_HEADERS else self._text(value)]
            for name, value in headers
        ]


def _server(session: Session) -> shape.Server:
    software = (value for each in session.journal.seen for value in each.values("server"))
    return {
        "name": session.name,
        "url": session.url,
        "command": redact(session.command, session.secrets),
        "model": session.known_model(),
        "software": next(software, ""),
    }


def _span(stretch: Stretch) -> shape.StartSpan:
    state = cast(shape.StartState, stretch.state)
    return {"state": state, "from_s": round(stretch.from_s, 4), "to_s": round(stretch.to_s, 4)}


def _row(row: Requirement, findings: Findings, exchanges: _Exchanges) -> shape.Requirement:
    found, verdict = findings.of_row(row), findings.verdict_of(row)
    reasons = [one.accepted for one in found if one.verdict == verdict]
    return {
        "id": row.id,
        "level": cast(shape.Level, row.level),
        "demand": row.demand,
        "section": row.section,
        "lines": row.lines,
        "implied": row.implied,
        "profiles": list(row.profiles),
        "verdict": cast(shape.Verdict, verdict),
        "accepted": reasons[0] if reasons and all(reasons) else "",
        "checks": [_check(one, exchanges) for one in found],
    }


def _check(finding: Finding, exchanges: _Exchanges) -> shape.Check:
    return {
        "id": finding.id,
        "test": finding.test,
        "profile": finding.profile,
        "summary": finding.summary,
        "verdict": cast(shape.Verdict, finding.verdict),
        "seen": finding.seen,
        "accepted": finding.accepted,
        "duration_s": round(finding.duration_s, 4),
        "exchange": exchanges.place_of(finding.exchange),
    }


def _excluded(row: Requirement) -> shape.Excluded:
    return {
        "id": row.id,
        "level": cast(shape.Level, row.level),
        "demand": row.demand,
        "section": row.section,
        "lines": row.lines,
        "reason": row.excluded,
    }


def _baseline(findings: Findings) -> shape.Baseline | None:
    baseline = findings.baseline
    if baseline is None:
        return None
    return {
        "file": Path(baseline.file).name,
        "accepted": [
            {"id": entry.id, "verdict": cast(shape.Verdict, entry.verdict), "reason": entry.reason}
            for entry in baseline.used()
        ],
        "stale": [entry.id for entry in baseline.stale()],
    }


@functools.cache
def _code_sha256() -> str:
    """Hash the suite's own code; the broken servers that prove it are no part of it."""
    digest = hashlib.sha256()
    for path in sorted([*SUITE.glob("*.py"), *SUITE.glob("reports/*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
