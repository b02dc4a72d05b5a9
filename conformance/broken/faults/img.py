"""Wrong ways with pictures."""

import contextlib
import socket
from urllib.parse import urlsplit

from conformance.broken import png
from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.miniature import Refused
from conformance.broken.seeing import Body

OWN = {"127.0.0.1", "localhost", "2130706433", "::ffff:127.0.0.1"}


@breaks("IMG-1")
class OnePictureAtMost(Capable):
    def pictures(self, body: Body) -> list[str]:
        found = super().pictures(body)
        if len(found) > 1:
            raise Refused(400, "one picture at most", "invalid_value", "messages")
        return found


@breaks("IMG-1")
class PicturesComeLast(Capable):
    def demand_supported(self, body: Body) -> None:
        content = body["messages"][0].get("content")
        if isinstance(content, list) and content[0]["type"] == "image_url":
            raise Refused(400, "the picture comes last", "invalid_value", "messages")
        super().demand_supported(body)


@breaks("IMG-2", also={"PARAM-7"})
class PictureIsDropped(Capable):
    def n_picture_tokens(self, body: Body) -> int:
        return 0


@breaks("IMG-3")
class AnythingIsAPicture(Capable):
    def look_at(self, content: bytes) -> None:
        return


@breaks("IMG-3")
class BrokenPictureIsOurFault(Capable):
    def refuse_picture(self) -> None:
        raise Refused(500, "no idea", "internal_error")


@breaks("IMG-3")
class BoundlessPictureIsSeen(Capable):
    def look_at(self, content: bytes) -> None:
        try:
            super().look_at(content)
        except png.NoPicture as error:
            if str(error) != "too large":
                raise


@breaks("IMG-4")
class OwnMachineIsAsked(Capable):
    def refuse_address(self, url: str) -> None:
        place = urlsplit(url)
        if place.hostname in OWN:
            with contextlib.suppress(OSError):
                socket.create_connection((place.hostname, place.port), timeout=1).close()
        super().refuse_address(url)


@breaks("IMG-4")
class OnlyTheUsualNameIsRefused(Capable):
    def refuse_address(self, url: str) -> None:
        if urlsplit(url).hostname in {"localhost", "127.0.0.1"}:
            super().refuse_address(url)


@breaks("IMG-4")
class FilesAreSeen(Capable):
    def refuse_address(self, url: str) -> None:
        if not url.startswith("file:"):
            super().refuse_address(url)
