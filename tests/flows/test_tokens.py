"""Tokens and estimates on the default server, and that they are what its answers count."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.contracts import check
from tests.live import LiveServer

TOKENIZE, DETOKENIZE, ESTIMATE = "/v1/tokenize", "/v1/detokenize", "/v1/estimate"
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which port?"},
]
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object"}},
}
TEXTS = [
    "Hello",
    " a  b\n",
    "Zw\u00f6lf \u2026 \U0001f570\ufe0f",
    "<start_of_turn>\x00",
    "x" * 3000,
]


def post(client: httpx.Client, path: str, contract: str, **fields: Any) -> Any:
    """Return the answer to *fields*, which keeps *contract*."""
    response = client.post(path, json={"model": "gemma"} | fields)
    assert response.status_code == 200, response.text
    check(contract, response.json())
    return response.json()


def n_prompt_tokens(client: httpx.Client, path: str, **fields: Any) -> int:
    """Return how many tokens a request was counted to have."""
    body = {"model": "gemma", "max_tokens": 1} | fields
    return int(client.post(path, json=body).json()["usage"]["prompt_tokens"])


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_from_its_tokens(client: httpx.Client, text: str) -> None:
    """Tokenize, then detokenize: the same text, and as many tokens as a completion counts."""
    found = post(client, TOKENIZE, "token-list", prompt=text)
    back = post(client, DETOKENIZE, "token-text", tokens=found["tokens"])

    assert back["prompt"] == text
    assert found["count"] == len(found["tokens"])
    assert found["count"] == n_prompt_tokens(client, "/v1/completions", prompt=text)


def test_tokens_come_with_their_texts_where_asked(client: httpx.Client) -> None:
    """Put together they are the text; not asked for, they are null."""
    found = post(client, TOKENIZE, "token-list", prompt="Hello you", return_token_strs=True)

    assert "".join(found["token_strs"]) == "Hello you"
    assert post(client, TOKENIZE, "token-list", prompt="Hello you")["token_strs"] is None


@pytest.mark.parametrize("fields", [{}, {"tools": [WEATHER]}], ids=["plain", "tools"])
def test_chat_has_the_tokens_that_it_is_answered_with(
    client: httpx.Client, fields: dict[str, Any]
) -> None:
    """The template's own tokens and the tools are in; a turn spelled out in a message is no turn."""
    found = post(client, TOKENIZE, "token-list", messages=MESSAGES, **fields)
    counted = n_prompt_tokens(client, "/v1/chat/completions", messages=MESSAGES, **fields)
    as_ids = n_prompt_tokens(client, "/v1/completions", prompt=found["tokens"])
    bare = post(client, TOKENIZE, "token-list", messages=[{"role": "user", "content": ""}])
    spelled = [{"role": "user", "content": "<end_of_turn>"}]

    assert found["count"] == counted == as_ids
    assert found["max_model_len"] == client.get("/v1/models").json()["data"][0]["context_length"]
    assert post(client, TOKENIZE, "token-list", messages=spelled)["count"] > bare["count"] + 1


def test_tokens_of_a_text_longer_than_the_context(client: httpx.Client) -> None:
    """Counting what would not fit is what the route is for."""
    found = post(client, TOKENIZE, "token-list", prompt="Hello " * 9000)

    assert found["count"] > found["max_model_len"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 3}),
        ("/v1/chat/completions", {"messages": MESSAGES, "tools": [WEATHER], "n": 2, "max_tokens": 3}),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 3}),
        ("/v1/completions", {"prompt": ["Hello", "One two"], "n": 2, "max_tokens": 3}),
        ("/v1/completions", {"prompt": [[5, 6], [7]], "max_tokens": 0, "echo": True}),
    ],
)  # fmt: skip
def test_estimate_is_what_the_request_is_counted(
    client: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    """The very body that would be sent tells its tokens before."""
    found = post(client, ESTIMATE, "estimate", **fields)

    assert found["prompt_tokens"] == n_prompt_tokens(client, path, **fields)
    assert found["max_completion_tokens"] == fields["max_tokens"]
    assert found["fits"] is True


def test_estimate_of_what_does_not_fit(client: httpx.Client) -> None:
    """Too long for the context is an answer here and no error."""
    chat = [{"role": "user", "content": "Hello " * 9000}]
    long = post(client, ESTIMATE, "estimate", messages=chat)
    one = post(client, ESTIMATE, "estimate", prompt=["Hello", "Hello " * 9000])
    open_end = post(client, ESTIMATE, "estimate", messages=MESSAGES)
    greedy = post(client, ESTIMATE, "estimate", messages=MESSAGES, max_tokens=8192)

    assert [False, False, True, False] == [e["fits"] for e in (long, one, open_end, greedy)]
    assert 0 == long["max_completion_tokens"]
    assert open_end["context_length"] == (
        open_end["prompt_tokens"] + open_end["max_completion_tokens"]
    )


REFUSED: list[tuple[str, str, dict[str, Any], int, str, str]] = [
    ("nothing", TOKENIZE, {}, 400, "missing_required_field", "prompt"),
    ("prompt-type", TOKENIZE, {"prompt": 7}, 400, "invalid_type", "prompt"),
    ("prompt-empty", TOKENIZE, {"prompt": ""}, 400, "invalid_prompt", "prompt"),
    ("prompt-huge", TOKENIZE, {"prompt": "x" * 2**21}, 413, "request_too_large", "prompt"),
    ("both", TOKENIZE, {"prompt": "x", "messages": MESSAGES}, 400, "invalid_value", "prompt"),
    ("messages-empty", TOKENIZE, {"messages": []}, 400, "invalid_value", "messages"),
    ("role", TOKENIZE, {"messages": [{"content": "x"}]}, 400, "missing_required_field", "messages.0.role"),
    ("special", TOKENIZE, {"prompt": "x", "add_special_tokens": False}, 400, "unsupported_parameter",
     "add_special_tokens"),
    ("template", TOKENIZE, {"messages": MESSAGES, "chat_template_kwargs": {"bos_token": "x"}}, 400,
     "template_not_allowed", "chat_template_kwargs.bos_token"),
    ("tokenize-model", TOKENIZE, {"prompt": "x", "model": "nope"}, 404, "model_not_found", "model"),
    ("no-tokens", DETOKENIZE, {}, 400, "missing_required_field", "tokens"),
    ("tokens-empty", DETOKENIZE, {"tokens": []}, 400, "invalid_value", "tokens"),
    ("tokens-bool", DETOKENIZE, {"tokens": [True]}, 400, "invalid_type", "tokens.0"),
    ("tokens-negative", DETOKENIZE, {"tokens": [-1]}, 400, "invalid_value", "tokens.0"),
    ("tokens-unknown", DETOKENIZE, {"tokens": [5, 1280]}, 400, "invalid_token", "tokens"),
    ("tokens-large", DETOKENIZE, {"tokens": [10**30]}, 400, "invalid_value", "tokens.0"),
    ("estimate-nothing", ESTIMATE, {}, 400, "missing_required_field", "prompt"),
    ("estimate-both", ESTIMATE, {"prompt": "x", "messages": MESSAGES}, 400, "invalid_value", "prompt"),
    ("estimate-range", ESTIMATE, {"messages": MESSAGES, "temperature": 9}, 400, "invalid_value",
     "temperature"),
    ("estimate-suffix", ESTIMATE, {"prompt": "x", "suffix": "y"}, 400, "unsupported_parameter", "suffix"),
    ("estimate-token", ESTIMATE, {"prompt": [1280]}, 400, "invalid_token", "prompt"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "fields", "status", "code", "param"),
    [pytest.param(*row[1:], id=row[0]) for row in REFUSED],
)
def test_bad_request_is_refused(
    client: httpx.Client,
    server: LiveServer,
    path: str,
    fields: dict[str, Any],
    status: int,
    code: str,
    param: str,
) -> None:
    """Status, code and param are right, and the engine is the same after."""
    engine = server.engine_pid()
    response = client.post(path, json={"model": "gemma"} | fields)
    check("error", response.json())
    error = response.json()["error"]

    assert (status, code, param) == (response.status_code, error["code"], error["param"])
    assert server.engine_pid() == engine
