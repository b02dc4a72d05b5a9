"""
What is kept of responses, so that they can be read and continued: in memory, bounded, the latest used.

They are kept as the bytes that are sent, which is small and has a size; nothing can change one by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from service.errors import RequestTooLarge
from service.openai.response_events import Event, Pieces, replay
from service.openai.response_items import Item

MAX_RESPONSES = 1000
MAX_BYTES = 64 * 1024 * 1024
# What a request brings by naming another response is decoded at once, and bounded as what it brings itself.
MAX_CONVERSATION_BYTES = 16 * 1024 * 1024


class _Kept(msgspec.Struct, frozen=True):
    """A response and the items of its own request, both as JSON; and how its text came, as msgpack."""

    body: bytes
    items: bytes
    pieces: bytes
    previous_id: str | None
    output_ids: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        return len(self.body) + len(self.items) + len(self.pieces)

    def output(self) -> list[Item]:
        found: list[Item] = msgspec.json.decode(self.body)["output"]
        return found


class Archive:
    """
    The responses that were kept last, or read last.

    Args:
        max_responses: how many.
        max_bytes: how large they may be together; the newest is kept whatever its size.
    """

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._kept: dict[str, _Kept] = {}
        self._holders: dict[str, str] = {}  # the response that each item of an output is in
        self._n_bytes = 0

    def keep(self, body: dict[str, Any], items: list[Item], pieces: Sequence[Pieces] = ()) -> None:
        """
        Keep a response that has ended; the oldest ones give way.

        Args:
            body: the response.
            items: of its request.
            pieces: how the text of each item of its output came.
        """
        kept = _Kept(
            msgspec.json.encode(body),
            msgspec.json.encode(items),
            msgspec.msgpack.encode(pieces),
            body["previous_response_id"],
            tuple(item["id"] for item in body["output"]),
        )
        self._kept[body["id"]] = kept
        self._n_bytes += kept.n_bytes
        self._holders |= dict.fromkeys(kept.output_ids, body["id"])
        while len(self._kept) > 1 and (
            len(self._kept) > self._max_responses or self._n_bytes > self._max_bytes
        ):
            self.forget(next(iter(self._kept)))

    def forget(self, response_id: str) -> bool:
        """Remove a response; return whether it was kept."""
        kept = self._kept.pop(response_id, None)
        if kept is None:
            return False
        self._n_bytes -= kept.n_bytes
        for item_id in kept.output_ids:
            del self._holders[item_id]
        return True

    def body(self, response_id: str) -> bytes | None:
        """Return a response as JSON; None: it isn't kept."""
        kept = self._used(response_id)
        return None if kept is None else kept.body

    def events(self, response_id: str) -> list[Event] | None:
        """Return the events that told of a response; None: it isn't kept."""
        kept = self._used(response_id)
        if kept is None:
            return None
        pieces = msgspec.msgpack.decode(kept.pieces, type=list[Pieces])
        return list(replay(msgspec.json.decode(kept.body), pieces))

    def item(self, item_id: str) -> Item | None:
        """Return one item of a response's output; None: it isn't kept."""
        kept = self._used(self._holders.get(item_id))
        if kept is None:
            return None
        return next(item for item in kept.output() if item["id"] == item_id)

    def conversation(self, response_id: str) -> list[Item] | None:
        """
        Return all that led to a response and what it said, oldest first; None: it isn't kept whole.

        Raises:
            RequestTooLarge: as `led_to`.
        """
        led_to, kept = self.led_to(response_id), self._kept.get(response_id)
        return None if led_to is None or kept is None else [*led_to, *kept.output()]

    def led_to(self, response_id: str) -> list[Item] | None:
        """
        Return all items that a response answers, oldest first; None: one that it needs isn't kept.

        Raises:
            RequestTooLarge: together they are larger than any request may be.
        """
        ids: list[str] = []
        next_id: str | None = response_id
        n_bytes = 0
        while next_id is not None:
            if next_id not in self._kept:
                return None
            ids.insert(0, next_id)
            n_bytes += self._kept[next_id].n_bytes
            next_id = self._kept[next_id].previous_id
        if n_bytes > MAX_CONVERSATION_BYTES:
            raise RequestTooLarge(
                f"The responses before this request are over {MAX_CONVERSATION_BYTES} bytes together."
            )
        found: list[Item] = []
        for each in ids:
            kept = self._kept[each] = self._kept.pop(each)
            found += msgspec.json.decode(kept.items)
            if each != response_id:
                found += kept.output()
        return found

    def _used(self, response_id: str | None) -> _Kept | None:
        """Return what is kept under an id, and count it as used just now."""
        if response_id is None or response_id not in self._kept:
            return None
        self._kept[response_id] = self._kept.pop(response_id)
        return self._kept[response_id]
