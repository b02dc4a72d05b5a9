"""Responses of the default server, as OpenAI's own client asks for them."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from service.contracts import check
from tests.live import LiveServer, running

RESPONSES = "/v1/responses"
HELLO: dict[str, Any] = {"model": "gemma", "input": "Hello", "max_output_tokens": 16}
# The demonstration model calls nothing by itself and says little; both can be demanded.
ADD: Any = {
    "type": "function",
    "name": "add",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
LONG: Any = {
    "type": "json_schema",
    "name": "long",
    "schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 3000},
}


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a finished stream, each named after its type."""
    found = []
    for block in response.text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


def test_official_client_reads_whole_and_streamed(sdk: openai.OpenAI) -> None:
    """The same text both ways at temperature 0, and counts that add up."""
    whole = sdk.responses.create(model="gemma", input="Hello", temperature=0)
    stream = sdk.responses.create(model="gemma", input="Hello", temperature=0, stream=True)
    seen = list(stream)
    deltas = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    last = seen[-1]

    assert whole.status == "completed"
    assert whole.output_text == deltas
    assert last.type == "response.completed"
    assert last.response.output_text == deltas
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens


def test_helper_of_official_client_follows_the_events(sdk: openai.OpenAI) -> None:
    """The client's own accumulation of the events is the response that the last one tells."""
    with sdk.responses.stream(model="gemma", input="Hello", instructions="Be brief.") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert final.output_text == "".join(texts)
    assert final.instructions == "Be brief."


def test_answers_and_events_keep_their_contracts(client: httpx.Client) -> None:
    """Every body that comes back validates against its schema; a stream has no end of its own."""
    whole = client.post(RESPONSES, json=HELLO)
    stream = client.post(RESPONSES, json=HELLO | {"stream": True, "top_logprobs": 2})
    events = events_of(stream)

    check("response", whole.json())
    for event in events:
        check("response-event", event)
    assert "[DONE]" not in stream.text
    assert list(range(len(events))) == [event["sequence_number"] for event in events]
    check("response", client.get(f"{RESPONSES}/{whole.json()['id']}").json())


@pytest.mark.parametrize("is_stream", [False, True])
def test_limit_makes_it_incomplete(client: httpx.Client, is_stream: bool) -> None:
    """Exactly so many tokens are counted, and the response says what cut it."""
    asked = HELLO | {"max_output_tokens": 3, "stream": is_stream}
    answer = client.post(RESPONSES, json=asked)
    body = events_of(answer)[-1]["response"] if is_stream else answer.json()

    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["usage"]["output_tokens"] == 3


@pytest.mark.parametrize("is_kept", [False, True])
def test_function_is_called_and_its_output_answered(sdk: openai.OpenAI, is_kept: bool) -> None:
    """A round of a call and its output, with the items sent again or remembered."""
    asked: Any = [{"role": "user", "content": "What is 1 + 2?"}]
    first = sdk.responses.create(
        model="gemma", input=asked, tools=[ADD], tool_choice="required", store=is_kept
    )
    (call,) = (item for item in first.output if item.type == "function_call")
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
    again: Any = {"previous_response_id": first.id, "input": [output]}
    if not is_kept:
        again = {"input": [*asked, *(item.model_dump() for item in first.output), output]}
    second = sdk.responses.create(
        model="gemma", tools=[ADD], tool_choice="none", max_output_tokens=16, **again
    )

    assert call.name == "add"
    assert 0 <= json.loads(call.arguments)["a"] <= 99
    assert second.output_text
    assert second.previous_response_id == (first.id if is_kept else None)


def test_events_of_a_call(sdk: openai.OpenAI) -> None:
    """A streamed call is announced with its name, then has its arguments."""
    stream = sdk.responses.create(
        model="gemma",
        input="Add!",
        tools=[ADD],
        tool_choice={"type": "function", "name": "add"},
        stream=True,
    )
    seen = list(stream)
    (done,) = (e for e in seen if e.type == "response.function_call_arguments.done")
    deltas = [e.delta for e in seen if e.type == "response.function_call_arguments.delta"]

    assert "".join(deltas) == done.arguments
    assert "a" in json.loads(done.arguments)
    assert seen[-1].type == "response.completed"


def test_text_has_the_form_that_was_asked_for(sdk: openai.OpenAI) -> None:
    """With a JSON Schema the text is JSON after it, and the client parses it."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}  # fmt: skip
    found = sdk.responses.create(
        model="gemma",
        input="Are you well?",
        text={"format": {"type": "json_schema", "name": "health", "schema": schema}},
    )

    assert {"ok"} == json.loads(found.output_text).keys()


def test_conversation_is_continued(sdk: openai.OpenAI) -> None:
    """A response goes on from a kept one: its prompt is all that was said, and it lists that."""
    first = sdk.responses.create(model="gemma", input="Hello", temperature=0, instructions="Hm.")
    second = sdk.responses.create(
        model="gemma", input="And now?", previous_response_id=first.id, temperature=0
    )
    repeated = sdk.responses.create(
        model="gemma",
        input=[
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And now?"},
        ],
        temperature=0,
        store=False,
    )
    listed = sdk.responses.input_items.list(second.id, order="asc").data

    assert second.previous_response_id == first.id
    assert second.output_text == repeated.output_text
    assert second.usage is not None
    assert repeated.usage is not None
    assert second.usage.input_tokens == repeated.usage.input_tokens
    assert [getattr(item, "role", None) for item in listed] == ["user", "assistant", "user"]
    assert listed[1].id == first.output[0].id


def test_item_is_referred_to_by_its_id(client: httpx.Client) -> None:
    """An item of a kept response stands for itself, as Vercel's client sends it by default."""
    first = client.post(RESPONSES, json=HELLO).json()
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    said = {"role": "user", "content": "Hello"}
    second = client.post(RESPONSES, json=HELLO | {"input": [said, reference, said]})
    unknown = client.post(RESPONSES, json=HELLO | {"input": [reference | {"id": "msg_x"}]})

    assert second.status_code == 200
    assert unknown.status_code == 400
    assert unknown.json()["error"]["param"] == "input.0.id"


def test_response_is_retrieved_listed_and_deleted(sdk: openai.OpenAI) -> None:
    """What is kept is there word for word, and gone once it is deleted."""
    made = sdk.responses.create(model="gemma", input="Hello", metadata={"of": "ann"})
    again = sdk.responses.retrieve(made.id)
    items = sdk.responses.input_items.list(made.id).data
    sdk.responses.delete(made.id)

    assert again == made
    assert [item.type for item in items] == ["message"]
    for gone in (
        lambda: sdk.responses.retrieve(made.id),
        lambda: sdk.responses.delete(made.id),
        lambda: sdk.responses.input_items.list(made.id),
        lambda: sdk.responses.cancel(made.id),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            gone()
        assert caught.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.responses.create(model="gemma", input="Hm?", previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


def test_deletion_says_what_it_did(client: httpx.Client) -> None:
    """The answer to a deletion names what is gone."""
    made = client.post(RESPONSES, json=HELLO).json()["id"]

    assert client.delete(f"{RESPONSES}/{made}").json() == {
        "id": made, "object": "response", "deleted": True,
    }  # fmt: skip


def test_response_that_is_not_to_be_kept_is_not(sdk: openai.OpenAI) -> None:
    """With `store` false nothing of it can be read."""
    made = sdk.responses.create(model="gemma", input="Hello", store=False)

    assert made.model_dump()["store"] is False
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(made.id)


def test_list_of_items_is_paged(client: httpx.Client) -> None:
    """Limit, order and place are kept to; a query that can't be is refused by name."""
    said = [{"role": "user", "content": f"{i}"} for i in range(3)]
    made = client.post(RESPONSES, json=HELLO | {"input": said}).json()["id"]
    path = f"{RESPONSES}/{made}/input_items"
    page = client.get(path, params={"limit": 2}).json()
    rest = client.get(path, params={"after": page["last_id"]}).json()
    refused = client.get(path, params={"limit": "many"})
    check("response-item-list", page)

    assert [item["content"][0]["text"] for item in page["data"]] == ["2", "1"]
    assert (True, False) == (page["has_more"], rest["has_more"])
    assert [item["content"][0]["text"] for item in rest["data"]] == ["0"]
    assert (400, "limit") == (refused.status_code, refused.json()["error"]["param"])


@pytest.mark.parametrize("is_kept", [False, True])
def test_streamed_response_is_cancelled(sdk: openai.OpenAI, is_kept: bool) -> None:
    """A running response stops where it is; its stream ends with what there is, and so it is kept."""
    stream = sdk.responses.create(
        model="gemma", input="Say much.", text={"format": LONG}, stream=True, store=is_kept
    )
    seen = []
    cancelled = None
    for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta" and cancelled is None:
            running = seen[0].response  # type: ignore[union-attr]
            if is_kept:
                assert sdk.responses.retrieve(running.id).status == "in_progress"
            cancelled = sdk.responses.cancel(running.id)
    last = seen[-1]

    assert cancelled is not None
    assert cancelled.status == "cancelled"
    assert last.type == "response.incomplete"
    assert last.response == cancelled
    assert cancelled.output_text == "".join(
        event.delta for event in seen if event.type == "response.output_text.delta"
    )
    assert cancelled.output_text.count(",") < 2999
    if is_kept:
        assert sdk.responses.retrieve(cancelled.id) == cancelled
        with pytest.raises(openai.BadRequestError) as ended:
            sdk.responses.cancel(cancelled.id)
        assert ended.value.code == "response_ended"


def test_cancelled_response_gives_its_place_back(client: httpx.Client, server: LiveServer) -> None:
    """The engine works on nothing once the only response is cancelled."""
    with client.stream("POST", RESPONSES, json=HELLO | {
        "stream": True, "max_output_tokens": None, "text": {"format": LONG},
    }) as stream:  # fmt: skip
        lines = stream.iter_lines()
        data = next(line for line in lines if line.startswith("data: "))
        made = json.loads(data.removeprefix("data: "))["response"]["id"]
        cancelled = client.post(f"{RESPONSES}/{made}/cancel")
        *_, last = (line for line in lines if line.startswith("data: "))

    assert cancelled.json()["status"] == "cancelled"
    assert json.loads(last.removeprefix("data: "))["response"]["status"] == "cancelled"
    deadline_s = time.monotonic() + 10
    while not re.search(r"^tier3a_permits_in_use{.*} 0", client.get("/metrics").text, re.MULTILINE):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_response_of_a_client_that_left_is_not_kept(client: httpx.Client) -> None:
    """Who leaves in the middle cancels the response, and nothing of it stays."""
    asked = HELLO | {"stream": True, "max_output_tokens": None, "text": {"format": LONG}}
    with client.stream("POST", RESPONSES, json=asked) as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data: "))
    made = json.loads(data.removeprefix("data: "))["response"]["id"]
    deadline_s = time.monotonic() + 10
    while client.get(f"{RESPONSES}/{made}").status_code != 404:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_input_tokens_are_those_of_the_response(sdk: openai.OpenAI) -> None:
    """Counting a prompt beforehand gives what its response counts."""
    asked: Any = {"model": "gemma", "input": "Hello", "instructions": "Be brief.", "tools": [ADD]}
    counted = sdk.responses.input_tokens.count(**asked)
    made = sdk.responses.create(**asked, max_output_tokens=1)

    assert counted.object == "response.input_tokens"
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens


def test_logprobs_are_told_when_included(sdk: openai.OpenAI) -> None:
    """Each token of the text has its log-probability and the likeliest ones in its place."""
    made = sdk.responses.create(
        model="gemma",
        input="Hello",
        max_output_tokens=8,
        temperature=0,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    part: Any = made.output[0].content[0]  # type: ignore[union-attr, index]

    assert part.text == "".join(each.token for each in part.logprobs)
    assert all(len(each.top_logprobs) == 2 for each in part.logprobs)
    assert all(each.logprob <= 0 for each in part.logprobs)


BAD: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    ("no-input", {"model": "gemma"}, 400, "missing_required_field", "input"),
    ("input-number", HELLO | {"input": 7}, 400, "invalid_type", "input"),
    ("role", HELLO | {"input": [{"role": "x", "content": ""}]}, 400, "invalid_value", "input.0.role"),
    ("range", HELLO | {"temperature": 3}, 400, "invalid_value", "temperature"),
    ("limit", HELLO | {"max_output_tokens": 0}, 400, "invalid_value", "max_output_tokens"),
    ("background", HELLO | {"background": True}, 400, "unsupported_parameter", "background"),
    ("search", HELLO | {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
     400, "unsupported_parameter", "tool_choice.type"),
    ("image", HELLO | {"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": "http://127.0.0.1/"}]}]}, 400,
     "unsupported_content", "input.0.content.0.type"),
    ("schema", HELLO | {"text": {"format": {"type": "json_schema", "name": "f",
                                            "schema": {"type": "strange"}}}}, 400,
     "invalid_json_schema", "text.format.schema"),
    ("model", HELLO | {"model": "/etc/passwd"}, 404, "model_not_found", "model"),
    ("long", HELLO | {"input": "word " * 9000}, 400, "context_length_exceeded", "input"),
    ("previous", HELLO | {"previous_response_id": "resp_x"}, 400, "previous_response_not_found",
     "previous_response_id"),
]  # fmt: skip


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("body", "status", "code", "param"), [pytest.param(*b[1:], id=b[0]) for b in BAD]
)
def test_bad_body_is_refused_before_any_stream_begins(
    client: httpx.Client,
    body: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
    is_stream: bool,
) -> None:
    """Status, envelope, code and param are right, in the words of responses, streamed or not."""
    answer = client.post(RESPONSES, json=body | {"stream": is_stream})
    error = answer.json()

    check("error", error)
    assert (status, code, param) == (
        answer.status_code, error["error"]["code"], error["error"]["param"],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%00", "a" * 300])
def test_strange_ids_are_not_found(client: httpx.Client, name: str) -> None:
    """Whatever is asked for by an id, it is looked up and nothing else."""
    answer = client.get(f"{RESPONSES}/{name}")

    assert (404, "application/json") == (answer.status_code, answer.headers["Content-Type"])


def test_response_fails_when_the_engine_dies(tmp_path: Path) -> None:
    """The stream tells of the error, then of the failed response with what was said; it isn't kept."""
    asked = HELLO | {"stream": True, "max_output_tokens": None, "text": {"format": LONG}}
    with running(tmp_path / "log") as server, server.client() as http:
        server.wait_until("/readyz", 200)
        with http.stream("POST", RESPONSES, json=asked) as stream:
            lines = (line for line in stream.iter_lines() if line.startswith("data: "))
            began = [next(lines) for _ in range(6)]
            os.kill(server.engine_pid(), signal.SIGKILL)
            *_, error, last = (json.loads(line.removeprefix("data: ")) for line in [*began, *lines])

        check("response-event", error)
        check("response-event", last)
        assert (error["type"], error["code"]) == ("error", "engine_died")
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert last["response"]["output"][0]["content"][0]["text"]
        assert http.get(f"{RESPONSES}/{last['response']['id']}").status_code == 404
        assert 'tier3a_streams_broken_total{code="engine_died"} 1.0' in http.get("/metrics").text
