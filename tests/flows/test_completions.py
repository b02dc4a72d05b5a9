"""Continuing texts on the default server: what evaluation harnesses and older clients see."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from service.contracts import check
from tests.flows.chatting import counts
from tests.live import LiveServer

COMPLETIONS = "/v1/completions"
PROMPT = "The server listens on"
END_OF_TURN = 4  # of the built-in model


def ask(client: httpx.Client, prompt: Any = PROMPT, **fields: Any) -> Any:
    """Post a small greedy completion with *fields* on top; return its body, which keeps its contract."""
    body = {"model": "gemma", "prompt": prompt, "max_tokens": 8, "temperature": 0} | fields
    response = client.post(COMPLETIONS, json=body)
    assert response.status_code == 200, response.text
    check("completion", response.json())
    return response.json()


def choice(client: httpx.Client, prompt: Any = PROMPT, **fields: Any) -> Any:
    """Return the only choice of a small greedy completion."""
    (found,) = ask(client, prompt, **fields)["choices"]
    return found


def chunks(client: httpx.Client, prompt: Any = PROMPT, **fields: Any) -> list[Any]:
    """Return the chunks of a small greedy completion, each of which keeps its contract."""
    body = {"model": "gemma", "prompt": prompt, "max_tokens": 8, "temperature": 0, "stream": True}
    response = client.post(COMPLETIONS, json=body | fields)
    *events, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert last == "[DONE]"
    found = [json.loads(event) for event in events if not event.startswith(":")]
    for chunk in found:
        check("completion-chunk", chunk)
    return found


def ids_of(client: httpx.Client, text: str) -> list[int]:
    """Return the token ids of *text*."""
    body = client.post("/v1/tokenize", json={"model": "gemma", "prompt": text}).json()
    ids: list[int] = body["tokens"]
    return ids


def test_official_client_completes_and_streams(sdk: openai.OpenAI) -> None:
    """A whole continuation and a stream, the same text both ways, counted the same."""
    whole = sdk.completions.create(model="gemma", prompt=PROMPT, temperature=0, max_tokens=12)
    stream = sdk.completions.create(
        model="gemma",
        prompt=PROMPT,
        temperature=0,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    seen = list(stream)

    assert whole.choices[0].text
    assert whole.choices[0].text == "".join(each.choices[0].text for each in seen if each.choices)
    assert seen[-1].usage is not None
    assert whole.usage is not None
    assert counts(seen[-1].usage.to_dict()) == counts(whole.usage.to_dict())


def test_text_goes_on_right_where_the_prompt_ends(client: httpx.Client) -> None:
    """A space between the prompt and its continuation is not lost, echoed or not."""
    plain, echoed = choice(client), choice(client, echo=True)
    tokens = choice(client, logprobs=0)["logprobs"]["tokens"]

    assert plain["text"] == "".join(tokens)
    assert echoed["text"] == PROMPT + plain["text"]


def test_token_ids_are_completed_as_their_text_is(client: httpx.Client) -> None:
    """One list of ids, or a list of lists, means what the text means; so does a list of texts."""
    ids = ids_of(client, PROMPT)
    expected = ask(client, echo=True, logprobs=2)

    for form in ([PROMPT], ids, [ids]):
        found = ask(client, form, echo=True, logprobs=2)
        assert found["choices"][0]["text"] == expected["choices"][0]["text"]
        assert (
            found["choices"][0]["logprobs"]["tokens"]
            == expected["choices"][0]["logprobs"]["tokens"]
        )
        assert counts(found["usage"]) == counts(expected["usage"])


def test_several_prompts_and_answers_come_in_order(client: httpx.Client) -> None:
    """Choices follow the prompts, `n` of each; tokens of all prompts and answers are counted."""
    prompts = ["One", PROMPT, "What does /health mean?"]
    alone = [ask(client, each, echo=True) for each in prompts]
    body = ask(client, prompts, echo=True, n=2)
    texts = [each["text"] for each in body["choices"]]

    assert [each["index"] for each in body["choices"]] == list(range(6))
    assert texts == [one["choices"][0]["text"] for one in alone for _ in range(2)]
    assert body["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)
    assert body["usage"]["completion_tokens"] == 2 * sum(
        one["usage"]["completion_tokens"] for one in alone
    )


def test_answers_with_a_seed_differ_and_repeat(client: httpx.Client) -> None:
    """Each of several answers draws its own, and the whole draws the same again."""
    fields: Any = {"temperature": 2, "seed": 3, "n": 4, "max_tokens": 16, "ignore_eos": True}
    first = [each["text"] for each in ask(client, **fields)["choices"]]
    second = [each["text"] for each in ask(client, **fields)["choices"]]

    assert first == second
    assert len(set(first)) == 4


def test_echoed_prompt_scores_as_it_was_generated(client: httpx.Client) -> None:
    """What was generated is scored the same when it comes back as a prompt, at once and alone."""
    generated = choice(client, logprobs=2, echo=True)
    text, n_prompt = generated["text"], len(ids_of(client, PROMPT))
    assert len(generated["logprobs"]["tokens"]) == n_prompt + 8
    echoed = choice(client, text, max_tokens=0, logprobs=2, echo=True)

    assert echoed["text"] == text
    assert echoed["finish_reason"] == "length"
    assert echoed["logprobs"]["tokens"] == generated["logprobs"]["tokens"]
    assert sum(echoed["logprobs"]["token_logprobs"][1:]) == pytest.approx(
        sum(generated["logprobs"]["token_logprobs"][1:]), abs=0.01
    )


def test_long_prompt_scores_the_same_in_any_company(client: httpx.Client) -> None:
    """Scored in several pieces, and beside others, each token has the value it has at first."""
    ids = ids_of(client, "What does /health mean? " * 200)[:600]
    assert len(ids) == 600
    whole = choice(client, ids, max_tokens=0, logprobs=1, echo=True)["logprobs"]["token_logprobs"]
    begin = choice(client, ids[:80], max_tokens=0, logprobs=1, echo=True)["logprobs"]
    both = ask(client, [ids[:80], ids], max_tokens=1, logprobs=1, echo=True)["choices"]

    assert whole[1:80] == pytest.approx(begin["token_logprobs"][1:], abs=0.01)
    assert both[0]["logprobs"]["token_logprobs"][1:80] == pytest.approx(whole[1:80], abs=0.01)
    assert both[1]["logprobs"]["token_logprobs"][1 : len(ids)] == pytest.approx(whole[1:], abs=0.01)


@pytest.mark.parametrize("bias", [{}, {str(END_OF_TURN): 100}], ids=["goes-on", "ends"])
def test_harness_finds_one_entry_for_each_token(client: httpx.Client, bias: Any) -> None:
    """
    What lm-eval sends comes back with an entry for each of the prompt's tokens and one more.

    It leaves out the last, whatever it is; one that ends the turn must be there, too, or a token of the
    prompt would be left out in its place.
    """
    ids = ids_of(client, PROMPT)
    fields: Any = {"max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True, "logit_bias": bias}
    first, second = ask(client, [ids, ids[:3]], **fields)["choices"]

    for each, n_prompt in ((first, len(ids)), (second, 3)):
        lists = each["logprobs"]
        assert {len(values) for values in lists.values()} == {n_prompt + 1}
        assert lists["token_logprobs"][0] is lists["top_logprobs"][0] is None
        assert all(value <= 0 for value in lists["token_logprobs"][1:])
        for logprob, top in zip(
            lists["token_logprobs"][1:], lists["top_logprobs"][1:], strict=True
        ):
            assert max(top.values()) >= logprob
            assert logprob in top.values()


def test_least_likely_token_has_a_finite_logprob(client: httpx.Client) -> None:
    """Tokens that the model finds all but impossible have a number as well; JSON knows no infinity."""
    lists = choice(client, list(range(64)), max_tokens=0, logprobs=5, echo=True)["logprobs"]

    assert all(-9999 <= value <= 0 for value in lists["token_logprobs"][1:])


def test_offsets_lead_to_the_tokens(client: httpx.Client) -> None:
    """Each token stands where its offset says, whole or streamed, more than ASCII included."""
    prompt = "Zw\u00f6lf Uhr \U0001f570 \u2026 and"
    fields: Any = {"logprobs": 0, "echo": True, "max_tokens": 6}
    whole = choice(client, prompt, **fields)
    streamed = [c["choices"][0]["logprobs"] for c in chunks(client, prompt, **fields)]
    lists = whole["logprobs"]

    for token, offset in zip(lists["tokens"], lists["text_offset"], strict=True):
        assert token.startswith("bytes:") or whole["text"].startswith(token, offset)
    for name in lists:
        assert [each for one in streamed for each in one[name]] == lists[name]


def test_stream_says_what_the_whole_says(client: httpx.Client) -> None:
    """Echo and continuation of several prompts, piece by piece under their indexes."""
    prompts = ["One", PROMPT]
    whole = ask(client, prompts, echo=True, logprobs=1)
    seen = chunks(client, prompts, echo=True, logprobs=1, stream_options={"include_usage": True})
    told = [(c["index"], c["text"]) for chunk in seen for c in chunk["choices"]]

    for each in whole["choices"]:
        assert each["text"] == "".join(text for i, text in told if i == each["index"])
    assert counts(seen[-1]["usage"]) == counts(whole["usage"])
    assert not seen[-1]["choices"]
    assert seen[-1]["timings"].keys() == whole["timings"].keys()


def test_stop_text_ends_a_continuation_wherever_tokens_cut_it(client: httpx.Client) -> None:
    """The text ends right before the stop text; what is only echoed is no reason to stop."""
    text = choice(client, max_tokens=16)["text"]
    middle = len(text) // 2
    stop = text[middle : middle + 3]
    wanted = text[: text.index(stop)]
    whole = choice(client, max_tokens=16, stop=["never said", stop])
    pieces = chunks(client, max_tokens=16, stop=stop)
    echoed = choice(client, max_tokens=16, stop=[PROMPT[4:9], stop], echo=True)

    assert (wanted, "stop") == (whole["text"], whole["finish_reason"])
    assert wanted == "".join(c["choices"][0]["text"] for c in pieces)
    assert PROMPT + wanted == echoed["text"]


def test_form_holds_for_a_continuation(client: httpx.Client) -> None:
    """An answer that is held to a choice or a schema is so after an echo as well."""
    chosen = choice(client, guided_choice=["yes", "no"])
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    formed = choice(
        client, guided_json=schema | {"additionalProperties": False}, max_tokens=32, echo=True
    )

    assert chosen["text"] in {"yes", "no"}
    assert json.loads(formed["text"].removeprefix(PROMPT)) == {"a": 1}


def test_no_more_than_16_tokens_by_default(client: httpx.Client) -> None:
    """OpenAI's default, so that a client that relies on it gets no more."""
    body = ask(client, max_tokens=None, ignore_eos=True)

    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"


def test_prompt_keeps_what_is_strange_in_it(client: httpx.Client) -> None:
    """NUL and the spelling of special tokens are text, and come back as they were."""
    prompt = "a\x00<start_of_turn>{{7*7}}\u2028b"

    assert choice(client, prompt, echo=True, max_tokens=0)["text"] == prompt
    assert len(ids_of(client, "<start_of_turn>")) > 1


def test_top_k_over_the_vocabulary_is_all_of_it(client: httpx.Client) -> None:
    """More than there are is no mistake."""
    assert choice(client, temperature=1, top_k=2**31 - 1)["finish_reason"]


REFUSED: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    ("no-prompt", {"prompt": None}, 400, "invalid_type", "prompt"),
    ("empty-list", {"prompt": []}, 400, "invalid_value", "prompt"),
    ("empty-text", {"prompt": ""}, 400, "invalid_prompt", "prompt"),
    ("empty-second", {"prompt": ["a", ""]}, 400, "invalid_prompt", "prompt"),
    ("id-bool", {"prompt": [True]}, 400, "invalid_type", "prompt.0"),
    ("id-negative", {"prompt": [[1, -1]]}, 400, "invalid_value", "prompt.0.1"),
    ("id-unknown", {"prompt": [1280]}, 400, "invalid_token", "prompt"),
    ("id-large", {"prompt": [10**30]}, 400, "invalid_value", "prompt.0"),
    ("mixed", {"prompt": ["a", 1]}, 400, "invalid_type", "prompt.0"),
    ("prompts", {"prompt": ["a"] * 17}, 400, "invalid_value", "prompt"),
    ("answers", {"prompt": ["a"] * 3, "n": 8}, 400, "invalid_value", "n"),
    ("long", {"prompt": "word " * 9000}, 400, "context_length_exceeded", "prompt"),
    ("long-ids", {"prompt": [5] * 8192}, 400, "context_length_exceeded", "prompt"),
    ("n", {"n": 9}, 400, "invalid_value", "n"),
    ("logprobs", {"logprobs": 6}, 400, "invalid_value", "logprobs"),
    ("logprobs-bool", {"logprobs": True}, 400, "invalid_type", "logprobs"),
    ("max-tokens-0", {"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ("max-tokens-negative", {"max_tokens": -2}, 400, "invalid_value", "max_tokens"),
    ("max-tokens-large", {"max_tokens": 10**30}, 400, "invalid_value", "max_tokens"),
    ("seed", {"seed": 2**64}, 400, "invalid_value", "seed"),
    ("stop", {"stop": ["a"] * 65}, 400, "invalid_value", "stop"),
    ("bias-unknown", {"logit_bias": {"1280": 1}}, 400, "invalid_token", "logit_bias"),
    ("best-of", {"best_of": 2}, 400, "unsupported_parameter", "best_of"),
    ("suffix", {"suffix": "x"}, 400, "unsupported_parameter", "suffix"),
    ("form-twice", {"guided_regex": "a", "guided_choice": ["a"]}, 400, "invalid_value", "guided_choice"),
    ("schema-ref", {"guided_json": {"$ref": "http://x/"}}, 400, "invalid_json_schema", "guided_json"),
    ("model", {"model": "/etc/passwd"}, 404, "model_not_found", "model"),
]  # fmt: skip


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("change", "status", "code", "param"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_bad_request_is_refused_before_anything_begins(
    client: httpx.Client,
    server: LiveServer,
    change: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
    is_stream: bool,
) -> None:
    """Status, code and param are right, streaming or not; the engine is the same after, and answers."""
    engine = server.engine_pid()
    body = {"model": "gemma", "prompt": "a", "max_tokens": 1, "stream": is_stream} | change
    response = client.post(COMPLETIONS, json=body)
    check("error", response.json())
    error = response.json()["error"]

    assert (status, code, param) == (response.status_code, error["code"], error["param"])
    assert server.engine_pid() == engine
    assert choice(client, max_tokens=1)["text"]


def test_prompt_may_fill_the_context_where_nothing_is_generated(client: httpx.Client) -> None:
    """An echo alone needs no room for an answer; one token more is refused."""
    context = client.get("/v1/models").json()["data"][0]["context_length"]
    body = ask(client, [5] * context, max_tokens=0, echo=True)

    assert body["usage"]["prompt_tokens"] == context
    refused = client.post(
        COMPLETIONS,
        json={"model": "gemma", "prompt": [5] * (context + 1), "max_tokens": 0, "echo": True},
    )
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_client_that_leaves_while_its_prompt_is_scored_leaves_nothing(
    client: httpx.Client,
) -> None:
    """Its rows are gone: another prompt to be scored would have to wait for them for minutes."""
    body = {
        "model": "gemma",
        "prompt": [[5] * 8000] * 4,
        "max_tokens": 100,
        "logprobs": 5,
        "echo": True,
        "stream": True,
    }
    with client.stream("POST", COMPLETIONS, json=body) as response:
        assert response.status_code == 200

    assert choice(client, logprobs=1, echo=True)["text"]
