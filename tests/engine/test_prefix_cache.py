"""`cache.prefix_cache`: what was read before is not read again, and no answer depends on it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache, RotatingKVCache

from service.engine.cache.kv import Caches
from service.engine.cache.prefix_cache import (
    MIN_TOKENS,
    N_HEAD,
    Cache,
    Entry,
    PrefixCache,
    n_shared,
)
from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.scheduler.scheduler import Scheduler
from service.engine.text.prompt import Prepared
from service.protocol import Delta, Job, Sampling, Tokens
from tests.engine import random_models
from tests.engine.conftest import run
from tests.engine.random_models import CHUNK, dressed

KINDS = ("full", "window", "state")
PLENTY = 1 << 30


def ids(*tokens: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """Return *tokens* as an array."""
    return np.array(tokens, dtype=np.uint32)


def some(n: int, seed: int) -> list[int]:
    """Return *n* tokens, the same for the same *seed*."""
    return random.Random(seed).choices(range(8, 1270), k=n)


def cache_of(n: int, part: KVCache | RotatingKVCache | None = None) -> Cache:
    """Return a cache that has read *n* tokens."""
    part = part or KVCache()
    part.update_and_fetch(mx.zeros((1, 1, n, 8)), mx.zeros((1, 1, n, 8)))
    return [part]


def wish(prompt: Sequence[int], seed: int | None = None, n: int = 8) -> Job:
    """Return a job for *n* tokens, greedy without a *seed*, that tells which they are."""
    sampling = Sampling(temperature=0 if seed is None else 1, seed=seed)
    return Job(Tokens(tuple(prompt)), sampling, max_tokens=n, ignore_eos=True, top_logprobs=0)


def add(scheduler: Scheduler, ticket: int, job: Job) -> None:
    """Take *job* in."""
    assert isinstance(job.prompt, Tokens)
    scheduler.add(ticket, Prepared(list(job.prompt.ids)), job)


def tokens(deltas: Sequence[Delta]) -> list[int]:
    """Return which tokens were drawn."""
    return [each.chosen.id for delta in deltas for each in delta.logprobs]


def n_cached(deltas: Sequence[Delta]) -> int:
    """Return how many prompt tokens were there already."""
    assert deltas[-1].spent is not None
    return deltas[-1].spent.n_cached_tokens


def test_how_much_two_sequences_share() -> None:
    """As many as come before the first that differs, or all of the shorter one."""
    assert n_shared(ids(1, 2, 3), ids(1, 2, 4, 5)) == 2
    assert n_shared(ids(1, 2), ids(1, 2, 4)) == 2
    assert n_shared(ids(1), ids(2)) == 0
    assert n_shared(ids(), ids(2)) == 0


def test_longest_beginning_is_found() -> None:
    """A longer entry is cut to what is shared; a window that has slid serves only whole."""
    prefixes = PrefixCache(PLENTY)
    base = some(100, 1)
    prefixes.keep(ids(*base, 5, 6), cache_of(102))
    hit = prefixes.find(ids(*base, 9))

    assert (hit.n_tokens, hit.n_seen) == (100, 100)
    assert hit.cache is not None
    assert hit.cache[0].offset == 100
    assert prefixes.entries[0].cache[0].offset == 102

    slid = PrefixCache(PLENTY)
    slid.keep(ids(*base), cache_of(100, RotatingKVCache(64)))
    assert slid.find(ids(*base, 9)).n_tokens == 100
    assert slid.find(ids(*base[:90], 9))[::2] == (0, 90)
    assert slid.find(ids(*base))[::2] == (0, 99)


def test_one_token_is_always_left() -> None:
    """A prompt that was read whole still has to be read to its last token."""
    prefixes = PrefixCache(PLENTY)
    base = some(80, 1)
    prefixes.keep(ids(*base), cache_of(80))

    assert prefixes.find(ids(*base)).n_tokens == 79


def test_bytes_are_limited_and_the_unused_go_first() -> None:
    """What was found again stays; what is too large alone is never kept."""
    one = cache_of(64)
    n_bytes = one[0].nbytes
    prefixes = PrefixCache(2 * n_bytes)
    for seed in (1, 2):
        prefixes.keep(ids(*some(64, seed)), cache_of(64))
    assert prefixes.find(ids(*some(64, 1), 5)).n_tokens == 64
    prefixes.keep(ids(*some(64, 3)), cache_of(64))
    prefixes.keep(ids(*some(4096, 4)), cache_of(4096))

    assert [prefixes.find(ids(*some(64, seed), 5)).n_tokens for seed in (1, 2, 3)] == [64, 0, 64]
    assert prefixes.n_bytes == 2 * n_bytes
    assert len(prefixes) == 2


def test_longer_entry_replaces_its_beginnings() -> None:
    """As far as it can be cut to them; a shorter one that comes after it is not kept."""
    prefixes = PrefixCache(PLENTY)
    base = some(100, 1)
    for n in (60, 100, 80):
        prefixes.keep(ids(*base[:n]), cache_of(n))
    slid = PrefixCache(PLENTY)
    for n in (80, 100):
        slid.keep(ids(*base[:n]), cache_of(n, RotatingKVCache(64)))

    assert [len(each.ids) for each in prefixes.entries] == [100]
    assert [len(each.ids) for each in slid.entries] == [80, 100]


def test_little_is_taken_only_where_it_is_most_of_a_prompt() -> None:
    """Rows that begin at unlike places end at unlike steps, which costs more than a few tokens."""
    prefixes = PrefixCache(PLENTY)
    base = some(20, 1)
    prefixes.keep(ids(*base), cache_of(20))

    assert prefixes.find(ids(*base, *some(15, 2))).n_tokens == 20
    assert prefixes.find(ids(*base, *some(25, 2))) == (0, None, 20)
    assert prefixes.find(ids(*base[:8], *some(7, 2))).n_tokens == 8


def test_what_is_shared_is_counted_to_the_token() -> None:
    """Short of the heads that are compared at once, at their end, and far beyond."""
    base = some(300, 1)
    for n_kept in (N_HEAD - 1, N_HEAD, N_HEAD + 1, 300):
        prefixes = PrefixCache(PLENTY)
        prefixes.keep(ids(*base[:n_kept]), cache_of(n_kept))
        for n in (0, 1, N_HEAD - 1, N_HEAD, N_HEAD + 1, 299, 300):
            assert prefixes.match_length(ids(*base[:n])) == min(n, n_kept)
            assert prefixes.match_length(ids(*base[:n], 1)) == min(n, n_kept)


def test_short_ones_are_not_kept() -> None:
    """Reading them costs no more than copying."""
    prefixes = PrefixCache(PLENTY)
    prefixes.keep(ids(*some(MIN_TOKENS - 1, 1)), cache_of(MIN_TOKENS - 1))

    assert len(prefixes) == 0


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, loaded: LoadedModel) -> LoadedModel:
    """Each kind of model in turn."""
    return dressed(request.param, loaded)


def test_answers_do_not_depend_on_the_cache(model: LoadedModel, vocabulary: Vocabulary) -> None:
    """In float32, many requests, mixed at random over chats that grow and part, are answered as if cold."""
    chance = random.Random(3)
    cold = Scheduler(model, vocabulary, max_rows=1)
    warm = Scheduler(model, vocabulary, max_rows=6, prefixes=PrefixCache(3 << 20))
    chats = [some(n, n) for n in (20, 50, 90, 200)]
    seen: dict[int, list[Delta]] = {}
    sent: dict[int, Job] = {}
    for ticket in range(60):
        place = chance.randrange(len(chats))
        prompt = chats[place] + some(chance.choice((1, 7, 40, 110)), ticket)
        sent[ticket] = wish(prompt, chance.choice((None, ticket)))
        add(warm, ticket, sent[ticket])
        for _ in range(chance.choice((0, 0, 1, 3, 30))):
            for delta in warm.step().deltas:
                seen.setdefault(delta.ticket, []).append(delta)
        ended = [t for t, deltas in seen.items() if deltas[-1].finish_reason]
        if ended and chance.random() < 0.5:
            said = chance.choice(ended)
            before = sent[said].prompt
            assert isinstance(before, Tokens)
            if len(before.ids) < 700:
                chats.append([*before.ids, *tokens(seen[said])])
    for ticket, deltas in run(warm).items():
        seen.setdefault(ticket, []).extend(deltas)
    wrong = []
    for ticket, job in sent.items():
        add(cold, 1, job)
        if tokens(run(cold)[1]) != tokens(seen[ticket]):
            wrong.append(ticket)

    assert wrong == []
    assert sum(n_cached(deltas) > 0 for deltas in seen.values()) > 20


def test_chat_that_grows_is_read_once(model: LoadedModel, vocabulary: Vocabulary) -> None:
    """Each turn reads no more than what is new in it."""
    scheduler = Scheduler(model, vocabulary, max_rows=2, prefixes=PrefixCache(PLENTY))
    chat = some(150, 1)
    for turn in range(3):
        add(scheduler, turn, wish(chat))
        deltas = run(scheduler)[turn]
        assert n_cached(deltas) == (len(chat) - 20 if turn else 0)
        chat += tokens(deltas) + some(20, turn)


def test_shared_prompt_is_read_once_in_a_crowd(model: LoadedModel, vocabulary: Vocabulary) -> None:
    """All come at once: one reads what they share, the others wait for it and read their own."""
    scheduler = Scheduler(model, vocabulary, max_rows=8, prefixes=PrefixCache(PLENTY))
    shared = some(300, 1)
    for ticket in range(8):
        add(scheduler, ticket, wish(shared + some(10 + ticket, 100 + ticket)))
    cached = [n_cached(deltas) for _, deltas in sorted(run(scheduler).items())]

    assert cached == [0] + [300] * 7


def test_shared_prompt_is_found_by_those_who_come_later(
    model: LoadedModel, vocabulary: Vocabulary
) -> None:
    """Where nothing can be cut, the second to come shows where the prompts part, and the third gains."""
    scheduler = Scheduler(model, vocabulary, max_rows=8, prefixes=PrefixCache(PLENTY))
    shared = some(300, 1)
    cached = []
    for ticket in range(3):
        add(scheduler, ticket, wish(shared + some(10, 100 + ticket)))
        cached.append(n_cached(run(scheduler)[ticket]))

    assert cached[0] == 0
    assert cached[2] == 300


def test_nothing_is_kept_where_nothing_may_be(model: LoadedModel, vocabulary: Vocabulary) -> None:
    """Without a cache each prompt is read whole."""
    scheduler = Scheduler(model, vocabulary, max_rows=2)
    for ticket in range(3):
        add(scheduler, ticket, wish(some(100, 1)))

    assert all(n_cached(deltas) == 0 for deltas in run(scheduler).values())


def test_one_who_reads_for_others_may_leave(model: LoadedModel, vocabulary: Vocabulary) -> None:
    """Those who waited for it read for themselves then."""
    scheduler = Scheduler(model, vocabulary, max_rows=4, prefixes=PrefixCache(PLENTY))
    shared = some(300, 1)
    for ticket in range(3):
        add(scheduler, ticket, wish(shared + some(10, ticket)))
    scheduler.step()
    scheduler.cancel({0})

    assert set(run(scheduler)) == {1, 2}


def test_chunks_can_be_cut_as_long_as_they_hold_everything() -> None:
    """A layer that has forgotten what stood before its chunk says that it could be cut; it can't."""
    model = random_models.model("chunks")
    cache = Caches(model, None, None).make()
    can_be_cut = []
    for n_tokens in (CHUNK, 1, 1):
        model(mx.ones((1, n_tokens), dtype=mx.int32), cache=cache)
        can_be_cut.append(Entry(ids(*[1] * n_tokens), cache).can_be_cut)

    assert can_be_cut == [True, True, False]
