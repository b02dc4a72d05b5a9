"""What is kept of responses: the latest used, within bounds, and whole conversations of them."""

import json
from typing import Any

import pytest

from service.errors import RequestTooLarge
from service.openai.response_items import Item
from service.web.archive import MAX_CONVERSATION_BYTES, Archive


def item(name: str, text: str = "x") -> Item:
    """Return a small item."""
    return {"id": name, "text": text}


def keep(archive: Archive, name: str, previous: str | None = None, text: str = "x") -> None:
    """Keep a response `resp_NAME` to the item `in_NAME`, whose output is the item `out_NAME`."""
    body: dict[str, Any] = {
        "id": f"resp_{name}",
        "previous_response_id": previous,
        "output": [item(f"out_{name}", text)],
    }
    archive.keep(body, [item(f"in_{name}")])


def ids(found: list[Item] | None) -> list[str] | None:
    """Return the ids of items."""
    return None if found is None else [each["id"] for each in found]


def test_response_when_kept() -> None:
    """It is there as it was, its items by their ids, and nothing else is."""
    archive = Archive()
    keep(archive, "a")

    assert "resp_a" == json.loads(archive.body("resp_a") or b"")["id"]
    assert item("out_a") == archive.item("out_a")
    assert (None, None, None) == (
        archive.body("resp_b"), archive.item("in_a"), archive.conversation("resp_b"),
    )  # fmt: skip


def test_conversation_when_continued() -> None:
    """A conversation is all requests and outputs in order; what led to a response ends with its request."""
    archive = Archive()
    keep(archive, "a")
    keep(archive, "b", "resp_a")
    keep(archive, "c", "resp_b")
    keep(archive, "d", "resp_a")

    assert ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"] == ids(
        archive.conversation("resp_c")
    )
    assert ["in_a", "out_a", "in_d"] == ids(archive.led_to("resp_d"))


def test_response_when_forgotten() -> None:
    """A forgotten response takes its items along, and cuts the conversations that it was part of."""
    archive = Archive()
    keep(archive, "a")
    keep(archive, "b", "resp_a")

    assert archive.forget("resp_a")
    assert not archive.forget("resp_a")
    assert (None, None, None) == (
        archive.body("resp_a"), archive.item("out_a"), archive.conversation("resp_b"),
    )  # fmt: skip
    assert archive.body("resp_b")


def test_archive_when_full_by_number() -> None:
    """The one that was used longest ago gives way; reading, referring and continuing are use."""
    archive = Archive(max_responses=4)
    for name in "abcd":
        keep(archive, name)
    archive.body("resp_a")
    archive.item("out_b")
    archive.conversation("resp_c")
    keep(archive, "e")

    assert [True, True, True, False, True] == [
        archive.body(f"resp_{name}") is not None for name in "abcde"
    ]


def test_archive_when_full_by_size() -> None:
    """Old ones give way until the rest fits; the newest is kept even if it never does."""
    archive = Archive(max_bytes=1000)
    keep(archive, "a")
    keep(archive, "b", text="x" * 700)

    assert archive.body("resp_a")

    keep(archive, "c", text="x" * 700)

    assert archive.body("resp_b") is None
    assert archive.body("resp_a")

    keep(archive, "d", text="x" * 2000)

    assert archive.body("resp_c") is None
    assert archive.body("resp_d")

    keep(archive, "e")

    assert archive.body("resp_d") is None
    assert archive.body("resp_e")


def test_long_conversation_outlives_others() -> None:
    """Going on with a conversation keeps all of it, its end the longest."""
    archive = Archive(max_responses=3)
    keep(archive, "a")
    keep(archive, "b", "resp_a")
    keep(archive, "x")
    archive.conversation("resp_b")
    keep(archive, "c", "resp_b")

    assert archive.body("resp_x") is None
    assert ids(archive.led_to("resp_c")) == ["in_a", "out_a", "in_b", "out_b", "in_c"]


def test_conversation_that_is_too_long() -> None:
    """It is refused before anything of it is decoded; what is not so long is there as ever."""
    archive = Archive()
    half = "x" * (MAX_CONVERSATION_BYTES // 2)
    keep(archive, "a", text=half)
    keep(archive, "b", "resp_a", text=half)

    assert ["in_a", "out_a"] == ids(archive.conversation("resp_a"))
    with pytest.raises(RequestTooLarge):
        archive.conversation("resp_b")
