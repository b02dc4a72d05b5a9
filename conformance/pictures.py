"""A PNG picture to ask about, made here; and what is none."""

import base64
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDE_PIXELS = 64
BITS = 8
RGB = 2


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side_pixels: int = SIDE_PIXELS, *, claimed_pixels: int = 0) -> bytes:
    """Return a square from red to blue; *claimed_pixels* is the side that it lies of."""
    side = claimed_pixels or side_pixels
    header = struct.pack(">IIBBBBB", side, side, BITS, RGB, 0, 0, 0)
    shades = [255 * number // side_pixels for number in range(side_pixels)]
    lines = (b"\x00" + bytes(value for x in shades for value in (x, 0, y)) for y in shades)
    data = zlib.compress(b"".join(lines))
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def data_url(content: bytes) -> str:
    """Return *content* as the address of a PNG picture that is its own content."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
