"""Draws what resampling did: a contact sheet of the variants and a map of the change.

Plain Pillow on a white page. Images are uint8 arrays [H, W, C] with 1, 3 or 4 channels; regions are bool [H, W].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ssn_plugin.page import (
    ACCENT,
    GAP,
    GRAY,
    HAIRLINE,
    INK,
    MARGIN,
    blank_page,
    caption,
    colormap,
    font,
    frame_of,
    nice_scale,
    paste_tile,
    tile_size,
)

LINE = 2            # width of the outline, even: half of it on either side of the border


def draw_contact_sheet(
    original: np.ndarray,            # [H, W, C]  the image before
    variants: Sequence[np.ndarray],  # each [H, W, C]
    region: np.ndarray,              # [H, W]     True where redrawing was allowed
    labels: Sequence[str],           # one short name per variant
    notes: Sequence[str],            # one line of small print per variant
    title: str,
    subtitle: str,
    footer: str,
) -> Image.Image:
    """The original with the region outlined, beside it the variants in reading order."""
    num = len(variants)
    if not num or len(labels) != num or len(notes) != num:
        raise ValueError(f"a sheet needs a label and a note for each variant, got {num}, {len(labels)}, {len(notes)}")
    rows = 1 if num <= 2 else 2 if num <= 12 else math.ceil(math.sqrt(num / 2))
    columns = math.ceil(num / rows)
    tile_w, tile_h = tile_size(region.shape)
    cell_h = tile_h + 40  # the tile, its label and note, and air
    large = 2 if rows > 1 else 1  # the original, twice the size of its variants
    size = (large * tile_w, large * tile_h)

    least_width, top = frame_of(title, subtitle, footer)
    left = MARGIN + size[0] + 3 * GAP
    width = max(left + columns * (tile_w + GAP) - GAP + MARGIN, least_width)
    height = top + rows * cell_h + 34
    page, draw = blank_page(width, height, title, subtitle, footer)

    paste_tile(page, draw, original, (MARGIN, top), size)
    _outline(page, region, (MARGIN, top), size)
    caption(draw, (MARGIN, top + size[1] + 6), "original", "")
    for i, variant in enumerate(variants):
        x, y = left + (i % columns) * (tile_w + GAP), top + (i // columns) * cell_h
        paste_tile(page, draw, variant, (x, y), (tile_w, tile_h))
        _mark_extent(draw, region, (x, y), (tile_w, tile_h))
        caption(draw, (x, y + tile_h + 6), labels[i], notes[i])
    return page


def draw_change_map(
    original: np.ndarray,  # [H, W, C]  the image before, for orientation
    change: np.ndarray,    # [H, W]     mean absolute change, 1 = the whole image range
    region: np.ndarray,    # [H, W]     True where redrawing was allowed
    title: str,
    subtitle: str,
    footer: str,
) -> Image.Image:
    """The original and, on the same scale, how much each pixel changed; the region is outlined in both."""
    tile_w, tile_h = (2 * side for side in tile_size(region.shape))
    least_width, top = frame_of(title, subtitle, footer)
    left = MARGIN + tile_w + 3 * GAP
    bar_x = left + tile_w + 2 * GAP
    bar_w, ticks_w = 16, 56
    width = max(bar_x + bar_w + ticks_w, least_width)
    page, draw = blank_page(width, top + tile_h + 40 + 34, title, subtitle, footer)

    size = (tile_w, tile_h)
    paste_tile(page, draw, original, (MARGIN, top), size)
    _outline(page, region, (MARGIN, top), size)
    caption(draw, (MARGIN, top + tile_h + 6), "original", "")

    limit, step = nice_scale(float(change.max()))
    colors = colormap()
    indices = np.clip(change / limit * (len(colors) - 1), 0, len(colors) - 1).round().astype(int)
    paste_tile(page, draw, colors[indices], (left, top), size)
    _outline(page, region, (left, top), size, INK)  # the accent is too close to the colours of the map
    caption(draw, (left, top + tile_h + 6), "mean absolute change", "")

    bar = np.linspace(len(colors) - 1, 0, tile_h).round().astype(int)[:, None].repeat(bar_w, axis=1)
    page.paste(Image.fromarray(colors[bar]), (bar_x, top))
    draw.rectangle((bar_x - 1, top - 1, bar_x + bar_w, top + tile_h), outline=HAIRLINE)
    for i in range(round(limit / step) + 1):
        y = top + (tile_h - 1) * (1 - i * step / limit)
        draw.line((bar_x + bar_w, y, bar_x + bar_w + 4, y), fill=GRAY)
        draw.text((bar_x + bar_w + 8, y), f"{i * step:.4g}", fill=GRAY, font=font(12), anchor="lm")
    return page


def _outline(page: Image.Image, region: np.ndarray, at: tuple[int, int], size: tuple[int, int],
             color: tuple[int, int, int] = ACCENT) -> None:
    """Draw the border of the region over a tile: a coloured line on a white one, legible on any picture."""
    if not region.any():
        return
    pad = LINE + 2  # at the edge of the tile half of the line lies on the page
    enlarged = Image.fromarray(region.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    inside = np.pad(np.asarray(enlarged) > 0, pad)
    for width, fill in ((LINE + 2, (255, 255, 255)), (LINE, color)):
        border = _dilate(inside, width // 2) & _dilate(~inside, width // 2)
        page.paste(fill, (at[0] - pad, at[1] - pad), Image.fromarray(border.astype(np.uint8) * 255))


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Grow the True pixels of a mask by a square of the given radius."""
    for axis in (0, 1):
        mask = np.logical_or.reduce([np.roll(mask, shift, axis) for shift in range(-radius, radius + 1)])
    return mask


def _mark_extent(draw: ImageDraw.ImageDraw, region: np.ndarray, at: tuple[int, int], size: tuple[int, int]) -> None:
    """Mark the rows and columns of the region at the edges of a tile, which leaves the picture itself untouched."""
    x, y = at
    for start, stop in _runs(np.any(region, axis=0), size[0]):
        draw.line((x + start, y - 2, x + stop - 1, y - 2), fill=ACCENT, width=2)
    for start, stop in _runs(np.any(region, axis=1), size[1]):
        draw.line((x - 2, y + start, x - 2, y + stop - 1), fill=ACCENT, width=2)


def _runs(flags: np.ndarray, length: int) -> list[tuple[int, int]]:
    """Start and end of each run of True in flags [n], scaled from 0..n to 0..length."""
    edges = np.flatnonzero(np.diff(flags.astype(int), prepend=0, append=0))
    scaled = (edges * length / len(flags)).round().astype(int).tolist()
    return list(zip(scaled[::2], scaled[1::2]))
