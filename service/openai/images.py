"""Images in requests: out of their URLs, into the prompt of a model that takes them. No I/O."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from typing import Any

from service.errors import InvalidRequest
from service.protocol import ModelCard

MAX_IMAGES = 32  # of a request: each is looked at before its answer begins (taste)
_DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)


class Images:
    """
    The images of one request, in the order in which they stand in it.

    Args:
        card: of the model that is to look at them.

    Attributes:
        mark: stands in a turn's content where an image is.
        files: what each is, as a file holds it.
        are_taken: the model takes images.
    """

    def __init__(self, card: ModelCard) -> None:
        self.mark = f"{secrets.token_hex(8)}."
        self.files: list[bytes] = []
        self.are_taken = card.kind == "multimodal"

    def add(self, url: object, where: str) -> str:
        """
        Take in the image at *url*; return what stands for it in the content.

        Args:
            url: `data:image/...;base64,...`.
            where: the field that holds it.

        Raises:
            InvalidRequest: the model takes none, there are too many, or *url* is no such URL.
        """
        self._check(where)
        found = _DATA_URL.match(url) if isinstance(url, str) else None
        if found is None or not isinstance(url, str):
            raise InvalidRequest(
                "An image must be given as data:image/...;base64,...; only hosts that IMAGE_HOSTS "
                "names are asked for any.",
                param=where,
                code="invalid_image",
            )
        return self._taken(url[found.end() :], where)

    def add_base64(self, data: object, where: str) -> str:
        """Take in an image in base64; as `add`."""
        self._check(where)
        return self._taken(data, where)

    def joined(self, one: str, other: str, between: str) -> str:
        """Return two contents as one, with *between* them where neither is an image there."""
        is_image = one.endswith(self.mark) or other.startswith(self.mark)
        return one + other if is_image else one + between + other

    def _check(self, where: str) -> None:
        if not self.are_taken:
            raise unreadable(f"{where.rpartition('.')[0]}.type")
        if len(self.files) >= MAX_IMAGES:
            raise InvalidRequest(
                f"There are over {MAX_IMAGES} images.", param=where, code="too_many_images"
            )

    def _taken(self, data: object, where: str) -> str:
        try:
            file = base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError):
            file = b""
        if not file:
            raise InvalidRequest("An image is no base64.", param=where, code="invalid_image")
        self.files.append(file)
        return self.mark


def unreadable(where: str) -> InvalidRequest:
    """Return the refusal of a part that the model can't read; *where* tells its type."""
    return InvalidRequest("This model reads text only.", param=where, code="unsupported_content")


def source_of(block: Mapping[str, Any]) -> tuple[str, object]:
    """Return how an image block of Anthropic's gives its image, and that."""
    source = block.get("source")
    source = source if isinstance(source, Mapping) else {}
    kind = str(source.get("type"))
    return kind, source.get({"base64": "data"}.get(kind, kind))
