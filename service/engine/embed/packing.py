"""Which texts the model reads in one step: such of like lengths, so that little of it is padding."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

SHORT = 16  # taste: up to so many tokens any two texts go together


class Row(NamedTuple):
    """One text that waits: its length in tokens, whose it is, and its place among those of its ticket."""

    n_tokens: int
    ticket: int
    place: int


class Packer:
    """
    Holds all texts that wait, and packs them, the tickets in turns.

    Each step begins with the longest text of the ticket whose turn it is, and others of any ticket fill it
    up. So a request of one text waits for no more than a step of a request of a thousand.

    Args:
        fits: whether a step may read so many texts, each padded to so many tokens.
        pads: texts of different lengths may go together.
    """

    def __init__(self, fits: Callable[[int, int], bool], *, pads: bool = True) -> None:
        self._fits = fits
        self._pads = pads
        self._rows: list[Row] = []  # in order
        self._turns: deque[int] = deque()
        self._n_waiting: Counter[int] = Counter()

    def __bool__(self) -> bool:
        """Tell whether any text waits."""
        return bool(self._rows)

    def add(self, ticket: int, lengths: Sequence[int]) -> None:
        """Let texts of these *lengths* wait, at least one, each in tokens."""
        self._rows += [Row(length, ticket, place) for place, length in enumerate(lengths)]
        self._rows.sort()
        self._turns.append(ticket)
        self._n_waiting[ticket] = len(lengths)

    def drop(self, ticket: int) -> None:
        """Forget the texts of *ticket* that still wait, if there are any."""
        if self._n_waiting.pop(ticket, 0):
            self._rows = [row for row in self._rows if row.ticket != ticket]
            self._turns.remove(ticket)

    def next(self) -> list[Row]:
        """Return what the next step reads, at least one text; at least one must wait."""
        turn = self._turns[0]
        self._turns.rotate(-1)
        end = max(i for i, row in enumerate(self._rows) if row.ticket == turn) + 1
        longest = self._rows[end - 1].n_tokens
        begin = end - 1
        while begin and self._goes_along(self._rows[begin - 1].n_tokens, longest, end - begin + 1):
            begin -= 1
        n_rows = len(self._rows)
        while (
            end < n_rows
            and self._rows[end].n_tokens == longest
            and self._fits(end - begin + 1, longest)
        ):
            end += 1
        packed = self._rows[begin:end]
        del self._rows[begin:end]
        self._n_waiting.subtract(row.ticket for row in packed)
        for ticket in {row.ticket for row in packed}:
            if not self._n_waiting[ticket]:
                del self._n_waiting[ticket]
                self._turns.remove(ticket)
        return packed

    def _goes_along(self, length: int, longest: int, n_rows: int) -> bool:
        is_alike = length == longest or (self._pads and (longest <= SHORT or 2 * length >= longest))
        return is_alike and self._fits(n_rows, longest)
