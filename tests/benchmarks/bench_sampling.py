"""What request fields cost the engine: tokens per second against plain rows, in turns, in one process."""

from __future__ import annotations

import json
import time
from typing import Any

import mlx.core as mx
import pytest

from service.engine.model.load import load
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.scheduler.scheduler import Scheduler
from service.openai import chat
from service.protocol import Chat, Constraint, Job, Load, ModelCard, Sampling, Turn
from tests.benchmarks.conftest import Report
from tests.benchmarks.load import N_TOKENS, PROMPTS

ROUNDS = 15
DRAWN = Sampling(temperature=0.8, top_p=0.95)
GREEDY = Sampling(temperature=0.0)
# Something that goes on for as long as it may: the price of a token is what is measured.
ENDLESS = Constraint("regex", r"([a-z]{1,9}[ ,.])*", "structured_outputs.regex")
MIXED = [
    Sampling(
        temperature=0.3 + 0.2 * i,
        top_p=1 - 0.04 * i,
        top_k=10 * i,
        min_p=0.01 * i,
        seed=i,
    )
    for i in range(8)
]
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "constrained": ({"sampling": GREEDY, "constraint": ENDLESS}, {"sampling": GREEDY}, ">= 0.85"),
    "with logprobs": ({"sampling": GREEDY, "top_logprobs": 5}, {"sampling": GREEDY}, ">= 0.9"),
    "drawn with seeds": ({"sampling": Sampling(0.8, 0.95, seed=7)}, {"sampling": DRAWN}, ">= 0.9"),
    "with penalties": (
        {"sampling": Sampling(0.0, frequency_penalty=0.5, presence_penalty=0.5)},
        {"sampling": GREEDY},
        "-",
    ),
}


class Bench:
    """The embedded model and its batch of eight."""

    def __init__(self) -> None:
        loaded = load(Load(None, None, max_concurrency=8, warmup=False, log_level="INFO"))
        vocabulary = Vocabulary(loaded.tokenizer, loaded.model(mx.array([[0]])).shape[-1])
        self.preparer = Preparer(loaded.tokenizer, loaded.card.context_length, vocabulary)
        self._scheduler = Scheduler(loaded, vocabulary, max_rows=8)

    def tokens_per_s(self, rows: list[dict[str, Any]]) -> float:
        """Generate for as many rows as there are *rows*; only steps that decode all of them count."""
        for ticket, fields in enumerate(rows):
            chat_ = Chat((Turn("user", PROMPTS[ticket]),))
            job = Job(chat_, max_tokens=N_TOKENS, ignore_eos=True, **fields)
            self._scheduler.add(ticket, self.preparer.prepare(job), job)
        n_begun: set[int] = set()
        while len(n_begun) < len(rows):
            n_begun |= {delta.ticket for delta in self._scheduler.step().deltas}
        began_s, n_steps = time.perf_counter(), 0
        while len(self._scheduler.tickets) == len(rows):
            self._scheduler.step()
            n_steps += 1
        seconds = time.perf_counter() - began_s
        while self._scheduler.tickets:
            self._scheduler.step()
        return n_steps * len(rows) / seconds


@pytest.fixture(scope="module")
def engine() -> Bench:
    """The engine's batch without any process around it."""
    return Bench()


@pytest.mark.parametrize("n_rows", [1, 8])
@pytest.mark.parametrize("name", FIELDS)
def test_fields_against_plain_rows(
    name: str, n_rows: int, engine: Bench, benchmark: Any, report: Report
) -> None:
    """Every row with the field against none with it."""
    wanted, plain, goal = FIELDS[name]
    ratios: list[float] = []

    def one_round() -> None:
        ratios.append(
            engine.tokens_per_s([wanted] * n_rows) / engine.tokens_per_s([plain] * n_rows)
        )

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    report(f"engine tokens/s {name} / without, {n_rows} rows", ratios[1:], goal)


def test_mixed_settings_against_equal_ones(engine: Bench, benchmark: Any, report: Report) -> None:
    """Eight rows with settings and seeds of their own against eight with the same."""
    mixed = [{"sampling": each} for each in MIXED]
    equal = [{"sampling": MIXED[3]}] * 8
    ratios: list[float] = []

    def one_round() -> None:
        ratios.append(engine.tokens_per_s(mixed) / engine.tokens_per_s(equal))

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    report("engine tokens/s 8 different settings / 8 equal ones", ratios[1:], ">= 0.9")


def test_cached_schema(engine: Bench, benchmark: Any, report: Report) -> None:
    """A prompt whose schema has been seen, against the same prompt without a schema, in milliseconds."""
    schema = {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(50)}}
    held = Constraint("json_schema", json.dumps(schema), "response_format")
    prompt = Chat((Turn("user", PROMPTS[0]),))
    more_ms: list[float] = []

    def prepare_ms(job: Job) -> float:
        began_s = time.perf_counter()
        engine.preparer.prepare(job)
        return (time.perf_counter() - began_s) * 1000

    def one_round() -> None:
        more_ms.append(prepare_ms(Job(prompt, constraint=held)) - prepare_ms(Job(prompt)))

    benchmark.pedantic(one_round, rounds=50, warmup_rounds=1)
    report("a schema seen before, ms", more_ms[1:], "0")


def test_translation(benchmark: Any, report: Report) -> None:
    """Decoding, checking and translating a chat of a hundred messages, in milliseconds."""
    from service import contracts
    from service.openai.body import decode

    card = ModelCard("m", "m", "", 8192, 1)
    roles = ["user", "assistant"]
    messages = [{"role": roles[i % 2], "content": "some words " * 20} for i in range(100)]
    raw = json.dumps({"model": "m", "messages": messages, "temperature": 0.5}).encode()
    took_ms: list[float] = []

    def one_round() -> None:
        began_s = time.perf_counter()
        body = decode(raw)
        contracts.check("chat-request", body)
        chat.parse(body, card)
        took_ms.append((time.perf_counter() - began_s) * 1000)

    benchmark.pedantic(one_round, rounds=200, warmup_rounds=5)
    report("translation of a 100-message chat, ms", took_ms[5:], "<= 0.5")
