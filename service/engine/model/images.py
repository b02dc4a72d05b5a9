"""
Images among the tokens of a prompt.

Each token of an image has an id of its own, over those of every vocabulary. So two images are never alike to
whatever compares tokens, and one that comes again is, as the prefix cache wants it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

FIRST_ID = 1 << 24  # no vocabulary is that large
LAST_ID = (1 << 31) - 1  # as numbers of 32 bits with a sign


@dataclass(frozen=True, eq=False)
class ReadImage:
    """
    One image as a model takes it.

    Attributes:
        ids: what stands for it in a prompt, the marks around it included.
        first: the id of its first token that is one of `FIRST_ID` and over; the others follow.
        n_tokens: how many those are, in all that stands for it.
        inputs: what the model's tower wants of it: arrays by name, and the plain ids.
    """

    ids: tuple[int, ...]
    first: int
    n_tokens: int
    inputs: Mapping[str, Any]


class UnreadableImage(Exception):
    """What was sent is no image that can be read here; the message says why, as a clause."""


class ImageReader(Protocol):
    """
    Reads images for one model; for one thread.

    Attributes:
        block: what the model's chat template puts where an image stands.
        token: the id in a vocabulary that stands for each token of an image.
    """

    block: str
    token: int

    def read(self, data: bytes) -> ReadImage:
        """
        Return an image, which is *data* as a file holds it.

        Raises:
            UnreadableImage: it can't be.
        """


def plain(ids: Iterable[int], reader: ImageReader | None) -> list[int]:
    """Return *ids* with those of the vocabulary for images, as whoever counts tokens wants them."""
    if reader is None:
        return list(ids)
    return [reader.token if i >= FIRST_ID else i for i in ids]
