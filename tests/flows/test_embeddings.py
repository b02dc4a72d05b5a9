"""Vectors and rankings by a server whose model only reads: the built-in one, asked for its vectors."""

from __future__ import annotations

import base64
import math
import re
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from service.contracts import check
from tests.live import LiveServer, running

TEXTS = [
    "A clock counts its ticks.",
    "Night",
    "A clock counts its ticks, and then some more of them.",
]
EMBEDDINGS = "/v1/embeddings"


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The server, ready; every test leaves it as it was."""
    log = tmp_path_factory.mktemp("embedder") / "log"
    with running(log, MODEL_TYPE="embeddings", CONTEXT_LENGTH="512") as live:
        live.wait_until("/readyz", 200)
        yield live


@pytest.fixture
def client(embedder: LiveServer) -> Iterator[httpx.Client]:
    """An HTTP client for it."""
    with embedder.client() as http:
        yield http


def embedded(client: httpx.Client, **fields: Any) -> Any:
    """Return the body for *fields*, which keeps its contract."""
    response = client.post(EMBEDDINGS, json=fields)
    assert response.status_code == 200, response.text
    check("embedding-list", response.json())
    return response.json()


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_texts_become_vectors_in_their_order(client: httpx.Client) -> None:
    """Of length 1, each the same as alone; what was read is counted."""
    together = embedded(client, input=TEXTS)
    alone = [embedded(client, input=text) for text in TEXTS]
    vectors = [each["embedding"] for each in together["data"]]

    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in vectors)
    for vector, one in zip(vectors, alone, strict=True):
        assert cosine(vector, one["data"][0]["embedding"]) >= 0.9999
    n_tokens = sum(one["usage"]["prompt_tokens"] for one in alone)
    assert {"prompt_tokens": n_tokens, "total_tokens": n_tokens} == together["usage"]


def test_base64_is_the_same_numbers_in_half_of_the_bytes(client: httpx.Client) -> None:
    """Floats of 32 bits, the lowest byte first."""
    as_numbers = client.post(EMBEDDINGS, json={"input": TEXTS})
    as_bytes = client.post(EMBEDDINGS, json={"input": TEXTS, "encoding_format": "base64"})
    check("embedding-list", as_bytes.json())
    for one, other in zip(as_numbers.json()["data"], as_bytes.json()["data"], strict=True):
        raw = base64.b64decode(other["embedding"])

        assert one["embedding"] == list(struct.unpack(f"<{len(raw) // 4}f", raw))
    assert len(as_bytes.content) <= 0.5 * len(as_numbers.content)


def test_token_ids_are_read_as_they_are(client: httpx.Client) -> None:
    """A list of ids is one input, lists of ids are several; they have the text's own vector."""
    ids = [client.post("/v1/tokenize", json={"prompt": text}).json()["tokens"] for text in TEXTS]
    by_text = embedded(client, input=TEXTS)
    one, several = embedded(client, input=ids[0]), embedded(client, input=ids)

    assert len(one["data"]) == 1
    assert several["usage"] == by_text["usage"]
    for found, expected in zip(several["data"], by_text["data"], strict=True):
        assert cosine(found["embedding"], expected["embedding"]) >= 0.9999


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", "missing_required_field"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input.1", "invalid_value"),
        ({"input": ["a"] * 100_000}, None, "json_too_large"),
        ({"input": ["a"] * 2049}, "input", "invalid_value"),
        ({"input": ["a", "word " * 600]}, "input.1", "context_length_exceeded"),
        ({"input": [[1], [10**6]]}, "input.1", "invalid_token"),
        ({"input": "a", "dimensions": 7}, "dimensions", "unsupported_parameter"),
        ({"input": "a", "prompt_name": "query"}, "prompt_name", "invalid_value"),
        ({"input": "a", "model": "no-such"}, "model", "model_not_found"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(
    client: httpx.Client, fields: dict[str, Any], param: str | None, code: str
) -> None:
    """A clear 4xx, and the server goes on."""
    response = client.post(EMBEDDINGS, json=fields)
    error = response.json()["error"]

    assert 400 <= response.status_code < 500
    assert (error["param"], error["code"]) == (param, code)
    assert embedded(client, input="a")


def test_documents_come_in_the_order_of_their_scores(client: httpx.Client) -> None:
    """The query itself is its own best answer; both endpoints give the same scores."""
    documents: list[Any] = ["Which port?", {"text": "Night"}, TEXTS[0]]
    body = {"query": TEXTS[0], "documents": documents}
    ranked = client.post("/v1/rerank", json=body).json()
    few = client.post("/v1/rerank", json=body | {"top_n": 1, "return_documents": False}).json()
    scored = client.post(
        "/v1/score", json={"text_1": TEXTS[0], "text_2": ["Which port?", "Night", TEXTS[0]]}
    ).json()
    check("ranking", ranked)
    check("score-list", scored)
    scores = [each["score"] for each in scored["data"]]

    assert ranked["results"][0]["index"] == 2
    assert ranked["results"][0]["document"] == {"text": TEXTS[0]}
    assert ranked["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-4)
    for result in ranked["results"]:
        assert result["relevance_score"] == pytest.approx(scores[result["index"]], abs=1e-4)
    assert [(2, None)] == [(each["index"], each.get("document")) for each in few["results"]]


def test_texts_to_score_that_are_no_pairs_are_refused(client: httpx.Client) -> None:
    """Several first texts need as many second ones."""
    response = client.post("/v1/score", json={"text_1": ["a", "b"], "text_2": "c"})

    assert (response.status_code, response.json()["error"]["param"]) == (400, "text_1")


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "model"),
        ("/v1/completions", {"prompt": "Hi"}, "model"),
        ("/v1/responses", {"input": "Hi"}, "model"),
        ("/v1/estimate", {"prompt": "Hi"}, "model"),
        ("/v1/tokenize", {"messages": [{"role": "user", "content": "Hi"}]}, "messages"),
    ],
)
def test_request_for_answers_is_told_what_the_model_does(
    client: httpx.Client, path: str, fields: dict[str, Any], param: str
) -> None:
    """The kind of the model is not the client's to know; the refusal says it."""
    response = client.post(path, json=fields)
    error = response.json()["error"]

    assert response.status_code == 400
    assert (error["code"], error["param"]) == ("unsupported_model_type", param)
    assert EMBEDDINGS in error["message"]


def test_language_model_refuses_to_embed(server: LiveServer) -> None:
    """The other way round, too."""
    response = httpx.post(server.url + EMBEDDINGS, json={"input": "a"}, timeout=30)

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_model_type"
    assert "/v1/chat/completions" in response.json()["error"]["message"]


def test_server_says_what_it_is(client: httpx.Client) -> None:
    """Its card has the tags of its kind, and health says that no warm-up applies."""
    (entry,) = client.get("/v1/models").json()["data"]
    health = client.get("/health").json()
    check("model", entry)
    check("health", health)

    assert {"local", "embeddings", "rerank", "quantized"} == set(entry["tags"])
    assert "embedding model" in entry["description"]
    assert entry["context_length"] == 512
    assert (None, None) == (health["warmup_enabled"], health["warmup_completed"])


def test_openais_client_gets_its_vectors(embedder: LiveServer) -> None:
    """It asks for base64 by itself, and makes numbers of it."""
    with openai.OpenAI(base_url=f"{embedder.url}/v1", api_key="x") as api:
        found = api.embeddings.create(model="gemma", input=TEXTS)

    assert [0, 1, 2] == [each.index for each in found.data]
    assert math.isclose(math.hypot(*found.data[0].embedding), 1, abs_tol=1e-5)


def test_client_that_leaves_takes_its_work_along(client: httpx.Client) -> None:
    """Whoever asks for much and goes leaves nothing behind that others wait for."""
    text = "word " * 400
    with pytest.raises(httpx.TimeoutException):
        client.post(EMBEDDINGS, json={"input": [text] * 2048}, timeout=0.2)
    end = time.monotonic() + 20
    freed = re.compile(r"^tier3a_permits_in_use{.*} 0.0$", re.MULTILINE)
    while not freed.search(client.get("/metrics").text) and time.monotonic() < end:
        time.sleep(0.05)

    assert freed.search(client.get("/metrics").text)
    assert embedded(client, input="a")


def test_requests_at_once_get_their_own_vectors(client: httpx.Client) -> None:
    """Read together, they stay apart."""
    expected = {text: embedded(client, input=text)["data"][0]["embedding"] for text in TEXTS}
    with ThreadPoolExecutor(6) as pool:
        asked = TEXTS * 4
        found = list(pool.map(lambda text: embedded(client, input=[text, "Night"]), asked))

    for text, body in zip(asked, found, strict=True):
        assert cosine(body["data"][0]["embedding"], expected[text]) >= 0.9999
