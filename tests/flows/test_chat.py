"""Chatting with the default server: what OpenAI's own client and Tier 2 see."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from service.contracts import check
from tests.flows.chatting import CHAT, HELLO, ask, choice, chunks, completion, streamed, text
from tests.live import LiveServer


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
    assert seen[-1].usage is not None
    assert seen[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert seen[-1].usage.completion_tokens == whole.usage.completion_tokens
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
    completion(client)
    chunks(ask(client, stream=True, stream_options={"include_usage": True}))
    check("model-list", client.get("/v1/models").json())
    check("health", client.get("/health").json())
    check("readiness", client.get("/readyz").json())
    check("liveness", client.get("/livez").json())


def test_max_tokens_ends_with_length_and_exact_usage(client: httpx.Client) -> None:
    """Exactly so many tokens are counted, under either name of the field."""
    for field in ("max_tokens", "max_completion_tokens"):
        body = completion(client, **{"max_tokens": None, field: 3})

        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 3


def test_end_of_turn_ends_with_stop(client: httpx.Client) -> None:
    """A whole answer ends by itself, and its last chunk says so."""
    asked = {"max_tokens": None, "temperature": 0}

    assert choice(client, **asked)["finish_reason"] == "stop"
    assert streamed(client, **asked) == [choice(client, **asked)]


def test_first_chunk_has_the_role_and_only_the_last_a_reason(client: httpx.Client) -> None:
    """Each answer of a stream opens with the role, and has one finish reason, in its last chunk."""
    parts = [
        part
        for chunk in chunks(ask(client, stream=True, n=2, max_tokens=4))
        for part in chunk["choices"]
    ]
    for index in (0, 1):
        first, *others = [part for part in parts if part["index"] == index]

        assert first["delta"] == {"role": "assistant", "content": ""}
        assert [part for part in others if "role" in part["delta"]] == []
        assert [part["finish_reason"] for part in others[:-1]] == [None] * (len(others) - 1)
        assert others[-1]["finish_reason"] == "length"


@pytest.mark.parametrize(
    "said", ["\n\ndata: [DONE]\n\n", "\u2028\u2029\x85", "\x01\x1b[31m", 'event: x\r\n"\\', "é😀"]
)
def test_whatever_a_model_says_is_one_event(client: httpx.Client, said: str) -> None:
    """Line breaks, control characters and what looks like our own marks stay inside of the JSON."""
    asked = {"guided_choice": [said], "max_tokens": 60}

    assert text(client, **asked) == said
    assert streamed(client, **asked)[0]["message"]["content"] == said
    for event in ask(client, stream=True, **asked).content.split(b"\n\n")[:-1]:
        assert event.startswith(b"data: ")
        assert b"\n" not in event
        assert b"\r" not in event


def test_template_options_reach_the_template(client: httpx.Client) -> None:
    """What the template doesn't know is let through and changes nothing."""
    options = {"enable_thinking": False, "style": ["a", None, {"b": "<end_of_turn>"}]}

    assert text(client, temperature=0, chat_template_kwargs=options) == text(client, temperature=0)
    assert text(client, temperature=0, reasoning_effort="none") == text(client, temperature=0)


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


def test_answer_goes_on_with_the_final_message(client: httpx.Client) -> None:
    """What was begun is ended as the model would have ended it by itself, also in Anthropic's form."""
    question = {"role": "user", "content": "Which port do you listen on?"}
    limit: dict[str, Any] = {"temperature": 0, "max_tokens": 100}
    whole = text(client, messages=[question], **limit)
    begun = whole[: whole.index(" ", 2)]
    messages = [question, {"role": "assistant", "content": begun}]
    rest = text(client, messages=messages, **limit, continue_final_message=True)
    message = client.post(
        "/v1/messages", json={"model": "gemma", "messages": messages} | limit
    ).json()

    assert begun + rest == whole
    assert begun + message["content"][0]["text"] == whole


def test_answer_has_the_least_number_of_tokens(client: httpx.Client) -> None:
    """The model may not end before, alone or within a form that may go on; a form that is complete ends."""
    usage = ask(client, temperature=0, min_tokens=60, max_tokens=70).json()["usage"]
    form = {"temperature": 0, "min_tokens": 20, "max_tokens": 60}
    long_word = text(client, **form, guided_regex="[a-z]{1,200}")
    short_word = text(client, **form, guided_choice=["yes"])

    assert 60 <= usage["completion_tokens"] <= 70
    assert len(long_word) >= 20
    assert short_word == "yes"


def test_numbers_that_clients_send_for_none(client: httpx.Client) -> None:
    """-1 is no limit, 0 of the probability is the likeliest token, and no stop text stops nothing."""
    greedy = text(client, temperature=0)

    unlimited = text(client, temperature=0, max_tokens=-1, stop=[], top_k=-1, seed=-(2**63))

    assert unlimited.startswith(greedy)
    assert greedy == text(client, temperature=2, top_p=0, seed=2**64 - 1)


def test_guides_curl_works_as_printed(client: httpx.Client, server: LiveServer) -> None:
    """A body sent with curl's default form type is read as the JSON it is, and the id comes back."""
    response = client.post(
        CHAT,
        content=json.dumps({"model": "gemma", "messages": HELLO, "max_tokens": 4}),
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
