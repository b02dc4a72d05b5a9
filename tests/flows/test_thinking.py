"""A model that thinks, served: thoughts apart from the answer, whole and streamed, and switched off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import thinking_model
from tests.live import running

# Its random thoughts end when this bias has its way.
BIAS = {str(thinking_model.END_ID): 6}
YES: dict[str, Any] = {
    "model": "gemma",
    "messages": [{"role": "user", "content": "Well?"}],
    "structured_outputs": {"choice": ["yes", "no"]},
    "logit_bias": BIAS,
    "temperature": 1,
    "seed": 3,
    "max_tokens": 500,
}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with such a model."""
    folder = thinking_model.make(tmp_path_factory.mktemp("served") / "gemma-thinker")
    log = tmp_path_factory.mktemp("log") / "log"
    with running(log, MODEL_PATH=str(folder)) as server:
        server.wait_until("/readyz", 200)
        with server.client() as http:
            yield http


def test_thoughts_are_told_apart(thinker: httpx.Client) -> None:
    """Under both names that clients know, counted, and no part of the answer."""
    answer = thinker.post("/v1/chat/completions", json=YES).json()
    message = answer["choices"][0]["message"]

    assert message["content"] in {"yes", "no"}
    assert message["reasoning_content"] == message["reasoning"]
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


def test_thoughts_are_streamed_first(thinker: httpx.Client) -> None:
    """The stream says the same as the whole answer, thoughts before text."""
    whole = thinker.post("/v1/chat/completions", json=YES).json()["choices"][0]["message"]
    lines = thinker.post("/v1/chat/completions", json=YES | {"stream": True}).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events]
    kinds = [key for delta in deltas for key in ("reasoning_content", "content") if delta.get(key)]

    assert whole["content"] == "".join(delta.get("content") or "" for delta in deltas)
    assert whole.get("reasoning_content", "") == "".join(
        delta.get("reasoning_content") or "" for delta in deltas
    )
    assert kinds == sorted(kinds, reverse=True)


@pytest.mark.parametrize(
    "switch", [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
def test_thinking_can_be_switched_off(thinker: httpx.Client, switch: dict[str, Any]) -> None:
    """Then the answer comes at once."""
    answer = thinker.post("/v1/chat/completions", json=YES | switch).json()

    assert "reasoning_content" not in answer["choices"][0]["message"]
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_model_says_that_it_thinks(thinker: httpx.Client) -> None:
    """By a tag of its own."""
    (model,) = thinker.get("/v1/models").json()["data"]

    assert "reasoning" in model["tags"]


def test_thoughts_are_an_item_of_a_response(thinker: httpx.Client) -> None:
    """Streamed as reasoning text, closed as incomplete where the limit cuts them; none where switched off."""
    asked: dict[str, Any] = {"model": "gemma", "input": "Well?", "seed": 3, "max_output_tokens": 8}
    thinking = {"reasoning": {"effort": "low"}, "stream": True}
    lines = thinker.post("/v1/responses", json=asked | thinking).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    thought = "".join(e["delta"] for e in events if e["type"] == "response.reasoning_text.delta")
    body = events[-1]["response"]
    quiet = thinker.post("/v1/responses", json=asked | {"reasoning": {"effort": "none"}}).json()
    (item,) = body["output"]

    assert item["type"] == "reasoning"
    assert (item["status"], body["status"]) == ("incomplete", "incomplete")
    assert item["content"] == [{"type": "reasoning_text", "text": thought}]
    assert body["usage"]["output_tokens_details"]["reasoning_tokens"] == 8
    assert ["message"] == [each["type"] for each in quiet["output"]]
