"""Picture files of many kinds, made in the test that needs them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

# Red, green and blue of Adobe RGB (1998) in XYZ, adapted to the white of profiles (D50).
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
ADOBE_GAMMA = 563 / 256


def encode(image: PIL.Image.Image, kind: str = "png", **params: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **params)
    return buffer.getvalue()


def noise(width: int = 8, height: int = 8, mode: str = "RGB", seed: int = 0) -> PIL.Image.Image:
    channels = len(PIL.Image.new(mode, (1, 1)).getbands())
    pixels = np.random.RandomState(seed).randint(256, size=[height, width, channels]).astype(np.uint8)
    return PIL.Image.merge(mode, [PIL.Image.fromarray(pixels[:, :, c]) for c in range(channels)])


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """A PNG of 16-bit gray [H, W] or RGB [H, W, 3]; Pillow writes only gray."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)),
              (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks)


def icc_profile(gamma: float, primaries: tuple[tuple[float, float, float], ...] | None = None) -> bytes:
    """An ICC profile of version 2: RGB with these primaries in XYZ, or gray without them."""
    def fixed(values: tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    white = (0.9642, 1.0, 0.8249)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79),
            b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": b"XYZ " + bytes(4) + fixed(white)}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        tags |= {name: b"XYZ " + bytes(4) + fixed(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries)}
        tags |= {name: curve for name in (b"rTRC", b"gTRC", b"bTRC")}
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(body), bytes(4), 0x02100000, b"mntr",
                       b"RGB " if primaries else b"GRAY", b"XYZ ", bytes(12), b"acsp")
    return (head.ljust(68, b"\0") + fixed(white)).ljust(128, b"\0") + table + body


def write_files(path: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return str(path)
