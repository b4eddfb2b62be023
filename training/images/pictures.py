"""Grids, sheets and enlargements of 8-bit images, and a histogram, for people to look at. Drawn with Pillow.

Images are uint8 arrays [H, W, C] with 1 (gray), 3 (RGB) or 4 (RGBA) channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, GRAY, BAR, ACCENT = (28, 28, 30), (118, 118, 124), (96, 125, 170), (230, 0, 92)
MARGIN, GAP = 28, 4             # around a page, and between its images
MIN_TILE, MAX_TILE = 128, 256   # sides between which a labelled grid shows its images
GRID_MARGIN, GRID_FONT = 20, 16   # a labelled grid has no title
SHEET_TILE = 96                 # the least side of the images on a sheet
TITLE_HEIGHT = 84


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


def scale_up(image: np.ndarray, factor: int, smooth: bool = False) -> np.ndarray:
    """An image at a multiple of its size: every pixel a square, or smooth, by Lanczos' filter."""
    if not smooth:
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    size = (factor * picture.width, factor * picture.height)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).reshape(size[1], size[0], image.shape[2])


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
    font = _font(GRID_FONT)
    left = GRID_MARGIN + math.ceil(max(map(font.getlength, row_labels))) + 2 * GAP
    top = GRID_MARGIN + GRID_FONT + 2 * GAP
    tiles = iter(images)
    first = next(tiles)
    w, h = tile_size(*first.shape[:2])
    size = (left + len(column_labels) * (w + GAP) - GAP + GRID_MARGIN,
            top + len(row_labels) * (h + GAP) - GAP + GRID_MARGIN)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for column, label in enumerate(column_labels):
        draw.text((left + column * (w + GAP) + w // 2, top - 2 * GAP), label, fill=INK, font=font, anchor="ms")
    for row, label in enumerate(row_labels):
        y = top + row * (h + GAP)
        draw.text((left - 2 * GAP, y + h // 2), label, fill=INK, font=font, anchor="rm")
        for column in range(len(column_labels)):
            image = first if row == column == 0 else next(tiles)
            page.paste(_resize(to_rgb(image), (w, h)), (left + column * (w + GAP), y))
    return page


def draw_sheet(images: np.ndarray, title: str, note: str) -> Image.Image:
    """Images, uint8 `[N, H, W, C]`, in rows from the top left."""
    num, longer = len(images), max(images.shape[1:3])
    columns = max(math.ceil(math.sqrt(num * 1.6)), 1)
    rows = math.ceil(num / columns)
    # Small images are enlarged by a whole factor, so that their pixels stay visible; large ones are shrunk.
    factor = max(SHEET_TILE // longer, 1) if longer <= MIN_TILE else MIN_TILE / longer
    height, width = (max(round(side * factor), 1) for side in images.shape[1:3])
    page, _ = _page(
        max(2 * MARGIN + columns * (width + GAP) - GAP, 560), TITLE_HEIGHT + rows * (height + GAP) + 48, title, note)
    for i, pixels in enumerate(images):
        at = (MARGIN + (i % columns) * (width + GAP), TITLE_HEIGHT + (i // columns) * (height + GAP))
        page.paste(_resize(to_rgb(pixels), (width, height)), at)
    return page


def draw_histogram(values: np.ndarray, mark: float, mark_label: str, title: str, note: str) -> Image.Image:
    """Distribution of `values` `[N]` up to their 99th percentile, with a vertical line at `mark`."""
    width, height, left, top = 760, 420, 76, TITLE_HEIGHT
    right, bottom = width - MARGIN, height - 66
    limit = max(float(np.percentile(values, 99)), mark, 1e-12) * 1.02
    counts, _ = np.histogram(values, bins=min(max(len(values) // 20, 10), 80), range=(0, limit))
    page, draw = _page(width, height, title, note)
    tallest = max(int(counts.max()), 1)
    bar_width = (right - left) / len(counts)
    for i, count in enumerate(counts.tolist()):
        y = bottom - (bottom - top) * count / tallest
        if count:
            draw.rectangle((left + i * bar_width, y, left + (i + 1) * bar_width - 1, bottom), fill=BAR)
    draw.line((left, bottom, right, bottom), fill=GRAY)
    for i in range(6):
        x = left + (right - left) * i / 5
        draw.line((x, bottom, x, bottom + 4), fill=GRAY)
        draw.text((x, bottom + 8), f"{limit * i / 5:.4g}", fill=GRAY, font=_font(12), anchor="mt")
    draw.text((left - 8, top), str(tallest), fill=GRAY, font=_font(12), anchor="rm")
    draw.text((left - 8, bottom), "0", fill=GRAY, font=_font(12), anchor="rm")
    x = left + (right - left) * mark / limit
    draw.line((x, top - 8, x, bottom), fill=ACCENT, width=2)
    draw.text((x + 6, top - 10), mark_label, fill=ACCENT, font=_font(13), anchor="lt")
    return page


def _page(width: int, height: int, title: str, note: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), title, fill=INK, font=_font(22))
    draw.text((MARGIN, height - MARGIN + 8), note, fill=GRAY, font=_font(12), anchor="ls")
    return page, draw


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Whole multiples show the pixels as they are; everything else is resampled smoothly."""
    whole = size[0] % image.width == 0 and size[1] % image.height == 0
    return image.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
