"""Chatting with the default server: what OpenAI's own client and Tier 2 see."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest

from service.contracts import check
from tests.live import LiveServer

MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


@pytest.fixture
def sdk(server: LiveServer) -> Iterator[openai.OpenAI]:
    """The official client, as anyone would set it up."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: httpx.Client, **fields: object) -> httpx.Response:
    """Post a small chat with *fields* on top."""
    body: dict[str, object] = {"model": "gemma", "messages": MESSAGES, "max_tokens": 16}
    return client.post(CHAT, json=body | fields)


def chunks(response: httpx.Response) -> list[dict[str, object]]:
    """Return the chunks of a finished stream, its end checked."""
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1] if not event.startswith(":")]


def test_official_client_lists_chats_and_streams(sdk: openai.OpenAI) -> None:
    """Discovery, a whole answer and a stream, the same text both ways at temperature 0."""
    (model,) = sdk.models.list().data
    again = sdk.models.retrieve(model.id)
    whole = sdk.chat.completions.create(
        model=model.id,
        messages=[{"role": "user", "content": "Hello"}],
        temperature=0,
    )
    streamed = sdk.chat.completions.create(
        model=model.id,
        messages=[{"role": "user", "content": "Hello"}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    seen = list(streamed)

    assert again == model
    assert whole.choices[0].message.content
    assert whole.choices[0].message.content == "".join(
        chunk.choices[0].delta.content or "" for chunk in seen if chunk.choices
    )
    assert whole.usage is not None
    assert seen[-1].usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_official_client_gets_typed_errors(sdk: openai.OpenAI) -> None:
    """An unknown model and an empty chat are the exceptions that the client's users catch."""
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.chat.completions.create(model="nope", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError) as empty:
        sdk.chat.completions.create(model="gemma", messages=[])

    assert unknown.value.code == "model_not_found"
    assert empty.value.param == "messages"


def test_answers_and_chunks_keep_their_contracts(client: httpx.Client) -> None:
    """Every body that comes back validates against its schema."""
    whole = ask(client).json()
    stream = chunks(ask(client, stream=True, stream_options={"include_usage": True}))

    check("chat-completion", whole)
    for chunk in stream:
        check("chat-completion-chunk", chunk)
    check("model-list", client.get("/v1/models").json())
    check("health", client.get("/health").json())
    check("readiness", client.get("/readyz").json())
    check("liveness", client.get("/livez").json())


def test_max_tokens_ends_with_length_and_exact_usage(client: httpx.Client) -> None:
    """Exactly so many tokens are counted, under either name of the field."""
    for field in ("max_tokens", "max_completion_tokens"):
        body = ask(client, **{"max_tokens": None, field: 3}).json()

        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 3


def test_end_of_turn_ends_with_stop(client: httpx.Client) -> None:
    """A whole answer ends by itself, and its last chunk says so."""
    body = ask(client, max_tokens=None, temperature=0).json()
    *_, last = chunks(ask(client, max_tokens=None, temperature=0, stream=True))

    assert body["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["finish_reason"] == "stop"  # type: ignore[index]


def test_stop_text_is_not_part_of_the_answer_nor_leaks_into_a_stream(client: httpx.Client) -> None:
    """The answer ends right before the stop text, however tokens cut it."""
    plain = ask(client, temperature=0, max_tokens=None).json()["choices"][0]["message"]["content"]
    middle = len(plain) // 2
    stop = plain[middle : middle + 7]
    wanted = plain[: plain.index(stop)]
    whole = ask(client, temperature=0, max_tokens=None, stop=["never said", stop]).json()
    stream = chunks(ask(client, temperature=0, max_tokens=None, stop=stop, stream=True))
    streamed = "".join(c["choices"][0]["delta"].get("content", "") for c in stream)  # type: ignore[index]

    assert whole["choices"][0]["message"]["content"] == wanted
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert streamed == wanted


def test_seed_repeats_an_answer_whatever_else_is_in_the_batch(client: httpx.Client) -> None:
    """The same seed gives the same text alone and beside other requests; another seed another one."""
    from concurrent.futures import ThreadPoolExecutor

    strange = [{"role": "user", "content": "zxqv 17 ][ blorp"}]
    drawn = {"temperature": 2, "max_tokens": 48, "ignore_eos": True, "messages": strange}

    def text(seed: int) -> str:
        return str(ask(client, seed=seed, **drawn).json()["choices"][0]["message"]["content"])

    alone = text(7)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(text, [7, 1, 2, 7, 3, 4]))

    assert together[0] == together[3] == alone
    assert len(set(together)) > 1


def test_second_turn_is_answered_with_the_first_in_mind(client: httpx.Client) -> None:
    """A conversation with every role is taken, developer and list content included."""
    answer = ask(
        client,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Which port do you listen on?"}]},
            {"role": "assistant", "content": "On port 8000."},
            {"role": "user", "content": "Thanks!"},
        ],
    )

    assert answer.status_code == 200


def test_guides_curl_works_as_printed(client: httpx.Client, server: LiveServer) -> None:
    """A body sent with curl's default form type is read as the JSON it is, and the id comes back."""
    response = client.post(
        CHAT,
        content=json.dumps({"model": "gemma", "messages": MESSAGES, "max_tokens": 4}),
        headers={
            "X-Request-ID": "req-tier2-flow",
            "Content-Type": "application/x-www-form-urlencoded",
        },
    )
    lines = server.lines_of("req-tier2-flow")

    assert response.status_code == 200
    assert response.headers["X-Request-ID"] == "req-tier2-flow"
    assert float(response.headers["X-Process-Time"]) > 0
    assert [line.split(" | ")[1] for line in lines] == ["INFO"] * 3
    assert "Request started: POST /v1/chat/completions [request_id=req-tier2-flow]" in lines[0]
    assert "Processing text request model=local-mlx/gemma-3-demo" in lines[1]
    assert "Request completed: POST /v1/chat/completions status=200 duration=" in lines[2]
