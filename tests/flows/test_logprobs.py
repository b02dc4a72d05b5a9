"""Log-probabilities of a chat's tokens, from a live server."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest

from tests.flows.chatting import (
    STRANGE,
    ask,
    choice,
    completion,
    last_token_of,
    refusal,
    streamed,
)

LIKELIEST = {"temperature": 0, "max_tokens": 40}
WILD = {"temperature": 2, "messages": STRANGE, "ignore_eos": True, "max_tokens": 24, "seed": 7}
TOP = {"logprobs": True, "top_logprobs": 5}
LEAST = -9999.0
ASKED: dict[str, dict[str, Any]] = {
    "likeliest": LIKELIEST,
    "wild": WILD,
    "three": WILD | {"n": 3},
    "stopped": LIKELIEST | {"stop": ["odel of G"]},
    "signs": WILD | {"guided_regex": "[é😀€]{6}"},
    "form": WILD | {"guided_json": {"enum": ["a\u2028b", 12]}},
}


def entries(found: Any) -> list[Any]:
    """Return the entries of a choice."""
    content: list[Any] = found["logprobs"]["content"]
    return content


@pytest.mark.parametrize("name", ASKED)
def test_logprobs_are_the_same_whole_and_streamed(client: httpx.Client, name: str) -> None:
    """The very same entries, text and finish reason, however the answer comes."""
    asked = ASKED[name] | TOP
    whole = completion(client, **asked)["choices"]

    assert streamed(client, **asked) == whole
    assert all(entries(each) for each in whole)


@pytest.mark.parametrize("name", ASKED)
def test_bytes_make_the_content(client: httpx.Client, name: str) -> None:
    """Token for token the bytes are the text, also where a character takes several tokens."""
    for found in completion(client, **ASKED[name] | TOP)["choices"]:
        said = b"".join(bytes(entry["bytes"]) for entry in entries(found)).decode(
            "utf-8", "replace"
        )
        content = found["message"]["content"]

        assert content
        if name == "stopped":  # a token may hold the end of the text and the beginning of the stop
            assert said.startswith(content)
            assert len(entries(found)[-1]["bytes"]) > len(said) - len(content)
        else:
            assert said == content


def test_each_token_has_its_entry(client: httpx.Client) -> None:
    """As many entries as tokens were counted."""
    for n_tokens in (1, 2, 17):
        body = completion(client, temperature=0, max_tokens=n_tokens, logprobs=True)

        assert len(entries(body["choices"][0])) == n_tokens == body["usage"]["completion_tokens"]


@pytest.mark.parametrize("name", ASKED)
def test_alternatives_are_the_likeliest_in_order(client: httpx.Client, name: str) -> None:
    """So many as asked for, likeliest first, none likelier than certain, all different."""
    for found in completion(client, **ASKED[name] | TOP)["choices"]:
        for entry in entries(found):
            values = [each["logprob"] for each in entry["top_logprobs"]]

            assert len(values) == 5
            assert values == sorted(values, reverse=True)
            assert sum(map(math.exp, values)) <= 1 + 1e-3
            assert LEAST <= min([entry["logprob"], *values])
            assert entry["logprob"] <= max(values)


def test_likeliest_token_is_the_first_alternative(client: httpx.Client) -> None:
    """At temperature 0 what is said is what was likeliest, with the same number."""
    for entry in entries(choice(client, **LIKELIEST, **TOP)):
        first, *_ = entry["top_logprobs"]

        assert first == {key: entry[key] for key in ("token", "logprob", "bytes")}


@pytest.mark.parametrize(("n", "expected"), [(None, 0), (0, 0), (1, 1), (20, 20)])
def test_alternatives_are_as_many_as_asked_for(
    client: httpx.Client, n: int | None, expected: int
) -> None:
    """None at all is the default."""
    found = choice(client, logprobs=True, top_logprobs=n, temperature=0, max_tokens=3)

    assert [len(entry["top_logprobs"]) for entry in entries(found)] == [expected] * 3


def test_logprobs_are_the_model_s_own(client: httpx.Client) -> None:
    """Temperature, bias and form change what is drawn and not how likely the model finds it."""
    plain = entries(choice(client, **LIKELIEST | {"max_tokens": 1}, **TOP))[0]
    banned = {str(last_token_of(client, plain["token"])): -100}
    changes: list[dict[str, Any]] = [
        {"temperature": 1.5, "seed": 1},
        {"temperature": 0, "logit_bias": banned},
        {"guided_choice": ["zebra"]},
    ]
    for change in changes:
        (found,) = entries(choice(client, **{"max_tokens": 1} | change, **TOP))

        assert found["top_logprobs"] == plain["top_logprobs"]


def test_impossible_token_has_a_finite_logprob(client: httpx.Client) -> None:
    """What a form forces may be as good as impossible; it is told in strict JSON all the same."""
    response = ask(client, guided_regex="\u2042\x01{3}", temperature=0, **TOP)

    assert "Infinity" not in response.text
    assert "NaN" not in response.text
    for entry in entries(response.json()["choices"][0]):
        assert LEAST <= entry["logprob"] <= 0


@pytest.mark.parametrize("fields", [{}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0}])
def test_nothing_comes_unasked(client: httpx.Client, fields: dict[str, Any]) -> None:
    """Whoever doesn't want log-probabilities gets null."""
    assert choice(client, **fields)["logprobs"] is None
    assert streamed(client, **fields)[0]["logprobs"] is None


def test_alternatives_alone_are_refused(client: httpx.Client) -> None:
    """They belong to something, and have a limit."""
    assert refusal(client, top_logprobs=2)["param"] == "top_logprobs"
    assert refusal(client, logprobs=True, top_logprobs=21)["param"] == "top_logprobs"
