"""`scheduler.prefill` and `scheduler.budget`: what is prefilled next, how much of it, and who waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Several

import mlx.core as mx
import numpy as np
import pytest

from service.engine.cache.kv import Caches
from service.engine.cache.memory_plan import MAX_STEP_TOKENS
from service.engine.cache.prefix_cache import Ids, PrefixHit
from service.engine.decoding.sampling import SequenceSampling
from service.engine.decoding.sequence import Sequence
from service.engine.model.load import LoadedModel
from service.engine.scheduler.budget import (
    ALONE_S,
    GROUP_TOKENS,
    MIN_STEP_TOKENS,
    Line,
    PrefillBudget,
)
from service.engine.scheduler.prefill import Prefills
from service.engine.text.answer import AnswerParser
from service.protocol import Job, Sampling, Tokens
from tests.engine import random_models

Make = Callable[..., Sequence]
NOTHING = PrefixHit(0, None, 0)
DEFAULTS = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)


def span(n: int, tail: int = 0) -> Ids:
    """Return *n* tokens that all such begin with, and one that is *tail*."""
    return np.array([*range(n), 1_000 + tail], dtype=np.uint32)


@pytest.fixture
def sequence(loaded: LoadedModel) -> Make:
    """What makes a sequence of these tokens, so many of which are in its cache, with these stops."""
    parser = AnswerParser(loaded.tokenizer)

    def made(ids: Ids, n_in_cache: int = 0, stops: tuple[int, ...] = ()) -> Sequence:
        job = Job(Tokens((1,)))
        sampling = SequenceSampling(job.sampling, DEFAULTS, [1], 1280)
        answer = parser.answer(job)
        return Sequence(
            *(1, job, ids, "", answer, sampling, 9, frozenset(), 0, 0.0),
            n_in_cache=n_in_cache,
            stops=stops,
        )

    return made


def prefills(*sequences: Sequence, window: float = math.inf, is_keeping: bool = True) -> Prefills:
    """Return *sequences* as those that are being prefilled."""
    made = Prefills(random_models.model("full"), window, is_keeping=is_keeping)
    made.sequences = list(sequences)
    return made


def budget(decode_s: float, token_s: float) -> PrefillBudget:
    """Return what has learnt that a step takes *decode_s*, and a token of a prompt *token_s*."""
    made = PrefillBudget()
    for _ in range(60):
        made.learn(decode_s, 0, 4)
        made.learn(decode_s + 100 * token_s, 100, 4)
    return made


def test_a_step_stays_about_as_short_as_a_decode_step() -> None:
    """Prefill beside those who decode takes a small multiple of their own step; alone it takes its time."""
    learnt = budget(0.010, 0.0002)

    assert learnt.n_tokens(1, 4) == pytest.approx(55, abs=1)  # 11 ms at 0.2 ms a token
    assert learnt.n_tokens(2, 4) == GROUP_TOKENS  # a crowd may keep a few longer
    assert learnt.n_tokens(1, 0) == pytest.approx(ALONE_S / 0.0002, abs=1)


def test_a_step_prefills_something_and_not_everything() -> None:
    """However slow or fast the machine is."""
    assert budget(0.001, 10.0).n_tokens(1, 4) == MIN_STEP_TOKENS
    assert budget(0.001, 10.0).n_tokens(3, 4) == GROUP_TOKENS
    assert budget(0.001, 0.0).n_tokens(1, 0) == MAX_STEP_TOKENS


def test_what_few_rows_take_is_known_from_many() -> None:
    """And prefill isn't blamed for what others decode, although their number was never seen alone."""
    learnt = PrefillBudget()
    for n_rows in (1, 32, 1, 32):
        learnt.learn(0.004 + 0.001 * n_rows, 0, n_rows)
    for _ in range(60):
        learnt.learn(0.004 + 0.016 + 0.02, 100, 16)

    assert learnt.n_tokens(1, 16) == pytest.approx(1.1 * 20 / 0.2, abs=2)


def test_line_follows_what_is_new() -> None:
    """It goes through two points, never below nothing, and forgets."""
    line = Line()
    assert line.at(3) == 0
    line.learn(2, 0.2)
    assert line.at(5) == pytest.approx(0.2)
    line.learn(4, 0.4)
    assert line.at(3) == pytest.approx(0.3)
    for _ in range(200):
        line.learn(4, 0.4)
        line.learn(2, 0.2)

    assert line.at(4) == pytest.approx(0.4)
    assert line.at(-100) == 0


def test_short_prompts_go_in_groups(sequence: Make) -> None:
    """First come first, as many as the group's tokens allow, padding included."""
    made = [sequence(span(n)) for n in (30, 31, 30, 28, 30)]
    waiting = prefills(*made)

    assert waiting.next_group(500, 64) == made[:2]
    assert waiting.next_group(500, 0) == [made[3]]  # it has the least left, and leads
    assert len(waiting.next_group(500, 500)) == 5
    assert waiting.next_group(20, 500) == [made[3]]


def test_rows_of_a_group_are_about_as_long(sequence: Make) -> None:
    """Nobody is padded to one that has a long prefix from the cache, although both have little left."""
    long, short, alike = sequence(span(3000), 2980), sequence(span(20)), sequence(span(30))
    ready, other = sequence(span(3000), 3000), sequence(span(40), 40)

    assert prefills(short, long, alike).next_group(500, 500) == [short, alike]
    assert prefills(ready, other).ready_group() == [ready]


def test_long_and_short_prompts_take_turns(sequence: Make) -> None:
    """Neither waits for all of the other."""
    long, short = sequence(span(5000)), sequence(span(40))
    waiting = prefills(long, short)
    leads = [waiting.next_group(100, 0)[0] for _ in range(4)]

    assert leads == [long, short, long, short]


@pytest.mark.parametrize("lengths", [(40,), (40, 40), (40, 25, 40)])
def test_a_group_leaves_what_each_alone_leaves(lengths: Several[int], sequence: Make) -> None:
    """The logits after the last token are those of a prompt that was computed at once."""
    model = random_models.model("full")
    made = [sequence(np.arange(20 + i, 20 + i + n)) for i, n in enumerate(lengths)]
    for each in made:
        each.cache = Caches(model, None, None).make()
    cache, n_fed = prefills(*made).feed(made, 100)
    logits = model(mx.array([[each.tokens[-1]] for each in made]), cache=cache)[:, -1]

    assert n_fed == sum(lengths) - len(lengths)
    for row, each in zip(logits, made, strict=True):
        alone = model(mx.array([each.tokens]))[0, -1]

        assert not each.n_left
        assert mx.allclose(row, alone, atol=1e-3).item()


def test_stops_stand_where_others_part() -> None:
    """Before its own end, and where what waits, is prefilled or was seen goes another way."""
    none = prefills()

    assert none.stops(span(200), NOTHING, []) == (200,)
    assert none.stops(span(200), NOTHING, [span(80), span(120)]) == (120, 200)
    assert none.stops(span(200), PrefixHit(0, None, 150), [span(80)]) == (150, 200)
    assert none.stops(span(200), PrefixHit(100, None, 100), [span(120)]) == (200,)
    assert prefills(is_keeping=False).stops(span(200), NOTHING, [span(80)]) == ()


def test_stops_stand_where_those_part_that_are_prefilled(sequence: Make) -> None:
    """And where the chat's last turn begins."""
    one = prefills(sequence(span(90)))

    assert one.stops(span(200), NOTHING, []) == (90, 200)
    assert one.stops(span(200), NOTHING, [], 60) == (60, 90, 200)


@pytest.mark.parametrize(
    ("window", "n_in_cache", "match_length", "is_coming"),
    [
        (math.inf, 0, 0, True),
        (math.inf, 100, 0, True),
        (math.inf, 100, 200, False),  # most of it is there already
        (math.inf, 300, 0, False),  # it has passed its last stop
        (0, 0, 0, False),  # what it brings can't be cut, and goes another way
    ],
)
def test_a_prompt_waits_for_the_prefix_that_it_shares(
    window: float, n_in_cache: int, match_length: int, is_coming: bool, sequence: Make
) -> None:
    """If another prompt brings more than there is, sooner than it could be computed."""
    made = prefills(sequence(span(300), n_in_cache, (300,)), window=window)
    like = np.concatenate([span(300)[:280], span(5, tail=1)])

    assert made.is_coming(like, match_length) is is_coming


def test_long_detours_are_not_waited_for(sequence: Make) -> None:
    """A prompt that shares little with a very long one computes it for itself."""
    made = prefills(sequence(span(5000), 0, (5000,)))

    assert not made.is_coming(span(100, tail=1), 0)


def test_copies_are_taken_for_others_or_where_they_will_never_be(sequence: Make) -> None:
    """At a stop: if someone waits who begins alike, or if nothing longer can be cut to it."""
    at_stop = sequence(span(300), 200, (200, 300))
    between = sequence(span(300), 150, (200, 300))
    endless, short = prefills(), prefills(window=64)

    assert not endless.is_wanted(at_stop, [])
    assert endless.is_wanted(at_stop, [span(250, tail=1)])
    assert not endless.is_wanted(at_stop, [span(4, tail=1)])
    assert not endless.is_wanted(between, [span(250, tail=1)])
    assert short.is_wanted(at_stop, [])
