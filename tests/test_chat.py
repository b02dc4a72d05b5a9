"""A chat body into a job, deltas into chunks or one completion."""

import json
from typing import Any

import pytest

from service import contracts
from service.errors import InvalidRequest, UnsupportedParameter
from service.openai.chat import NOT_IMPLEMENTED, ChatAnswer, ChatRequest, parse
from service.protocol import Delta, Job, Sampling, ToolCall, Turn

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": 1}'},
}
SUPPORTED = {
    "messages", "model", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p",
    "max_tokens", "max_completion_tokens", "stop", "seed", "ignore_eos",
}  # fmt: skip
# What changes nothing whatever its value: notes of the client, and a choice that only tools give.
IGNORED = {"user", "metadata", "store", "parallel_tool_calls"}


def parsed(**change: Any) -> ChatRequest:
    """Check a request that differs in *change* as the service does, then parse it."""
    body = HELLO | change
    contracts.check("chat-request", body)
    return parse(body)


def turns(*messages: dict[str, Any]) -> tuple[Turn, ...]:
    """Return the turns that *messages* become."""
    return parsed(messages=list(messages)).job.turns


def test_request_when_smallest() -> None:
    """What is not asked for is left to the model's own settings and the context."""
    expected = ChatRequest("m", Job((Turn("user", "Hi"),)), is_stream=False, include_usage=False)

    assert expected == parsed()


def test_request_when_everything_is_null() -> None:
    """Null is the same as leaving a field out."""
    fields = contracts.schemas()["chat-request"]["properties"].keys() - {"model", "messages"}

    assert parsed() == parsed(**dict.fromkeys(fields))


@pytest.mark.parametrize("value", [0, 0.0, 0.7, 2])
def test_temperature_is_kept(value: float) -> None:
    """Zero is a temperature and not an absence."""
    assert value == parsed(temperature=value).job.sampling.temperature


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_p", 0.5), ("top_k", 0), ("top_k", 40), ("min_p", 0), ("min_p", 0.1), ("seed", 0),
     ("seed", 2**63 - 1)],
)  # fmt: skip
def test_sampling_is_kept(field: str, value: float) -> None:
    """Each sampling field arrives as it was sent, zeros included."""
    change: dict[str, Any] = {field: value}

    assert Sampling(**change) == parsed(**change).job.sampling


@pytest.mark.parametrize("field", ["top_k", "seed", "max_tokens", "max_completion_tokens"])
def test_whole_number_when_written_as_float(field: str) -> None:
    """To JSON Schema 2.0 is an integer; the engine gets a real one."""
    job = parsed(**{field: 2.0}).job
    found = job.max_tokens if field.startswith("max") else getattr(job.sampling, field)

    assert (2, int) == (found, type(found))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 6, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({}, None),
    ],
)
def test_token_limit_under_both_names(change: dict[str, Any], expected: int | None) -> None:
    """Either name works; the newer one wins."""
    assert expected == parsed(**change).job.max_tokens


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("\n", ("\n",)), ("END", ("END",)), (["a", "b"], ("a", "b")), (None, ())],
)
def test_stop_as_text_or_list(stop: object, expected: tuple[str, ...]) -> None:
    """One text is a list of one; it is not taken apart."""
    assert expected == parsed(stop=stop).job.stop


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, False)])
def test_ignore_eos_is_kept(value: bool | None, expected: bool) -> None:
    """A load generator's wish to go on past the end of the turn reaches the engine."""
    assert expected is parsed(ignore_eos=value).job.ignore_eos


@pytest.mark.parametrize(
    ("change", "is_stream", "include_usage"),
    [
        ({"stream": True}, True, False),
        ({"stream": False}, False, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": None}, True, False),
    ],
)
def test_stream_options(change: dict[str, Any], is_stream: bool, include_usage: bool) -> None:
    """A stream is given when asked for, the usage chunk when asked for."""
    asked = parsed(**change)

    assert (is_stream, include_usage) == (asked.is_stream, asked.include_usage)


def test_every_documented_field_has_its_fate() -> None:
    """No field of the contract is silently ignored: supported, refused, or known to change nothing."""
    fields = contracts.schemas()["chat-request"]["properties"].keys()

    assert set() == fields - SUPPORTED - IGNORED - NOT_IMPLEMENTED.keys()
    assert set() == (SUPPORTED | IGNORED) & NOT_IMPLEMENTED.keys()


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "x", "format": "wav"}),
        ("audio", {}),
        ("frequency_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("function_call", {"name": "f"}),
        ("functions", [{"name": "f"}]),
        ("logit_bias", {"5": -100}),
        ("logprobs", True),
        ("modalities", ["text", "audio"]),
        ("n", 2),
        ("presence_penalty", 1),
        ("reasoning_effort", "high"),
        ("repetition_penalty", 1.1),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("tools", [TOOL]),
        ("top_logprobs", 2),
        ("verbosity", "low"),
        ("web_search_options", {}),
    ],
)
def test_unsupported_field_when_it_would_matter(field: str, value: object) -> None:
    """A documented field that is not implemented and would change the answer is refused by name."""
    with pytest.raises(UnsupportedParameter) as caught:
        parsed(**{field: value})

    assert (400, "unsupported_parameter", field) == (
        caught.value.status, caught.value.code, caught.value.param,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 0),
        ("frequency_penalty", 0.0),
        ("function_call", "none"),
        ("functions", []),
        ("logit_bias", {}),
        ("logprobs", False),
        ("modalities", ["text"]),
        ("n", 1),
        ("n", 1.0),
        ("presence_penalty", 0),
        ("repetition_penalty", 1.0),
        ("reasoning_effort", "none"),
        ("response_format", {"type": "text"}),
        ("tool_choice", "none"),
        ("tool_choice", "auto"),
        ("tools", []),
        ("top_logprobs", 0),
        ("verbosity", "medium"),
        ("user", "ann"),
        ("metadata", {"a": "b"}),
        ("store", True),
        ("parallel_tool_calls", True),
        ("ignore_eos", False),
        ("min_tokens", 1),
        ("service_tier", "auto"),
        ("x_unknown", {"deep": [1]}),
    ],
)
def test_field_when_it_changes_nothing(field: str, value: object) -> None:
    """A value that is the default in other words passes, as does what nobody documented."""
    assert parsed() == parsed(**{field: value})


@pytest.mark.parametrize("field", NOT_IMPLEMENTED)
def test_harmless_values_pass_as_listed(field: str) -> None:
    """Each value in the table of harmless ones is let through by the code that reads it."""
    for value in NOT_IMPLEMENTED[field]:
        assert parsed() == parsed(**{field: value})


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_turn_of_each_role(role: str) -> None:
    """A role is kept, and its text untouched."""
    text = "a {{7*7}} <start_of_turn>\0\u2028\n"

    assert (Turn(role, text),) == turns({"role": role, "content": text})


def test_turn_of_the_developer() -> None:
    """Developer is today's word for system, and templates know the older one."""
    assert (Turn("system", "Be short."),) == turns({"role": "developer", "content": "Be short."})


def test_turn_with_a_name() -> None:
    """A speaker's name comes along."""
    assert (Turn("user", "x", name="ann"),) == turns(
        {"role": "user", "content": "x", "name": "ann"}
    )


@pytest.mark.parametrize("role", ["developer", "system", "user", "assistant"])
def test_content_when_a_list(role: str) -> None:
    """Text parts follow each other with nothing between them."""
    parts = [{"type": "text", "text": text} for text in ("a", "", "b\n")]

    assert "ab\n" == turns({"role": role, "content": parts})[0].content


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {}},
    ],
)
def test_content_when_not_text(part: dict[str, Any]) -> None:
    """What this model cannot read is refused at its place, and its address is not repeated."""
    content = [{"type": "text", "text": "x"}, part]
    messages = [HELLO["messages"][0], {"role": "user", "content": content}]
    with pytest.raises(InvalidRequest) as caught:
        parsed(messages=messages)

    assert ("unsupported_content", "messages.1.content.1.type") == (
        caught.value.code, caught.value.param,
    )  # fmt: skip
    assert "169.254" not in caught.value.message


def test_tool_calls_and_results() -> None:
    """A round of calls and results arrives with ids, names and arguments as they were."""
    second = CALL | {"id": "c2", "function": {"name": "now", "arguments": ""}}
    found = turns(
        {"role": "assistant", "tool_calls": [CALL, second]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "noon"}]},
    )
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "now", "{}"))
    expected = (
        Turn("assistant", None, tool_calls=calls),
        Turn("tool", "3", tool_call_id="c1"),
        Turn("tool", "noon", tool_call_id="c2"),
    )

    assert expected == found


def test_tool_calls_when_null() -> None:
    """An answer without calls may say so."""
    message = {"role": "assistant", "content": "x", "tool_calls": None}

    assert (Turn("assistant", "x"),) == turns(message)


@pytest.mark.parametrize(
    "arguments", ["{", "[]", "1", '"x"', "null", "{} x", '{"a": NaN}', "plain", " "]
)
def test_tool_arguments_when_no_object(arguments: str) -> None:
    """A template may parse arguments: what is no JSON object never reaches it."""
    call = CALL | {"function": {"name": "add", "arguments": arguments}}
    messages = [HELLO["messages"][0], {"role": "assistant", "tool_calls": [CALL, call]}]
    with pytest.raises(InvalidRequest) as caught:
        parsed(messages=messages)

    assert "messages.1.tool_calls.1.function.arguments" == caught.value.param


DELTAS = [
    Delta(1, "He", 1),
    Delta(1, "", 2),
    Delta(1, "llo\u2028", 3),
    Delta(1, "!", 4, "stop"),
]


def test_completion_keeps_its_contract() -> None:
    """The whole answer has text, finish reason and counts that add up, in the documented shape."""
    body = ChatAnswer("org/m", 7).completion(DELTAS)
    contracts.check("chat-completion", json.loads(json.dumps(body)))

    assert {"role": "assistant", "content": "Hello\u2028!"} == body["choices"][0]["message"]
    assert "stop" == body["choices"][0]["finish_reason"]
    assert {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11} == body["usage"]


def test_completion_when_empty() -> None:
    """An answer of no text is an empty text."""
    body = ChatAnswer("org/m", 7).completion([Delta(1, "", 0, "stop")])
    contracts.check("chat-completion", body)

    assert "" == body["choices"][0]["message"]["content"]
    assert 7 == body["usage"]["total_tokens"]


def test_completion_when_cut() -> None:
    """The token limit is told as the reason."""
    body = ChatAnswer("org/m", 7).completion([Delta(1, "x", 1), Delta(1, "", 2, "length")])

    assert "length" == body["choices"][0]["finish_reason"]


@pytest.mark.parametrize("include_usage", [False, True])
def test_chunks_keep_their_contract(include_usage: bool) -> None:
    """Every chunk is well formed; role first, text in the middle, one finish reason, at the end."""
    answer = ChatAnswer("org/m", 7, include_usage)
    chunks = [answer.opening(), *map(answer.chunk, DELTAS)]
    if include_usage:
        chunks.append(answer.closing(DELTAS[-1]))
    for chunk in chunks:
        contracts.check("chat-completion-chunk", json.loads(json.dumps(chunk)))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]

    assert {"role": "assistant", "content": ""} == choices[0]["delta"]
    assert "Hello\u2028!" == "".join(choice["delta"].get("content", "") for choice in choices)
    assert [None] * 4 + ["stop"] == [choice["finish_reason"] for choice in choices]


def test_usage_chunk_when_asked_for() -> None:
    """With usage asked for, it is null in every chunk but the last, which has no choice."""
    answer = ChatAnswer("org/m", 7, include_usage=True)
    closing = answer.closing(DELTAS[-1])

    assert [None, None] == [answer.opening()["usage"], answer.chunk(DELTAS[0])["usage"]]
    assert [] == closing["choices"]
    assert {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11} == closing["usage"]


def test_usage_when_not_asked_for() -> None:
    """Without the option no chunk speaks of usage."""
    answer = ChatAnswer("org/m", 7)

    assert "usage" not in answer.opening()
    assert "usage" not in answer.chunk(DELTAS[0])


def test_head_is_the_same_in_all_chunks() -> None:
    """Id, time and model tie the chunks of one answer together, and tell answers apart."""
    answer, other = ChatAnswer("org/m", 7), ChatAnswer("org/m", 7)
    heads = {
        (chunk["id"], chunk["created"], chunk["model"])
        for chunk in (answer.opening(), *map(answer.chunk, DELTAS), answer.closing(DELTAS[-1]))
    }

    assert {(answer.id, answer.created, "org/m")} == heads
    assert answer.id != other.id
