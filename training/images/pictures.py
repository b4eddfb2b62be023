"""Rows, grids and enlargements of 8-bit images, for people to look at.

Images are uint8 arrays [H, W, C] with 1 (gray), 3 (RGB) or 4 (RGBA) channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = (28, 28, 30)
MIN_TILE, MAX_TILE = 128, 256   # sides between which a labelled grid shows its images
MARGIN, GAP = 20, 4             # around the grid, and between its images
FONT_SIZE = 16


def to_rgb(image: np.ndarray) -> Image.Image:
    """A picture without transparency: what was transparent becomes white, as on a page."""
    if image.shape[2] == 4:
        white = Image.new("RGBA", (image.shape[1], image.shape[0]), "white")
        return Image.alpha_composite(white, Image.fromarray(image)).convert("RGB")
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")


def enlarge(image: np.ndarray, least: int) -> np.ndarray:
    """Repeat the pixels of a small image, so that its shorter side measures `least` pixels or a little more."""
    factor = max(-(-least // min(image.shape[:2])), 1)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Width and height at which to show an image: whole multiples of small ones, large ones reduced to MAX_TILE."""
    side = max(height, width)
    scale = math.ceil(MIN_TILE / side) if side < MIN_TILE else min(1.0, MAX_TILE / side)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def draw_labelled_grid(
    images: Iterable[np.ndarray],   # in reading order, all of one size
    row_labels: Sequence[str],
    column_labels: Sequence[str],
) -> Image.Image:
    """The images in rows and columns, with a label before each row and above each column."""
    font = _font(FONT_SIZE)
    left = MARGIN + math.ceil(max(map(font.getlength, row_labels))) + 2 * GAP
    top = MARGIN + FONT_SIZE + 2 * GAP
    tiles = iter(images)
    first = next(tiles)
    w, h = tile_size(*first.shape[:2])
    size = (left + len(column_labels) * (w + GAP) - GAP + MARGIN, top + len(row_labels) * (h + GAP) - GAP + MARGIN)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for column, label in enumerate(column_labels):
        draw.text((left + column * (w + GAP) + w // 2, top - 2 * GAP), label, fill=INK, font=font, anchor="ms")
    for row, label in enumerate(row_labels):
        y = top + row * (h + GAP)
        draw.text((left - 2 * GAP, y + h // 2), label, fill=INK, font=font, anchor="rm")
        for column in range(len(column_labels)):
            image = first if row == column == 0 else next(tiles)
            whole = w % image.shape[1] == 0 and h % image.shape[0] == 0
            picture = to_rgb(image).resize((w, h), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
            page.paste(picture, (left + column * (w + GAP), y))
    return page


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
