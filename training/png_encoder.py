"""Write PNG files that load as fast as possible: without compression and without row filters.

Pillow writes uncompressed files too, but searches the best filter for every row, which takes ten times as long, and the
filters have to be undone on reading. The bytes depend on the pixels only, not on the version of any library.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}   # number of channels -> gray, RGB, RGBA
MAX_BLOCK = 2**16 - 1               # bytes of a stored block of the deflate format


def encode_png(
    pixels: np.ndarray,   # [H, W] or [H, W, C]  uint8, C is 1, 3 or 4
) -> bytes:
    """The content of a PNG file, as its specification (ISO/IEC 15948) and those of zlib (RFC 1950, 1951) define it."""
    height, width, channels = np.atleast_3d(pixels).shape
    rows = np.zeros([height, 1 + width * channels], dtype=np.uint8)   # each begins with the number of its filter: none
    rows[:, 1:] = pixels.reshape(height, width * channels)
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", stored(rows.tobytes())) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def stored(data: bytes) -> bytes:
    """A zlib stream that holds `data` uncompressed."""
    parts = [b"\x78\x01"]
    for start in range(0, len(data), MAX_BLOCK):
        block = data[start : start + MAX_BLOCK]
        is_last = start + MAX_BLOCK >= len(data)
        parts += [struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, struct.pack(">I", zlib.adler32(data))])
