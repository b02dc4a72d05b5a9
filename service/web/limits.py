"""
How much the bearer of a key may ask for in a minute, in requests and in tokens.

Each limit is a bucket that is full at first and fills again steadily, so that after a pause a minute's worth
may come at once. A request is taken from it when it is let in. Its tokens are taken when it has ended, since
nobody knows before how many it will be: the requests that run at once may go beyond the limit together, and
the bearer waits until that is made up for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from service.errors import RateLimited

MINUTE_S = 60.0
Header = tuple[bytes, bytes]


class Bucket:
    """
    What is left of a limit.

    Args:
        per_minute: how much fits in, and how much comes back in a minute.
        clock: monotonic seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at_s = clock()

    @property
    def n_left(self) -> int:
        """How much may be taken now; never below 0."""
        return max(math.floor(self._now()), 0)

    @property
    def full_s(self) -> float:
        """Seconds until all of the limit is there again."""
        return (self.per_minute - self._now()) * MINUTE_S / self.per_minute

    @property
    def wait_s(self) -> float:
        """Seconds until there is anything to take; 0: there is."""
        return max(1 - self._now(), 0) * MINUTE_S / self.per_minute

    def take(self, n: int) -> None:
        """Take *n*, which may be more than there is."""
        self._level = self._now() - n
        self._at_s = self._clock()

    def _now(self) -> float:
        grown = (self._clock() - self._at_s) * self.per_minute / MINUTE_S
        return min(self._level + grown, self.per_minute)


class Limits:
    """
    The limits of one key; those that are not set limit nothing.

    Args:
        requests_per_minute: most requests that are worked on; None: any number.
        tokens_per_minute: most tokens, of prompts and answers together; None: any number.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_minute = (requests_per_minute, tokens_per_minute)
        self._requests = requests_per_minute and Bucket(requests_per_minute, clock)
        self._tokens = tokens_per_minute and Bucket(tokens_per_minute, clock)

    def admit(self) -> None:
        """
        Let one request more in.

        Raises:
            RateLimited: one of the limits is used up; carries `retry_after_s`.
        """
        for what, bucket in self._buckets():
            if bucket.wait_s > 0:
                raise RateLimited(
                    f"This key has used its {bucket.per_minute} {what} a minute.",
                    retry_after_s=math.ceil(bucket.wait_s),
                )
        if self._requests:
            self._requests.take(1)

    def charge(self, n_tokens: int) -> None:
        """Take the tokens of a request that has ended."""
        if self._tokens:
            self._tokens.take(n_tokens)

    def headers(self) -> list[Header]:
        """Return how much is left, as OpenAI's clients know it."""
        return [
            (f"x-ratelimit-{part}-{what}".encode(), value.encode())
            for what, bucket in self._buckets()
            for part, value in (
                ("limit", str(bucket.per_minute)),
                ("remaining", str(bucket.n_left)),
                ("reset", _span(bucket.full_s)),
            )
        ]

    def _buckets(self) -> list[tuple[str, Bucket]]:
        both = (("requests", self._requests), ("tokens", self._tokens))
        return [(what, bucket) for what, bucket in both if bucket]


def _span(seconds: float) -> str:
    """Return a span of time such as `1m2.5s`."""
    minutes, rest = divmod(round(seconds, 3), MINUTE_S)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
