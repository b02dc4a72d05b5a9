"""How much the bearer of a key may ask for: buckets that fill again, and what clients are told of them."""

import pytest

from service.errors import RateLimited
from service.web.limits import Bucket, Limits


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def told(limits: Limits) -> dict[str, str]:
    """Return the headers by the end of their names."""
    return {
        name.decode().removeprefix("x-ratelimit-"): value.decode()
        for name, value in limits.headers()
    }


def test_bucket_fills_again_steadily() -> None:
    """Sixty a minute is one a second, up to the limit and no further."""
    clock = Clock()
    bucket = Bucket(60, clock)
    for _ in range(60):
        bucket.take(1)
    assert (0, 1.0, 60.0) == (bucket.n_left, bucket.wait_s, bucket.full_s)
    clock.now_s += 1.5
    assert (1, 0.0, 58.5) == (bucket.n_left, bucket.wait_s, bucket.full_s)
    clock.now_s += 3600
    assert (60, 0.0, 0.0) == (bucket.n_left, bucket.wait_s, bucket.full_s)


def test_requests_are_limited() -> None:
    """The one too many is refused with the time until the next may come, and is not counted itself."""
    clock = Clock()
    limits = Limits(requests_per_minute=2, clock=clock)
    limits.admit()
    limits.admit()
    for _ in range(3):
        with pytest.raises(RateLimited, match="its 2 requests a minute") as refused:
            limits.admit()
        assert 30 == refused.value.retry_after_s
    clock.now_s += 30
    limits.admit()

    assert {"limit-requests": "2", "remaining-requests": "0", "reset-requests": "1m0s"} == told(
        limits
    )


def test_tokens_are_limited() -> None:
    """They are taken when a request has ended; what went beyond the limit is waited for."""
    clock = Clock()
    limits = Limits(tokens_per_minute=600, clock=clock)
    limits.admit()
    limits.charge(900)
    with pytest.raises(RateLimited, match="its 600 tokens a minute") as refused:
        limits.admit()
    assert 31 == refused.value.retry_after_s
    assert {"limit-tokens": "600", "remaining-tokens": "0", "reset-tokens": "1m30s"} == told(limits)
    clock.now_s += 31
    limits.admit()
    assert "10" == told(limits)["remaining-tokens"]


def test_both_limits_are_told() -> None:
    """Each with what is left of it; a refusal by one takes nothing from the other."""
    clock = Clock()
    limits = Limits(requests_per_minute=10, tokens_per_minute=10, clock=clock)
    limits.charge(20)
    with pytest.raises(RateLimited):
        limits.admit()
    clock.now_s += 0.25

    assert ("10", "0s", "0", "1m59.75s") == tuple(
        told(limits)[name]
        for name in ("remaining-requests", "reset-requests", "remaining-tokens", "reset-tokens")
    )


def test_no_limits() -> None:
    """Nothing is refused, and nothing is told."""
    limits = Limits()
    for _ in range(100):
        limits.admit()
        limits.charge(1_000_000)

    assert [] == limits.headers()
