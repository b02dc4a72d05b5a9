"""Whether bytes are a PNG picture, with nothing but the standard library."""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
MAX_PIXELS = 16_000_000


class NoPicture(Exception):
    """They aren't; the text says why."""


def chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and data of each chunk, to the last."""
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if len(content) < at + 12:
            raise NoPicture("cut short")
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        data, end = content[at + 8 : at + 8 + size], at + 12 + size
        if struct.pack(">I", zlib.crc32(kind + data)) != content[end - 4 : end]:
            raise NoPicture("damaged")
        yield kind, data
        at = end


def look_at(content: bytes) -> tuple[int, int]:
    """
    Return a picture's width and height.

    Raises:
        NoPicture: it is none, or has more pixels or fewer than it says.
    """
    if not content.startswith(SIGNATURE):
        raise NoPicture("no PNG")
    found = list(chunks(content))
    width, height, bits, colour = struct.unpack(">IIBB", dict(found)[b"IHDR"][:10])
    if width * height > MAX_PIXELS:
        raise NoPicture("too large")
    n_line = 1 + (width * bits * CHANNELS[colour] + 7) // 8
    data = b"".join(data for kind, data in found if kind == b"IDAT")
    if len(zlib.decompressobj().decompress(data, n_line * height + 1)) != n_line * height:
        raise NoPicture("another size than it says")
    return width, height
