"""One run of Schemathesis against a live server, and the record of what it sent and got."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.live import ROOT

SETTINGS = Path(__file__).parent / "schemathesis.toml"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Trial:
    """
    One request that was made up, and its answer.

    Attributes:
        operation: method and path as the document has them, such as `GET /v1/models/{id}`.
        is_positive: the document allows the request.
        answer: as it came; `answer.request` is what was sent.
        complaints: the names of Schemathesis' checks that it failed.
        link: the name of the link that led here; empty if none did.
        source: the answer that the link took its values from.
    """

    operation: str
    is_positive: bool
    answer: httpx.Response
    complaints: tuple[str, ...]
    link: str = ""
    source: httpx.Response | None = None


@dataclass(frozen=True)
class Exploration:
    """
    A whole run.

    Attributes:
        status: exit status of the process; 0 if nothing failed, warnings included.
        output: what it printed.
        trials: every request, in order.
    """

    status: int
    output: str
    trials: list[Trial]

    def complaints(self) -> set[str]:
        """Return the names of all checks that failed anywhere."""
        return {name for trial in self.trials for name in trial.complaints}

    def followed(self, link: str) -> list[Trial]:
        """Return the trials that *link* led to and that were answered with 200."""
        return [t for t in self.trials if t.link == link and t.answer.status_code == 200]


def explore(document: dict[str, Any], url: str, folder: Path, *words: str) -> Exploration:
    """
    Run Schemathesis on the server at *url*, which *document* describes.

    The document is handed over as a file: of one that it fetched, Schemathesis would leave out the
    operation that gives it.

    Args:
        document: an OpenAPI document, complete in itself.
        url: where the server listens.
        folder: an empty folder, where the run takes place.
        words: further words of the command line.
    """
    (folder / "document.json").write_text(json.dumps(document), "utf-8")
    record = folder / "record.ndjson"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(SETTINGS)),
            *("--no-color", "run", "document.json", "--url", url),
            *("--report-ndjson-path", str(record), *words),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = record.read_text("utf-8").splitlines() if record.exists() else []
    events = [json.loads(line) for line in lines]
    scenarios = [event["ScenarioFinished"] for event in events if "ScenarioFinished" in event]
    trials = [trial for each in scenarios for trial in _trials(each["recorder"])]
    return Exploration(run.returncode, run.stdout, trials)


def _trials(recorder: dict[str, Any]) -> Iterator[Trial]:
    """Yield the trials of one scenario that got an answer; one that gets none fails the run itself."""
    seen = recorder.get("interactions", {})
    answers = {key: _answer(each) for key, each in seen.items() if "response" in each}
    for key, answer in answers.items():
        case = recorder["cases"][key]
        request = case["value"]
        transition = case.get("transition")
        is_linked = transition is not None and case["is_transition_applied"]
        yield Trial(
            operation=f"{request['method']} {request['path']}",
            is_positive=request["meta"]["generation"]["mode"] == "positive",
            answer=answer,
            complaints=tuple(
                check["name"]
                for check in recorder.get("checks", {}).get(key, ())
                if check["status"] == "failure"
            ),
            link=transition["id"].split(" -> ")[1] if is_linked else "",
            source=answers.get(transition["parent_id"]) if is_linked else None,
        )


def _answer(interaction: dict[str, Any]) -> httpx.Response:
    asked, got = interaction["request"], interaction["response"]
    return httpx.Response(
        got["status_code"],
        # What was packed has been unpacked.
        headers=[each for each in _headers(got) if each[0].lower() != b"content-encoding"],
        content=_bytes(got.get("content")),
        request=httpx.Request(
            asked["method"],
            asked["uri"],
            headers=_headers(asked),
            content=_bytes(asked.get("body")),
        ),
    )


def _headers(message: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, values in message["headers"].items()
        for value in values
    ]


def _bytes(content: dict[str, str] | None) -> bytes:
    return b"" if content is None else base64.b64decode(content["$base64"])
