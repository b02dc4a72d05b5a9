"""How the next token is chosen, seen from outside: seeds, several answers, biases, penalties, stops."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.flows.chatting import (
    STRANGE,
    ask,
    choice,
    chunks,
    completion,
    counts,
    last_token_of,
    streamed,
    text,
    texts,
)

WILD = {"messages": STRANGE, "temperature": 2, "ignore_eos": True, "max_tokens": 24}
LIKELIEST = {"temperature": 0, "max_tokens": 48}


# ---------------------------------------------------------------- seeds and several answers


def test_several_answers_differ_and_can_be_had_again(client: httpx.Client) -> None:
    """Each answer has a seed of its own, counted from the request's; whole and streamed they agree."""
    first = texts(client, **WILD, n=4, seed=7)
    again = texts(client, **WILD, n=4, seed=7)
    stream = [each["message"]["content"] for each in streamed(client, **WILD, n=4, seed=7)]
    alone = [text(client, **WILD, seed=seed) for seed in (7, 8)]

    assert first == again == stream
    assert alone == first[:2]
    assert len(set(first)) == 4


def test_several_answers_without_a_seed_differ(client: httpx.Client) -> None:
    """Chance alone tells them apart; the likeliest answer may come more than once, even so."""
    found = [*texts(client, **WILD, n=8), *texts(client, **WILD, n=2)]

    assert len(set(found)) > 5


def test_seed_gives_the_same_beside_seven_others(client: httpx.Client) -> None:
    """What else is in the batch changes nothing: neither seeded answers nor the likeliest one."""
    asked: list[dict[str, Any]] = [
        WILD | {"seed": 7},
        LIKELIEST,
        WILD | {"seed": 3, "top_p": 0.9, "top_k": 40},
        WILD | {"seed": 2**63 - 1, "min_p": 0.02},
        WILD | {"seed": 5, "frequency_penalty": 1},
        WILD | {"seed": 6, "logit_bias": {"300": 5}},
        WILD | {"seed": 8, "guided_regex": "[a-z ]{12}"},
        LIKELIEST | {"logprobs": True, "top_logprobs": 4},
    ]
    pairs = [(fields, text(client, **fields)) for fields in asked]
    for seed in range(2):
        random.Random(seed).shuffle(pairs)
        with ThreadPoolExecutor(len(pairs)) as pool:
            together = list(pool.map(lambda pair: text(client, **pair[0]), pairs))

        assert together == [alone for _, alone in pairs]


@pytest.mark.parametrize(
    "narrow",
    [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1}, {"temperature": 1e-9}],
)
def test_narrow_sampling_is_the_likeliest(client: httpx.Client, narrow: dict[str, float]) -> None:
    """Each way to leave a single token gives the answer of temperature 0, whatever the seed."""
    expected = text(client, **LIKELIEST)
    asked = {"temperature": 1.5, "max_tokens": 48} | narrow

    assert texts(client, **asked, n=2, seed=1) == [expected, expected]


def test_top_k_beyond_the_vocabulary_is_all_of_it(client: httpx.Client) -> None:
    """There are never so many tokens; 0 means all as well."""
    found = {text(client, **WILD, seed=7, top_k=k) for k in (0, 2**31 - 1)}

    assert found == {text(client, **WILD, seed=7)}


# ---------------------------------------------------------------- biases and penalties


def test_bias_bans_a_token(client: httpx.Client) -> None:
    """At -100 the likeliest first token is never said, however often one asks."""
    first = choice(client, temperature=0, max_tokens=1)["message"]["content"]
    banned = {str(last_token_of(client, first)): -100}
    said = texts(client, temperature=0, n=1, max_tokens=4, logit_bias=banned)
    said += texts(client, temperature=1.5, n=8, seed=1, max_tokens=4, logit_bias=banned)

    assert first
    assert [each for each in said if each.startswith(first)] == []


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_bias_forces_a_token(client: httpx.Client, temperature: float) -> None:
    """At 100 nothing else is said, as often as tokens are left."""
    forced = {str(last_token_of(client, "a port port")): 100}

    said = text(client, temperature=temperature, max_tokens=5, logit_bias=forced)

    assert said.replace(" ", "") == "port" * 5


@pytest.mark.parametrize(
    "penalty",
    [{"frequency_penalty": 2}, {"presence_penalty": 2}, {"repetition_penalty": 1.3}],
    ids=str,
)
def test_penalties_make_answers_less_repetitive(client: httpx.Client, penalty: Any) -> None:
    """With the same chance, more different words are found."""
    asked = WILD | {"n": 8, "seed": 1, "max_tokens": 40}
    plain, penalized = (
        sum(len(set(said.split())) for said in texts(client, **each))
        for each in (asked, asked | penalty)
    )

    assert penalized > plain


# ---------------------------------------------------------------- stops


def test_stop_never_leaks_wherever_it_lies(client: httpx.Client) -> None:
    """Stops of all lengths from all places of the answer, across the borders of tokens, end it there."""
    plain = text(client, **LIKELIEST)
    chance = random.Random(1)
    places = [(at, n) for at in range(len(plain)) for n in (1, 2, 3, 5, 9, 40)]
    for at, n in chance.sample(places, 24):
        stop = plain[at : at + n]
        wanted = plain[: plain.index(stop)]
        (found,) = streamed(client, **LIKELIEST, stop=["never said", stop])

        assert (stop, found["message"]["content"]) == (stop, wanted)
        assert found["finish_reason"] == "stop"


def test_stop_is_never_begun_in_a_stream(client: httpx.Client) -> None:
    """No chunk says what a later one would have to take back, be it most of a stop text."""
    plain = text(client, **LIKELIEST)
    stop = plain[10:40]
    stream = chunks(ask(client, stream=True, stop=stop, **LIKELIEST))
    said = "".join(each["choices"][0]["delta"].get("content", "") for each in stream)

    assert said == plain[:10]


def test_stop_that_is_begun_and_not_finished_is_said(client: httpx.Client) -> None:
    """What looked like a stop text until the very end is part of the answer after all."""
    plain = text(client, **LIKELIEST)
    stops = [plain[-9:] + "\u2042", plain[5:20] + "\u2042", plain[:-1] + "\u2042"]
    (found,) = streamed(client, **LIKELIEST, stop=stops)

    assert text(client, **LIKELIEST, stop=stops) == plain
    assert found["message"]["content"] == plain


def test_first_stop_that_is_complete_counts(client: httpx.Client) -> None:
    """Not the order in the request decides, nor where a stop begins, but where it ends."""
    plain = text(client, **LIKELIEST)
    stops = [plain[30:40], plain[20:29], plain[22:27]]

    assert text(client, **LIKELIEST, stop=stops[:2]) == plain[:20]
    assert text(client, **LIKELIEST, stop=stops) == plain[:22]


def test_stop_ends_one_of_several_answers(client: httpx.Client) -> None:
    """Each answer ends by itself; the others go on."""
    plain = texts(client, **WILD, n=3, seed=7)
    stop = plain[1][4:12]
    assert stop not in plain[0] + plain[2]
    found = completion(client, **WILD, n=3, seed=7, stop=stop)["choices"]

    assert [each["message"]["content"] for each in found] == [plain[0], plain[1][:4], plain[2]]
    assert [each["finish_reason"] for each in found] == ["length", "stop", "length"]


# ---------------------------------------------------------------- what it took


def test_usage_is_exact(client: httpx.Client) -> None:
    """The prompt is counted once, the answers to the token, whole and streamed alike."""
    one = completion(client, temperature=0, max_tokens=3)["usage"]
    three = completion(client, temperature=0, max_tokens=3, n=3)["usage"]
    stream = chunks(
        ask(
            client, temperature=0, max_tokens=3, n=3, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip

    assert (one["completion_tokens"], three["completion_tokens"]) == (3, 9)
    assert one["prompt_tokens"] == three["prompt_tokens"] > 1
    assert counts(stream[-1]["usage"]) == counts(three)
    assert stream[-1]["choices"] == []
    assert {None} == {chunk["usage"] for chunk in stream[:-1]}
    assert one["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert one["prompt_tokens_details"]["cached_tokens"] <= one["prompt_tokens"]


@pytest.mark.parametrize("include_usage", [False, True])
def test_timings_are_told(client: httpx.Client, include_usage: bool) -> None:
    """A whole answer and the last chunk of a stream say what it took, which is less than was waited."""
    whole = ask(client, temperature=0)
    stream = ask(
        client, temperature=0, stream=True, stream_options={"include_usage": include_usage}
    )
    *others, last = chunks(stream)

    for found, response in ((whole.json(), whole), (last, stream)):
        assert 0 < sum(found["timings"].values()) <= response.elapsed.total_seconds() + 0.05
        assert found["timings"]["prefill_s"] > 0
        assert found["timings"]["decode_s"] > 0
    assert [chunk for chunk in others if "timings" in chunk] == []
