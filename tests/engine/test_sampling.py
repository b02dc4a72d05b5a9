"""`service.engine.decoding.sampling`."""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.generate import StopSequences

from service.engine.decoding.sampling import Draw, Sampler, rows_of
from service.protocol import Sampling

DEFAULTS = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)


def sampler_of(*wishes: Sampling, n: int = 64) -> Sampler:
    """Return a sampler whose rows, all of them decoding, want *wishes*."""
    sampler = Sampler()
    for wanted in wishes:
        sampler.turnstile(Draw(wanted, DEFAULTS, [0], n), StopSequences()).matcher()
    return sampler


def draws(*wishes: Sampling, n: int = 40) -> list[list[int]]:
    """Return *n* tokens for each of *wishes*, drawn together from a flat distribution of 64."""
    sampler = sampler_of(*wishes)
    flat = mx.zeros((len(wishes), 64))
    return [list(row) for row in zip(*(sampler(flat).tolist() for _ in range(n)), strict=True)]


def test_zero_temperature_takes_the_likeliest() -> None:
    """The argmax, whatever else is asked for."""
    logprobs = mx.array([[0.1, 0.9, 0.3]])

    assert sampler_of(Sampling(temperature=0, seed=1), n=3)(logprobs).tolist() == [1]


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
    """A row keeps its own count of tokens."""
    sampler, rows = Sampler(), [Draw(Sampling(seed=i), DEFAULTS, [0], 64) for i in range(3)]
    drawn: list[int] = []
    for step in range(30):
        if step % 10 == 0:
            sampler.turnstile(rows[step // 10], StopSequences()).matcher()
            first = rows_of(sampler(mx.zeros((1, 64))))
            drawn += first if step == 0 else []
        if step == 25:
            sampler.forget(rows[1])
        n_rows = step // 10 + 1 - (step >= 25)
        drawn.append(rows_of(sampler(mx.zeros((n_rows, 64))))[0])

    assert drawn == draws(Sampling(seed=0), n=31)[0]


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
            sampler = sampler_of(asked, n=4)
            drawn = {rows_of(sampler(logprobs))[0] for _ in range(200)}

            assert drawn == allowed


def test_numbers_too_small_to_compute_with_do_no_harm() -> None:
    """The least temperature and the least top_p both leave the likeliest token."""
    logprobs = mx.log(mx.array([[0.2, 0.5, 0.3]]))
    for asked in (Sampling(temperature=1e-300), Sampling(top_p=1e-300), Sampling(1e-39, 1e-39)):
        for seed in (None, 1):
            wanted = Sampling(asked.temperature, asked.top_p, seed=seed)

            assert sampler_of(wanted, n=3)(logprobs).tolist() == [1]
