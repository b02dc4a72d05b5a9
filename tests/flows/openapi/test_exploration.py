"""The exploration can fail: against a server or a document that is wrong in one place, it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.openapi.bent import bent
from tests.flows.openapi.exploration import Exploration, explore
from tests.flows.openapi.judge import breaches
from tests.live import PLAIN, LiveServer

MODELS = "/v1/models"
CHAT = "/v1/chat/completions"
EXAMPLES = ("--phases", "examples")
LINKS = ("--phases", "stateful", "--max-examples", "2", "--include-path-regex", f"^{MODELS}")
LINK = "[200] firstModel"


@pytest.fixture
def document(server: LiveServer) -> Any:
    """The document that the right server gives, to be changed."""
    return httpx.get(f"{server.url}/openapi.json", verify=PLAIN).json()


def breaches_of(exploration: Exploration) -> list[str]:
    """Return what all its answers break of the contracts."""
    return [breach for trial in exploration.trials for breach in breaches(trial.answer)]


WRONG = {
    MODELS: ((b'"3A"', b'"3B"'), "response_schema_conformance"),
    "/health": ((b"HTTP/1.1 200", b"HTTP/1.1 418"), "status_code_conformance"),
    "/livez": ((b"x-process-time", b"x-time"), "response_headers_conformance"),
    "/readyz": ((b"n/json", b"n/yaml"), "content_type_conformance"),
}


def test_wrong_answer_is_seen_twice(server: LiveServer, document: Any, tmp_path: Path) -> None:
    """Schemathesis fails on it, and the contracts do by themselves: body, status, header and type."""
    only = [word for path in WRONG for word in ("--include-path", path)]
    with bent(server.url, {path: place for path, (place, _) in WRONG.items()}) as url:
        found = explore(document, url, tmp_path, *EXAMPLES, *only)

    assert found.status == 1, found.output
    for path, (_, complaint) in WRONG.items():
        trials = [trial for trial in found.trials if trial.answer.request.url.path == path]
        assert complaint in {name for trial in trials for name in trial.complaints}, path
        assert any(breach for trial in trials for breach in breaches(trial.answer)), path


def test_wrong_event_is_seen_by_the_contracts_alone(
    server: LiveServer, document: Any, tmp_path: Path
) -> None:
    """To Schemathesis the data of an event is any text, which is why it has no last word."""
    with bent(server.url, {CHAT: (b"chat.completion.chunk", b"chat.completion.piece")}) as url:
        found = explore(document, url, tmp_path, *EXAMPLES, "--include-path", CHAT)

    assert found.status == 0, found.output
    assert any("an event at $.object" in breach for breach in breaches_of(found))


def test_link_to_a_model_that_is_not_there_is_not_followed(
    server: LiveServer, document: Any, tmp_path: Path
) -> None:
    """A list that names what nobody can ask for leads to a 404, which Schemathesis lets pass."""
    with bent(server.url, {MODELS: (b'"id":"local-mlx/', b'"id":"elsewhere/')}) as url:
        found = explore(document, url, tmp_path, *LINKS)

    assert {t.answer.status_code for t in found.trials if t.link == LINK} == {404}
    assert found.followed(LINK) == []


def test_link_that_finds_no_id_is_not_followed(
    server: LiveServer, document: Any, tmp_path: Path
) -> None:
    """A link whose expression points at nothing in the answer is tried in vain, which it lets pass too."""
    link = document["paths"][MODELS]["get"]["responses"]["200"]["links"]["firstModel"]
    link["parameters"]["id"] = "$response.body#/data/0/name"
    found = explore(document, server.url, tmp_path, *LINKS)

    assert "Could not resolve parameter `id`" in found.output
    assert found.followed(LINK) == []


def test_broken_reference_is_more_than_a_warning(
    server: LiveServer, document: Any, tmp_path: Path
) -> None:
    """A schema that is not there can find nothing wrong, so the run fails although no check did."""
    answer = document["paths"][MODELS]["get"]["responses"]["200"]
    answer["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/nothing"}
    found = explore(document, server.url, tmp_path, *EXAMPLES, "--include-path", MODELS)

    assert (found.status, found.complaints()) == (1, set())
    assert "Unresolvable" in found.output


def test_operation_known_by_its_404_alone_is_more_than_a_warning(
    server: LiveServer, document: Any, tmp_path: Path
) -> None:
    """Nothing was really tested where no id was ever right, so the run fails although no check did."""
    words = ("--phases", "coverage", "--include-operation-id", "getModel")
    found = explore(document, server.url, tmp_path, *words)

    assert (found.status, found.complaints()) == (1, set())
    assert "Missing test data" in found.output
