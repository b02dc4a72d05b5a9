"""`decoding.sampling`."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from service.engine.decoding.sampling import BatchSampling, SequenceSampling, rows_of
from service.protocol import Sampling

DEFAULTS = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)


def rows(*wanted: Sampling, n: int = 64) -> list[SequenceSampling]:
    """Return how sequences choose that want this, from *n* tokens; the prompt of each is token 0."""
    return [SequenceSampling(each, DEFAULTS, [0], n) for each in wanted]


def drawn(choosing: list[SequenceSampling], logits: mx.array) -> list[int]:
    """Return one token for each row, after token 0."""
    fed = mx.zeros(len(choosing), dtype=mx.uint32)
    return rows_of(BatchSampling(choosing).draw(logits, fed))


def draws(*wanted: Sampling, n: int = 40) -> list[list[int]]:
    """Return *n* tokens for each of *wanted*, drawn together from a flat distribution of 64."""
    sampling, flat = BatchSampling(rows(*wanted)), mx.zeros((len(wanted), 64))
    fed, seen = mx.zeros(len(wanted), dtype=mx.uint32), []
    for _ in range(n):
        fed = sampling.draw(flat, fed)
        seen.append(rows_of(fed))
    return [list(row) for row in zip(*seen, strict=True)]


def test_zero_temperature_takes_the_likeliest() -> None:
    """The argmax, whatever else is asked for."""
    logprobs = mx.array([[0.1, 0.9, 0.3]])

    assert drawn(rows(Sampling(temperature=0, seed=1), n=3), logprobs) == [1]


def test_seed_repeats_and_differs() -> None:
    """The same seed draws the same tokens, another one others, and one token is not like the last."""
    assert draws(Sampling(seed=5)) == draws(Sampling(seed=5))
    assert draws(Sampling(seed=5)) != draws(Sampling(seed=6))
    assert len(set(draws(Sampling(seed=5))[0])) > 10


def test_draws_without_a_seed_differ() -> None:
    """Nobody asked for the same answer twice."""
    assert draws(Sampling()) != draws(Sampling())


def test_neighbours_cannot_move_a_seeded_draw() -> None:
    """Whatever the others of the batch want, wherever the row stands."""
    seeded = Sampling(seed=5)
    others = [
        Sampling(),
        Sampling(temperature=0),
        Sampling(seed=5, temperature=0.5),
        Sampling(seed=9),
    ]
    alone = draws(seeded)[0]

    assert draws(*others, seeded, Sampling())[4] == alone
    assert draws(seeded, *others)[0] == alone


def test_rows_that_join_and_leave_move_no_seeded_draw() -> None:
    """A row keeps its own count of tokens, whoever stands beside it."""
    first, second, third = rows(*(Sampling(seed=i) for i in range(3)))
    batches = [[first], [second, first], [third, second, first], [third, first]]
    seen = [drawn(batch, mx.zeros((len(batch), 64)))[-1] for batch in batches for _ in range(10)]

    assert seen == draws(Sampling(seed=0), n=40)[0]


def test_draws_that_were_taken_back_are_drawn_again() -> None:
    """A sequence that is preempted goes on with the token that it would have had."""
    (row,) = rows(Sampling(seed=3, frequency_penalty=0.5))
    flat = mx.zeros((1, 64))
    first = drawn([row], flat)
    second = drawn([row], flat)
    row.count(first[0], 1)
    row.forget_unknown(1)

    assert drawn([row], flat) == second
    assert (first + second) == draws(Sampling(seed=3, frequency_penalty=0.5), n=2)[0]


def test_a_token_that_was_fed_is_never_new_again() -> None:
    """Preempted once more before it decodes: its last token is known to mask and penalties already."""
    (row,) = rows(Sampling(seed=3, frequency_penalty=0.5))
    token = drawn([row], mx.zeros((1, 64)))[0]
    row.count(token, 1)
    for _ in range(2):
        row.forget_unknown(1)

        assert not row.is_in_flight
    row.forget_unknown(2)

    assert row.is_in_flight  # a second one was read when it was drawn, and not fed yet


def test_what_a_model_advises_holds_where_nothing_is_wanted() -> None:
    """Its repetition penalty, unless the request has one, and the tokens that it never says."""
    advised = Sampling(
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        repetition_penalty=10.0,
        logit_bias=((3, -math.inf), (99, -math.inf)),
    )
    logits = mx.array([[3.0, 2.0, 1.0, 4.0]])

    def first(wanted: Sampling) -> list[int]:
        sampling = BatchSampling([SequenceSampling(wanted, advised, [0], 4)])
        return rows_of(sampling.draw(logits, mx.array([0], dtype=mx.uint32)))

    assert first(Sampling()) == [1]
    assert first(Sampling(repetition_penalty=1.0)) == [0]


def test_penalties_of_a_batch_are_those_of_each_row() -> None:
    """Computed for all rows at once, and rebuilt whenever one joins: as by the definition."""
    chance = np.random.default_rng(4)
    wanted = [
        Sampling(temperature=0, repetition_penalty=1.7),
        Sampling(temperature=0),
        Sampling(temperature=0, frequency_penalty=0.6, presence_penalty=0.9),
        Sampling(temperature=0, repetition_penalty=0.8, frequency_penalty=-0.4),
    ]
    sequences = rows(*wanted, n=8)
    said: list[list[int]] = [[] for _ in wanted]
    fed = mx.zeros(len(wanted), dtype=mx.uint32)
    sampling = BatchSampling(sequences)
    for step in range(24):
        logits = chance.normal(size=(len(wanted), 8)).astype(np.float32)
        expected = []
        for row, each, tokens in zip(logits, wanted, said, strict=True):
            counts = np.bincount(tokens, minlength=8)
            seen = (counts > 0) | (np.arange(8) == 0)
            penalty = each.repetition_penalty or 1.0
            divided = np.where(row > 0, row / penalty, row * penalty)
            scores = np.where(seen, divided, row)
            scores = scores - each.frequency_penalty * counts
            expected.append(int(np.argmax(scores - each.presence_penalty * (counts > 0))))
        if step % 5 == 4:
            sampling = BatchSampling(sequences)
        fed = sampling.draw(mx.array(logits), fed)

        assert expected == rows_of(fed)
        for row_sampling, tokens, token in zip(sequences, said, expected, strict=True):
            if tokens:
                row_sampling.count(tokens[-1], len(tokens))
            tokens.append(token)


def test_filters_leave_only_what_they_should() -> None:
    """top_k, top_p and min_p each cut the tail, with and without a seed; top_k over the width is all."""
    logprobs = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]]))
    wishes = {
        "top_k": (Sampling(top_k=2), {0, 1}),
        "top_p": (Sampling(top_p=0.6), {0, 1}),
        "min_p": (Sampling(min_p=0.2), {0, 1, 2}),
        "all": (Sampling(top_k=4), {0, 1, 2, 3}),
    }
    for wanted, allowed in wishes.values():
        for seed in (None, 3):
            asked = Sampling(1.0, wanted.top_p, wanted.top_k, wanted.min_p, seed)
            choosing = rows(asked, n=4)
            seen = {drawn(choosing, logprobs)[0] for _ in range(200)}

            assert seen == allowed


def test_numbers_too_small_to_compute_with_do_no_harm() -> None:
    """The least temperature and the least top_p both leave the likeliest token."""
    logprobs = mx.log(mx.array([[0.2, 0.5, 0.3]]))
    for asked in (Sampling(temperature=1e-300), Sampling(top_p=1e-300), Sampling(1e-39, 1e-39)):
        for seed in (None, 1):
            wanted = Sampling(asked.temperature, asked.top_p, seed=seed)

            assert drawn(rows(wanted, n=3), logprobs) == [1]
