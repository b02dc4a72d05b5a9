"""Reports as the suite writes them, made up: rows of the real catalogue, invented servers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import get_args

from conformance import catalogue
from conformance.reports.shape import (
    Check,
    Counts,
    Exchange,
    Excluded,
    Outcome,
    Report,
    Requirement,
    Verdict,
)

CATALOGUE_SHA256 = "9f2c" * 16
CODE_SHA256 = "07be" * 16
# Enough for every shape that a page can take; more of them only take time.
AREAS = ("DISC", "MODEL", "RID", "PT", "HEALTH", "PAT", "OAI")
MODEL = "local-mlx/gemma-3-demo"
SEEN: dict[Verdict, str] = {
    "PASS": "",
    "FAIL": "no X-Request-ID; the headers are content-type, content-length, date, server",
    "WARN": "404 application/json {'title': '404 Not Found'}: no envelope",
    "NOT-TESTED": "not tested: needs --server-log or --launch",
    "INAPPLICABLE": 'doesn\'t apply: no model carries the tag "embeddings"',
    "ENGINE-ERROR": "KeyError: 'choices' in conformance/test_openai.py, line 41",
}
HEADERS = [["Host", "127.0.0.1:8000"], ["User-Agent", "tier3a-conformance"], ["Accept", "*/*"]]
CHUNK = '{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{}}]}'


def verdicts() -> tuple[Verdict, ...]:
    """Return every verdict that there is."""
    return get_args(Verdict)


def outcomes() -> tuple[Outcome, ...]:
    """Return every verdict over all that there is."""
    return get_args(Outcome)


def exchanges() -> list[Exchange]:
    """Return a look at the models, a chat, a stream, and a request that nothing answered."""
    answered = [["content-type", "application/json"], ["X-Request-ID", "6f1c9d0e-2b7a-4c55"]]
    listed = {"object": "list", "data": [{"id": MODEL, "context_length": 2048, "tags": ["chat"]}]}
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
    said = {"id": "chatcmpl-1", "choices": [{"message": {"content": "Hello — good day!"}}]}
    streamed = f"data: {CHUNK}\n\n" * 4 + "data: [DONE]\n\n"
    return [
        exchange("GET", "/v1/models", answered, json.dumps(listed)),
        exchange("POST", "/v1/chat/completions", answered, json.dumps(said), json.dumps(asked)),
        exchange(
            "POST",
            "/v1/chat/completions",
            [["content-type", "text/event-stream"], ["X-Process-Time", "0.0031"]],
            streamed,
            json.dumps(asked | {"stream": True}),
        ),
        exchange("GET", "/health", answered, json.dumps({"status": "ok"}), status=503),
        exchange("GET", "/v1/models", None, ""),
    ]


def exchange(
    method: str,
    target: str,
    headers: list[list[str]] | None,
    body: str,
    sent: str = "",
    status: int = 200,
) -> Exchange:
    """Return one exchange; without *headers* it got no response."""
    curl = f"curl -sS -i http://127.0.0.1:8000{target}"
    if sent:
        curl += f" -H 'Content-Type: application/json' --data-raw '{sent}'"
    return {
        "at_s": 1.204,
        "request": {
            "method": method,
            "target": target,
            "headers": HEADERS,
            "body": sent,
            "body_bytes": len(sent.encode()),
        },
        "response": None
        if headers is None
        else {
            "status": status,
            "headers": headers,
            "body": body[:4000],
            "body_bytes": len(body.encode("utf-8", "replace")),
        },
        "head_s": 0.0021 if headers else 0.0,
        "total_s": 0.0034 if headers else 10.0,
        "curl": curl,
    }


def requirement(row: catalogue.Requirement, verdict: Verdict, n_checks: int = 2) -> Requirement:
    """Return *row* with *verdict*, the first of its checks deciding it."""
    return {
        "id": row.id,
        "level": "MUST" if row.is_must else "SHOULD",
        "demand": row.demand,
        "section": row.section,
        "lines": row.lines,
        "implied": row.implied,
        "profiles": list(row.profiles),
        "verdict": verdict,
        "accepted": "",
        "checks": [
            check(row.id, place, verdict if place == 0 or verdict != "FAIL" else "PASS")
            for place in range(n_checks)
        ],
    }


def check(requirement_id: str, place: int, verdict: Verdict) -> Check:
    """Return the check at *place* of a requirement."""
    case = ("list", "stream", "error", "preflight")[place % 4]
    return {
        "id": f"{requirement_id}-{case}",
        "test": f"conformance/test_request_id.py::test_on_each_response[{requirement_id}-{case}]",
        "profile": "wire",
        "summary": "Success or error, routed or not, streamed or not: there is one id, just one.",
        "verdict": verdict,
        "seen": SEEN[verdict],
        "accepted": "",
        "duration_s": 0.0031,
        "exchange": None if verdict == "NOT-TESTED" else place % 4,
    }


def excluded() -> list[Excluded]:
    """Return what the catalogue sets aside."""
    return [
        {
            "id": row.id,
            "level": "MUST" if row.is_must else "SHOULD",
            "demand": row.demand,
            "section": row.section,
            "lines": row.lines,
            "reason": row.excluded,
        }
        for row in catalogue.load().values()
        if row.excluded
    ]


def counts(rows: Iterable[Requirement]) -> Counts:
    """Return *rows* by verdict."""
    counted: Counts = {
        "PASS": 0,
        "FAIL": 0,
        "WARN": 0,
        "NOT-TESTED": 0,
        "INAPPLICABLE": 0,
        "ENGINE-ERROR": 0,
    }
    for row in rows:
        counted[row["verdict"]] += 1
    return counted


def report(
    found: Mapping[str, Verdict] | None = None,
    outcome: Outcome = "conformant",
    name: str = "127.0.0.1:8000",
) -> Report:
    """Return a report in which all requirements of AREAS pass but those that *found* names."""
    checked = [row for row in catalogue.load().values() if row.area in AREAS and not row.excluded]
    rows = [requirement(row, (found or {}).get(row.id, "PASS")) for row in checked]
    return {
        "format": 1,
        "suite": {
            "name": "tier3a-conformance",
            "revision": 2,
            "catalogue_sha256": CATALOGUE_SHA256,
            "code_sha256": CODE_SHA256,
        },
        "run": {
            "started_at": "2026-11-22T23:40:01Z",
            "duration_s": 8.213,
            "profiles": ["wire"],
            "timeout_s": 10.0,
            "selected": "",
        },
        "server": {
            "name": name,
            "url": f"http://{name}",
            "command": "",
            "model": MODEL,
            "software": "uvicorn",
        },
        "verdict": outcome,
        "reason": f"of {len(rows)} requirements {counts(rows)['PASS']} pass",
        "exit_code": 0,
        "counts": counts(rows),
        "startup": [],
        "requirements": rows,
        "excluded": excluded(),
        "exchanges": exchanges(),
        "baseline": None,
    }


def mixed(name: str = "127.0.0.1:8001") -> Report:
    """Return a report with every verdict, a watched start, a baseline and an accepted finding."""
    made = report(
        {
            "DISC-4": "FAIL",
            "RID-2": "FAIL",
            "RID-4": "FAIL",
            "RID-7": "NOT-TESTED",
            "RID-8": "WARN",
            "PT-3": "NOT-TESTED",
            "PT-4": "NOT-TESTED",
            "HEALTH-10": "INAPPLICABLE",
            "HEALTH-13": "INAPPLICABLE",
            "HEALTH-17": "WARN",
            "PAT-4": "FAIL",
            "OAI-5": "ENGINE-ERROR",
        },
        "not conformant",
        name,
    )
    accepted = next(row for row in made["requirements"] if row["id"] == "RID-8")
    accepted["accepted"] = accepted["checks"][0]["accepted"] = "the proxy in front joins them"
    made["reason"] = "4 MUST not met: DISC-4, RID-2, RID-4, PAT-4"
    made["exit_code"] = 1
    made["run"]["profiles"] = ["wire", "startup"]
    made["server"]["command"] = "python -m service --port 8001 --model-path models/gemma-3-1b"
    made["startup"] = [
        {"state": "refused", "from_s": 0.0, "to_s": 0.41},
        {"state": "not ready", "from_s": 0.41, "to_s": 2.2},
        {"state": "warming up", "from_s": 2.2, "to_s": 2.31},
        {"state": "ready", "from_s": 2.31, "to_s": 2.4},
    ]
    made["baseline"] = {
        "file": "accepted.toml",
        "accepted": [{"id": "RID-8", "verdict": "WARN", "reason": accepted["accepted"]}],
        "stale": ["MODEL-5"],
    }
    return made


def unreachable(name: str = "127.0.0.1:9") -> Report:
    """Return a report of a server that isn't there."""
    made = report(outcome="unreachable", name=name)
    made["reason"] = f"nothing answers at http://{name}: connection refused"
    made["exit_code"] = 7
    made["counts"] = counts([])
    made["requirements"], made["exchanges"] = [], []
    made["server"]["model"] = made["server"]["software"] = ""
    return made


def hostile(text: str) -> Report:
    """Return a report that has *text* wherever a server can put something."""
    made = report({"RID-4": "FAIL"}, "not conformant", name=text)
    made["server"] |= {"model": text, "software": text, "command": text}
    made["reason"] = made["run"]["selected"] = text
    made["requirements"] = [row for row in made["requirements"] if row["id"].startswith("RID-")]
    for each in made["exchanges"]:
        each["request"] |= {"target": text, "headers": [[text, text]], "body": text}
        each["curl"] = text
        if each["response"]:
            each["response"] |= {"headers": [[text, text]], "body": json.dumps({text: text})}
    for row in made["requirements"]:
        row["accepted"] = text
        for each_check in row["checks"]:
            each_check |= {"seen": text, "accepted": text, "summary": text, "test": text}
    made["baseline"] = {
        "file": text,
        "accepted": [{"id": text, "verdict": "FAIL", "reason": text}],
        "stale": [text],
    }
    return made
