"""
A real model, served as a user would serve it: `tox -e real`.

Two servers have it, one as it comes and one without prefix cache and guesses; what they say is compared with
each other, and with mlx-lm itself. Then the conformance suite asks the first one.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import mlx.core as mx
import psutil
from mlx_lm.utils import load

from tests.live import ROOT, LiveServer, running
from tests.models import smollm2
from tests.models.__main__ import versions

CHAT = "/v1/chat/completions"
PATIENCE_S = 600
N_CLIENTS = 8
TURNS = (
    "What is the capital of France?",
    "And of Italy?",
    "Which of the two is larger?",
    "Name one river there.",
    "Thank you. Say goodbye.",
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
LIST = "one apple, two pears, three plums, four cherries, five grapes, six figs, seven limes"


class Wrong(Exception):
    """What was seen is not what should be; the message says what it was."""


@dataclass(frozen=True)
class House:
    """
    What is looked at.

    Attributes:
        server: the server as it comes.
        usual: a client of it.
        plain: a client of the server without prefix cache and guesses.
        folder: the model's.
    """

    server: LiveServer
    usual: httpx.Client
    plain: httpx.Client
    folder: Path


def body_of(content: str | list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """Return a greedy request with *content* as its one message, or its messages."""
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
    return {"model": "llama", "messages": messages, "temperature": 0, "max_tokens": 32} | fields


def ask(client: httpx.Client, content: str | list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """Return the body of the answer to *content*."""
    answer = client.post(CHAT, json=body_of(content, **fields))
    if answer.status_code != 200:
        raise Wrong(f"{answer.status_code} {answer.text[:200]}")
    found: dict[str, Any] = answer.json()
    return found


def message_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the message of an answer's one choice."""
    (choice,) = answer["choices"]
    message: dict[str, Any] = choice["message"]
    return message


def demand(holds: bool, seen: object) -> None:
    """
    Go on if it *holds*.

    Raises:
        Wrong: it doesn't; *seen* is what was there instead.
    """
    if not holds:
        raise Wrong(str(seen)[:300])


def capital(house: House) -> str:
    """The capital of France."""
    text = message_of(ask(house.usual, TURNS[0]))["content"]
    demand("Paris" in text, text)
    return str(text)


def turns(house: House) -> str:
    """Five turns of a chat, with the prefix cache as without."""
    messages: list[dict[str, Any]] = []
    n_cached = n_prompt = 0
    for turn in TURNS:
        messages.append({"role": "user", "content": turn})
        answers = [ask(client, messages, max_tokens=16) for client in (house.usual, house.plain)]
        one, other = (message_of(answer)["content"] for answer in answers)
        demand(one == other, f"{one!r} and {other!r}")
        usage = answers[0]["usage"]
        n_cached += usage["prompt_tokens_details"]["cached_tokens"]
        n_prompt += usage["prompt_tokens"]
        messages.append({"role": "assistant", "content": one})
    return f"the same; {n_cached} of {n_prompt} prompt tokens came from the cache"


def schema(house: House) -> str:
    """An answer held to a strict schema."""
    form = {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON}}
    answer = ask(
        house.usual,
        "Invent a person as JSON with name and age.",
        response_format=form,
        max_tokens=64,
    )
    found = json.loads(message_of(answer)["content"])
    demand(set(found) == {"name", "age"} and isinstance(found["age"], int), found)
    return json.dumps(found)


def calls(house: House) -> str:
    """A forced call, its result, and the answer to that."""
    question = {"role": "user", "content": "What is the weather in Paris?"}
    wanted = {"type": "function", "function": {"name": "weather"}}
    called = message_of(
        ask(
            house.usual,
            [question],
            tools=[WEATHER],
            tool_choice=wanted,
            parallel_tool_calls=False,
            max_tokens=64,
        )
    )
    (call,) = called["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    demand(call["function"]["name"] == "weather" and set(arguments) == {"city"}, call)
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Sunny, 21 degrees."}
    text = message_of(ask(house.usual, [question, called, result], tools=[WEATHER]))["content"]
    demand(bool(text), text)
    return f"{json.dumps(arguments)}, then: {text}"


def stops(house: House) -> str:
    """A text that ends the answer and is no part of it."""
    question = "Count from one to ten, in digits: 1, 2, 3,"
    whole = message_of(ask(house.usual, question))["content"]
    stop = whole[len(whole) // 2 :][:3]
    answer = ask(house.usual, question, stop=[stop])
    text = message_of(answer)["content"]
    demand(text == whole[: whole.index(stop)], (whole, stop, text))
    return f"{text!r} ends before {stop!r}"


def logprobs(house: House) -> str:
    """Log-probabilities as mlx-lm's model gives them."""
    messages = body_of(TURNS[0])["messages"]
    answer = ask(house.plain, TURNS[0], logprobs=True, top_logprobs=5, max_tokens=8)
    places = answer["choices"][0]["logprobs"]["content"]
    model, tokenizer, *_ = load(str(house.folder))
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    said = tokenizer.encode("".join(each["token"] for each in places), add_special_tokens=False)
    logits = model(mx.array([[*prompt, *said]]))[0, len(prompt) - 1 :]
    expected = (logits - mx.logsumexp(logits, axis=-1, keepdims=True)).tolist()
    largest = max(
        abs(place["logprob"] - row[token])
        for place, row, token in zip(places, expected, said, strict=False)
    )
    demand(largest < 1e-3, f"they differ by {largest:.2g}")
    seen = ", ".join(f"{place['logprob']:.4f}" for place in places)
    return f"{seen}; they differ by {largest:.1g} at most"


def crowd(house: House) -> str:
    """Eight clients at once get what each gets alone."""
    questions = [f"What is {n} plus {n}?" for n in range(N_CLIENTS)]
    alone = [message_of(ask(house.plain, each, max_tokens=8))["content"] for each in questions]
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        beside = list(pool.map(lambda each: ask(house.usual, each, max_tokens=8), questions))
    texts = [message_of(answer)["content"] for answer in beside]
    demand(texts == alone, [pair for pair in zip(alone, texts, strict=True) if pair[0] != pair[1]])
    return f"{N_CLIENTS} answers, all the same as alone"


def drafts(house: House) -> str:
    """An answer that repeats its prompt, with guesses as without."""
    question = f"Repeat this list exactly: {LIST}"
    took_s, texts = [], []
    for client in (house.plain, house.usual):
        began_s = time.monotonic()
        texts.append(message_of(ask(client, question, max_tokens=32))["content"])
        took_s.append(time.monotonic() - began_s)
    demand(texts[0] == texts[1], texts)
    return f"the same, in {took_s[1]:.1f} s with guesses and {took_s[0]:.1f} s without"


def conformance(house: House) -> str:
    """The conformance suite's profiles wire and openai."""
    profiles = ("--profile", "wire", "--profile", "openai", "--timeout", "300")
    command = ("-m", "pytest", "conformance", "-q", "-p", "no:cacheprovider", "--base-url")
    run = subprocess.run(
        [sys.executable, *command, house.server.url, *profiles],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    last = run.stdout.strip().splitlines()[-1]
    demand(run.returncode == 0, run.stdout[-300:])
    return last.strip("= ")


LOOKS: tuple[Callable[[House], str], ...] = (
    *(capital, turns, schema, calls, stops, logprobs, crowd, drafts, conformance),
)


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Folder of the model; made there.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the record, in Markdown.")
@click.option("--only", multiple=True, help="Name of a look; by default all.")
def main(model: Path | None, out: Path | None, only: tuple[str, ...]) -> None:
    """Serve SmolLM2-135M-Instruct and look at what a user would."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = model or Path(scratch) / "smollm2-135m-instruct"
        if not (folder / "tokenizer.json").exists():
            smollm2.make(folder)
        found = seen(
            folder, Path(scratch), [each for each in LOOKS if not only or each.__name__ in only]
        )
    record = markdown(found)
    print(record)
    if out is not None:
        out.write_text(record, "utf-8")
    sys.exit(not all(is_right for _, is_right, _, _ in found))


def seen(
    folder: Path, scratch: Path, looks: list[Callable[[House], str]]
) -> list[tuple[str, bool, str, float]]:
    """Return for each look what it is, whether it is right, what was seen, and how long it took."""
    found = []
    usual = {"MODEL_PATH": str(folder), "CONTEXT_LENGTH": "2048", "MLX_WARMUP": "false"}
    plain = usual | {"PREFIX_CACHE_MB": "0", "NUM_DRAFT_TOKENS": "0"}
    with (
        running(scratch / "usual.log", **usual) as one,
        running(scratch / "plain.log", **plain) as other,
    ):
        for server in (one, other):
            server.wait_until("/readyz", 200, PATIENCE_S)
        with (
            httpx.Client(base_url=one.url, timeout=PATIENCE_S) as to_one,
            httpx.Client(base_url=other.url, timeout=PATIENCE_S) as to_other,
        ):
            house = House(one, to_one, to_other, folder)
            for look in looks:
                began_s = time.monotonic()
                try:
                    told, is_right = look(house), True
                except Exception as error:  # each look is told, whatever breaks it
                    told, is_right = f"{type(error).__name__}: {error}", False
                took_s = time.monotonic() - began_s
                found.append((str(look.__doc__).rstrip("."), is_right, told, took_s))
                print(
                    f"{'✓' if is_right else '✗'} {look.__name__}: {told} ({took_s:.0f} s)",
                    flush=True,
                )
    return found


def markdown(found: list[tuple[str, bool, str, float]]) -> str:
    """Return what was seen as a page."""
    built = ", ".join(f"{name} {version}" for name, version in versions().items())
    machine = f"{platform.system()}, {psutil.cpu_count()} cores"
    lines = [
        "# A real model",
        "",
        "SmolLM2-135M-Instruct in float32, served and asked by `tox -e real`.",
        f"Seen with {built}, on {machine}.",
        "",
        "| what | | seen | seconds |",
        "|---|---|---|---|",
    ]
    for what, is_right, told, took_s in found:
        cell = " ".join(told.split()).replace("|", "\\|")
        lines.append(f"| {what} | {'✓' if is_right else '✗'} | {cell} | {took_s:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
