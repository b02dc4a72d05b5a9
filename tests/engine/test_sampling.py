"""`service.engine.sampling`."""

from __future__ import annotations

import mlx.core as mx

from service.engine.sampling import sampler_for
from service.protocol import Sampling

DEFAULTS = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)
FLAT = mx.zeros((1, 64))


def draws(sampling: Sampling, n: int = 40) -> list[int]:
    """Return *n* tokens drawn from a flat distribution of 64."""
    sampler = sampler_for(sampling, DEFAULTS, 64)
    return [int(sampler(FLAT).item()) for _ in range(n)]


def test_zero_temperature_takes_the_likeliest() -> None:
    """The argmax, whatever else is asked for."""
    logprobs = mx.array([[0.1, 0.9, 0.3]])

    assert sampler_for(Sampling(temperature=0, seed=1), DEFAULTS, 3)(logprobs).tolist() == [1]


def test_seed_repeats_and_differs() -> None:
    """The same seed draws the same tokens, another one others, and one token is not like the last."""
    assert draws(Sampling(seed=5)) == draws(Sampling(seed=5))
    assert draws(Sampling(seed=5)) != draws(Sampling(seed=6))
    assert len(set(draws(Sampling(seed=5)))) > 10


def test_draws_without_a_seed_differ() -> None:
    """Nobody asked for the same answer twice."""
    assert draws(Sampling()) != draws(Sampling())


def test_neighbours_cannot_move_a_seeded_draw() -> None:
    """Draws of others in between change nothing."""
    sampler = sampler_for(Sampling(seed=5), DEFAULTS, 64)
    other = sampler_for(Sampling(), DEFAULTS, 64)
    mixed = []
    for _ in range(40):
        other(FLAT)
        mixed.append(int(sampler(FLAT).item()))

    assert mixed == draws(Sampling(seed=5))


def test_equal_wishes_share_one_sampler() -> None:
    """BatchGenerator samples a whole batch in one call only if the rows share the very object."""
    one = sampler_for(Sampling(temperature=0.7), DEFAULTS, 64)
    two = sampler_for(Sampling(temperature=0.7), DEFAULTS, 64)

    assert one is two


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
            sampler = sampler_for(asked, DEFAULTS, 4)
            drawn = {int(sampler(logprobs).item()) for _ in range(200)}

            assert drawn == allowed


def test_numbers_too_small_to_compute_with_do_no_harm() -> None:
    """The least temperature and the least top_p both leave the likeliest token."""
    logprobs = mx.log(mx.array([[0.2, 0.5, 0.3]]))
    for asked in (Sampling(temperature=1e-300), Sampling(top_p=1e-300), Sampling(1e-39, 1e-39)):
        for seed in (None, 1):
            wanted = Sampling(asked.temperature, asked.top_p, seed=seed)

            assert sampler_for(wanted, DEFAULTS, 3)(logprobs).tolist() == [1]
