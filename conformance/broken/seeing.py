"""Pictures in a chat, which must bring their own content; nothing is ever fetched."""

import base64
import itertools
import re
from typing import Any

from conformance.broken import png
from conformance.broken.miniature import Miniature, Refused

N_PICTURE_TOKENS = 9
DATA_URL = re.compile(r"data:image/png;base64,(.*)", re.DOTALL)

Body = dict[str, Any]


class Seeing(Miniature):
    """The miniature, with eyes."""

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return [*super().tags(), "images"]

    def pictures(self, body: Body) -> list[str]:
        """Return the addresses of all pictures."""
        contents = [message.get("content") for message in body["messages"]]
        parts = itertools.chain(*(each for each in contents if isinstance(each, list)))
        return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]

    def demand_picture(self, url: str) -> None:
        """Refuse a picture that doesn't bring its own content, or is broken."""
        found = DATA_URL.fullmatch(url)
        if found is None:
            self.refuse_address(url)
            return
        try:
            self.look_at(base64.b64decode(found[1], validate=True))
        except (ValueError, png.NoPicture):
            self.refuse_picture()

    def refuse_address(self, url: str) -> None:
        """Refuse a picture that would have to be fetched."""
        raise Refused(400, "pictures are data URLs here", "invalid_image", "messages")

    def refuse_picture(self) -> None:
        """Refuse a picture that can't be looked at."""
        raise Refused(400, "this is no picture", "invalid_image", "messages")

    def look_at(self, content: bytes) -> None:
        """Look at a picture."""
        png.look_at(content)

    def n_picture_tokens(self, body: Body) -> int:
        """Return how many tokens the prompt's pictures take."""
        return N_PICTURE_TOKENS * len(self.pictures(body))
