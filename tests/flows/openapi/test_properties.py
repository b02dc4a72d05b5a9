"""
Whatever the OpenAPI document allows or forbids, the service answers as the document says.

Schemathesis makes up the requests and judges the answers; `judge` judges each of them once more.
"""

from __future__ import annotations

from urllib.parse import unquote

import httpx
import pytest

from tests.flows.openapi.exploration import Exploration, explore
from tests.flows.openapi.judge import breaches, operations
from tests.live import PLAIN, LiveServer, running

CHAT = "POST /v1/chat/completions"
# It needs a response that is being made at that very moment.
CANCEL = "POST /v1/responses/{response_id}/cancel"
# What is kept was made by a model; without one these can only be 404.
KEPT = r"/v1/responses/\{"
# They need a model of another kind, which the built-in one is not.
OTHER_KINDS = {"POST /v1/embeddings", "POST /v1/rerank", "POST /v1/score"}
# The only model of that server is to be up all the time.
UNLOAD = "POST /admin/models/{id}/unload"
NEED_A_MODEL = OTHER_KINDS | {
    "GET /health",
    "GET /readyz",
    "GET /v1/models",
    "GET /v1/models/{id}",
    CHAT,
    "POST /v1/responses",
    "POST /v1/responses/input_tokens",
    "POST /v1/completions",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/tokenize",
    "POST /v1/detokenize",
    "POST /v1/estimate",
    "POST /admin/models/{id}/load",
    "POST /admin/models/{id}/pin",
    "POST /admin/models/{id}/unpin",
    UNLOAD,
}


def document_of(server: LiveServer) -> dict[str, object]:
    """Return the document that *server* gives of itself."""
    document: dict[str, object] = httpx.get(f"{server.url}/openapi.json", verify=PLAIN).json()
    return document


@pytest.fixture(scope="module")
def engine(server: LiveServer) -> int:
    """The process id of the engine before anything was explored."""
    return server.engine_pid()


@pytest.fixture(scope="module")
def ready(server: LiveServer, engine: int, tmp_path_factory: pytest.TempPathFactory) -> Exploration:
    """All that was asked of a server that is ready: examples, limits, chance and links."""
    return explore(document_of(server), server.url, tmp_path_factory.mktemp("ready"))


@pytest.fixture(scope="module")
def modelless(tmp_path_factory: pytest.TempPathFactory) -> Exploration:
    """Every example of the document, asked of a server whose model is not there."""
    folder = tmp_path_factory.mktemp("modelless")
    with running(folder / "log", MODEL_PATH=str(folder / "nothing")) as live:
        live.wait_until("/livez", 200)
        return explore(
            document_of(live),
            live.url,
            folder,
            "--phases",
            "examples",
            "--exclude-path-regex",
            KEPT,
        )


@pytest.fixture(params=["ready", "modelless"])
def exploration(request: pytest.FixtureRequest) -> Exploration:
    """Either of the two."""
    found: Exploration = request.getfixturevalue(request.param)
    return found


def test_nothing_fails_and_nothing_warns(exploration: Exploration) -> None:
    """Every answer is one that the document describes for such a request."""
    assert exploration.status == 0, exploration.output
    assert exploration.complaints() == set()


def test_every_answer_keeps_its_contract(exploration: Exploration) -> None:
    """Status, headers, bodies and events hold against `contracts/` itself."""
    wrong = [
        f"{trial.answer.request.method} {trial.answer.request.url}: {breach}"
        for trial in exploration.trials
        for breach in breaches(trial.answer)
    ]

    assert wrong == []


def test_every_operation_was_tried_and_succeeded(ready: Exploration) -> None:
    """No operation is left out, nor known by its refusals alone, but for those that need more than this."""
    tried = {t.operation for t in ready.trials}
    succeeded = {t.operation for t in ready.trials if t.is_positive and t.answer.is_success}

    assert tried >= operations().keys()
    assert succeeded | OTHER_KINDS | {CANCEL, UNLOAD} == operations().keys()


def test_chat_was_tried_from_all_sides(ready: Exploration) -> None:
    """Whole answers and streams were given, and refusals of both kinds."""
    chats = [trial.answer for trial in ready.trials if trial.operation == CHAT]
    seen = {(answer.status_code, answer.headers["Content-Type"]) for answer in chats}
    counted = [trial.is_positive for trial in ready.trials if trial.operation == CHAT]

    assert seen >= {
        (200, "application/json"),
        (200, "text/event-stream"),
        (400, "application/json"),
        (404, "application/json"),
        (415, "application/json"),
    }
    assert min(counted.count(True), counted.count(False)) > 100


def test_link_leads_from_the_list_to_the_model(ready: Exploration) -> None:
    """The model asked for is the one that the list named, and it is there."""
    followed = ready.followed("[200] firstModel")

    assert followed
    for trial in followed:
        assert trial.source is not None
        listed = trial.source.json()["data"][0]
        asked = unquote(trial.answer.request.url.path.removeprefix("/v1/models/"))
        assert (listed["id"], listed) == (asked, trial.answer.json())


def test_engine_lives_through_it(ready: Exploration, engine: int, server: LiveServer) -> None:
    """No answer is a server error, and the engine process is still the same."""
    failed = [trial.operation for trial in ready.trials if trial.answer.is_server_error]

    assert failed == []
    assert server.engine_pid() == engine


def test_without_a_model_the_others_are_503(modelless: Exploration) -> None:
    """Exactly the operations that need a model say that it is not ready."""
    refused = {t.operation for t in modelless.trials if t.answer.status_code == 503}

    assert refused == NEED_A_MODEL


def test_id_of_any_length_gets_a_described_answer(client: httpx.Client) -> None:
    """The document sets no limit to the id, the server sets one to the whole path."""
    answer = client.get(f"/v1/models/{'a' * 9000}")

    assert list(breaches(answer)) == []
