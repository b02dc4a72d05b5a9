"""
What is seen of a model of one type: whether it loads, and answers the same however it is served.

Every check compares greedy tokens and the log-probabilities of the likeliest ones, in float32, where rounding
moves them by some 1e-4. Two tokens that are nearly as likely may change places; the rest isn't compared then.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from service import contracts
from service.catalog.card import ASSUMED_CONTEXT, UnfitModel
from service.engine.model.load import LoadedModel, class_defaults, load
from service.engine.scheduler.scheduler import Scheduler
from service.engine.start import Started, prove, start
from service.engine.text.prompt import Prepared
from service.engine.trial import difference
from service.openai import models
from service.protocol import Delta, Job, Load, Sampling, TokenLogprob, Tokens
from tests.models import small
from tests.models.types import N_CONTEXT, WINDOW

TOLERANCE = 2e-3  # measured: float32 differs by 1e-4; experts that tie move more
FEW_BITS = 2.0  # taste: how far keys of 8 bits may move log-probabilities, other experts included
FEW_BITS_BESIDE = 0.05  # taste: where a number lies between two of 8 bits, rounding decides for one
LENGTHS = (23, 5, 9, 40)  # some within a window, some past it
N_ANSWER = 8
N_REPEATED = 40
CHECKS = ("loads", "ready", "alone", "mixed", "turns", "drafts", "kv_bits", "max_kv_size", "card")

Places = list[TokenLogprob]


class Apart(Exception):
    """Two answers that should be one are not; the message says how far apart they are."""


@dataclass
class Row:
    """
    What was seen of one type.

    Attributes:
        type: its name.
        family: of its card.
        batching: how prompts are read together.
        seen: for each check "yes", "no: why", or "none: why it can't be had".
        seconds: what all of it took.
    """

    type: str
    family: str = ""
    batching: str = ""
    seen: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether no check failed."""
        marks = [each.partition(":")[0] for each in self.seen.values()]
        return len(marks) == len(CHECKS) and "no" not in marks


def row_of(model_type: str) -> Row:
    """Make a small model of *model_type* and try everything with it."""
    row = Row(model_type)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            _fill(row, Path(folder))
        except (Exception, SystemExit) as error:  # what broke is what the row has to tell
            row.seen[CHECKS[len(row.seen)]] = f"no: {_told(error)}"
    row.seconds = round(time.monotonic() - began_s, 1)
    return row


def _fill(row: Row, folder: Path) -> None:
    config = small.make(row.type, folder)
    order = Load(
        str(folder), None, max_concurrency=4, warmup=True, log_level="ERROR", prefix_cache_mb=64
    )
    loaded = load(order)
    row.family = loaded.card.family
    row.seen["loads"] = "yes"
    started = start(loaded, order)
    proven = prove(started, order)
    row.batching = started.scheduler.batching.name.lower()
    row.seen["ready"] = "yes" if proven.error is None else f"no: {proven.error}"
    chance = random.Random(3)
    prompts = [chance.choices(range(started.vocabulary.n_tokens), k=n) for n in LENGTHS]
    alone = [answers(started.scheduler, [ids])[0] for ids in prompts]
    for name, check in (
        ("alone", lambda: _as_mlx_lm(loaded, prompts, alone)),
        ("mixed", lambda: _beside_each_other(started.scheduler, prompts, alone)),
        ("turns", lambda: _in_turns(started, prompts)),
        ("drafts", lambda: _with_drafts(loaded, order, prompts[0])),
        ("kv_bits", lambda: _in_few_bits(loaded, order, prompts, alone)),
        ("max_kv_size", lambda: _in_little_room(loaded, order, prompts, alone)),
        ("card", lambda: _card(loaded, config, class_defaults(folder))),
    ):
        row.seen[name] = _seen(check)


def _seen(check: Callable[[], str]) -> str:
    """Return what a *check* says; it raises what it finds wrong."""
    try:
        return check()
    except Exception as error:
        return f"no: {_told(error)}"


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if isinstance(error, Apart) else f"{type(error).__name__}: {lines[0]}"
    return text[:160]


def answers(
    scheduler: Scheduler, prompts: Sequence[list[int]], n_tokens: int = N_ANSWER
) -> list[Places]:
    """Return what is said to all *prompts* at once by a scheduler that remembers nothing."""
    scheduler.reset()
    return _said(scheduler, prompts, n_tokens)[0]


def _said(
    scheduler: Scheduler, prompts: Sequence[list[int]], n_tokens: int
) -> tuple[list[Places], int]:
    """Return what is said to all *prompts* at once, and how many tokens of them were cached."""
    for i, ids in enumerate(prompts):
        job = Job(
            Tokens(tuple(ids)),
            Sampling(temperature=0.0, repetition_penalty=1.0),
            max_tokens=n_tokens,
            ignore_eos=True,
            top_logprobs=20,
        )
        scheduler.add(i, Prepared(ids), job)
    said: list[list[Delta]] = [[] for _ in prompts]
    while scheduler.tickets:
        for delta in scheduler.step().deltas:
            said[delta.ticket].append(delta)
    if not all(each and each[-1].spent for each in said):
        raise Apart("an answer failed")
    n_cached = sum(each[-1].spent.n_cached_tokens for each in said if each[-1].spent)
    return [[place for delta in each for place in delta.logprobs] for each in said], n_cached


def compare(one: Places, other: Places, tolerance: float = TOLERANCE) -> None:
    """
    See that two answers are the same.

    Raises:
        Apart: they are not.
    """
    for i, (here, there) in enumerate(zip(one, other, strict=True)):
        apart = difference(here, there)
        if apart > tolerance:
            raise Apart(f"log-probabilities differ by {apart:.2g} at token {i}")
        if here.chosen.id != there.chosen.id:
            return


def _tokens(places: Places) -> list[int]:
    return [place.chosen.id for place in places]


def _as_mlx_lm(loaded: LoadedModel, prompts: list[list[int]], alone: list[Places]) -> str:
    """See that answers have the tokens that mlx-lm's own loop generates."""
    for ids, places in zip(prompts, alone, strict=True):
        expected = [
            int(token)
            for token, _ in generate_step(mx.array(ids), loaded.model, max_tokens=N_ANSWER)
        ]
        for i, (place, token) in enumerate(zip(places, expected, strict=True)):
            if place.chosen.id == token:
                continue
            logprobs = {each.id: each.logprob or 0.0 for each in (*place.top, place.chosen)}
            behind = logprobs[place.chosen.id] - logprobs.get(token, -1e9)
            if behind > TOLERANCE:
                raise Apart(f"token {i} of the answer to {len(ids)} tokens is another")
            break
    return "yes"


def _beside_each_other(
    scheduler: Scheduler,
    prompts: list[list[int]],
    alone: list[Places],
    tolerance: float = TOLERANCE,
) -> str:
    """See that answers are the same beside others."""
    for one, other in zip(alone, answers(scheduler, prompts), strict=True):
        compare(one, other, tolerance)
    return "yes"


def _in_turns(started: Started, prompts: list[list[int]]) -> str:
    """See that a second turn is answered the same, from the prefix cache and without."""
    if not started.memory.prefixes.is_on:
        return "none: the prefix cache is off"
    scheduler = started.scheduler
    first, tail = prompts[0], prompts[1]
    said = _tokens(answers(scheduler, [first])[0])
    second = first + said + tail
    cold = answers(scheduler, [second])[0]
    answers(scheduler, [first])
    (warm,), n_cached = _said(scheduler, [second], N_ANSWER)
    compare(cold, warm)
    return "yes" if n_cached else "no: nothing was cached"


class Repeating(nn.Module):
    """A model that mostly goes round in a circle, so that its answers can be foretold."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx's stubs
        self.model = model
        self.layers = model.layers
        self.make_cache = lambda: make_prompt_cache(model)

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Return logits, shape (rows, n, vocabulary)."""
        logits: mx.array = self.model(inputs, cache=cache)
        finite = mx.where(mx.isfinite(logits), logits, 0)
        logits = logits / mx.std(finite, axis=-1, keepdims=True)
        follower = 20 + (inputs * 5 + 1) % 17
        return logits + 5.5 * (mx.arange(logits.shape[-1]) == follower[..., None])


def _with_drafts(loaded: LoadedModel, order: Load, prompt: list[int]) -> str:
    """See that an answer that repeats itself is the same with guesses and without."""
    repeating = dataclasses.replace(loaded, model=Repeating(loaded.model))
    said = []
    for n_ahead in (0, 8):
        guessing = msgspec.structs.replace(order, num_draft_tokens=n_ahead, prefix_cache_mb=0)
        scheduler = start(repeating, guessing).scheduler
        if not scheduler.window:
            return "none: its state can't be taken back"
        for _ in range(2):  # what steps cost is learnt in the first
            job = Job(
                Tokens(tuple(prompt)),
                Sampling(temperature=0.0),
                max_tokens=N_REPEATED,
                ignore_eos=True,
            )
            scheduler.add(0, Prepared(prompt), job)
            text = ""
            while scheduler.tickets:
                text += "".join(delta.text for delta in scheduler.step().deltas)
        said.append(text)
    if said[0] != said[1]:
        raise Apart("the text is another with guesses")
    return "yes"


@contextmanager
def _serving(loaded: LoadedModel, order: Load, **settings: int) -> Iterator[Started | str]:
    """Start the model with *settings*; give the sentence that refuses them where it can't have them."""
    try:
        started = start(loaded, msgspec.structs.replace(order, warmup=False, **settings))
        prove(started, msgspec.structs.replace(order, warmup=False))
    except UnfitModel as unfit:
        yield f"none: {unfit}"
    else:
        yield started


def _in_few_bits(
    loaded: LoadedModel, order: Load, prompts: list[list[int]], full: list[Places]
) -> str:
    """See that keys and values of 8 bits move little, and nothing beside others."""
    with _serving(loaded, order, kv_bits=8) as started:
        if isinstance(started, str):
            return started
        alone = [answers(started.scheduler, [ids])[0] for ids in prompts]
        _beside_each_other(started.scheduler, prompts, alone, FEW_BITS_BESIDE)
        for one, other in zip(alone, full, strict=True):
            compare(one[:1], other[:1], FEW_BITS)
    return "yes"


def _in_little_room(
    loaded: LoadedModel, order: Load, prompts: list[list[int]], full: list[Places]
) -> str:
    """See that caches with little room are the same beside others, and as always where they suffice."""
    with _serving(loaded, order, max_kv_size=WINDOW) as started:
        if isinstance(started, str):
            return started
        alone = [answers(started.scheduler, [ids])[0] for ids in prompts]
        _beside_each_other(started.scheduler, prompts, alone)
        for ids, one, other in zip(prompts, alone, full, strict=True):
            if len(ids) + N_ANSWER < WINDOW:
                compare(one, other)
    return "yes"


def _card(loaded: LoadedModel, config: dict[str, Any], defaults: dict[str, Any]) -> str:
    """See that the card keeps the contract, and that its context is the config's, the class's or assumed."""
    card = loaded.card
    contracts.check("model", models.entry(card, "ready"))
    is_told = str(N_CONTEXT) in str(config)
    right = [N_CONTEXT] if is_told else [*defaults.values(), *([ASSUMED_CONTEXT] * len(card.notes))]
    if card.context_length not in right:
        raise Apart(f"the context is {card.context_length}")
    return "yes"
