"""Words of error messages about files: short, and on one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def one_line(err: BaseException) -> str:
    return " ".join(str(err).split()) or type(err).__name__


def shorten(value: Any, limit: int = 60) -> str:
    """A value from a file as JSON, or as Python shows it, cut to `limit` characters."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe_shape(shape: Sequence[int]) -> str:
    """Shape `[C, H, W]` in the words of the error messages: `64x32 RGB` for 64 columns and 32 rows."""
    channels, height, width = shape
    return f"{width}x{height} {({1: 'gray', 3: 'RGB', 4: 'RGBA'}).get(channels, f'with {channels} channels')}"
