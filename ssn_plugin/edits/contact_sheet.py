"""Draws what can be redrawn and what was: the blocks of an image, a sheet of the variants, a map of the change.

Plain Pillow on a white page. Images are uint8 arrays [H, W, C] with 1, 3 or 4 channels; regions are bool [H, W].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ssn_plugin.errors import UserError
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
PART_GAP = 4        # between a variant and its enlarged part
GRID_TILE = 3       # size of the picture of the blocks, in tiles


def draw_contact_sheet(
    original: np.ndarray,            # [H, W, C]  the image before
    variants: Sequence[np.ndarray],  # each [H, W, C]
    region: np.ndarray,              # [H, W]     True where redrawing was allowed
    labels: Sequence[str],           # one short name per variant
    notes: Sequence[str],            # one line of small print per variant
    title: str,
    subtitle: str,
    footer: str,
    block_grid: tuple[int, int] | None = None,  # rows and columns, to be numbered along the original
) -> Image.Image:
    """The original with the region outlined, beside it the variants in reading order.

    Beside each variant stands the redrawn part, enlarged, where that is less than half of the image.
    """
    num = len(variants)
    if not num or len(labels) != num or len(notes) != num:
        raise UserError(f"a sheet needs a label and a note for each variant, got {num}, {len(labels)}, {len(notes)}")
    rows = 1 if num <= 2 else 2 if num <= 12 else math.ceil(math.sqrt(num / 2))
    columns = math.ceil(num / rows)
    tile_w, tile_h = tile_size(region.shape)
    cell_h = tile_h + 40  # the tile, its label and note, and air
    large = 2 if rows > 1 else 1  # the original, twice the size of its variants
    size = (large * tile_w, large * tile_h)
    part, part_size = _enlarged_part(region, (tile_w, tile_h))
    cell_w = tile_w + (part_size[0] + PART_GAP if part_size else 0)

    least_width, top = frame_of(title, subtitle, footer)
    left = MARGIN + size[0] + 3 * GAP
    width = max(left + columns * (cell_w + GAP) - GAP + MARGIN, least_width)
    height = top + rows * cell_h + 34
    page, draw = blank_page(width, height, title, subtitle, footer)

    paste_tile(page, draw, original, (MARGIN, top), size)
    _outline(page, region, (MARGIN, top), size)
    if block_grid is not None:
        _number_edges(draw, block_grid, (MARGIN, top), size)
    caption(draw, (MARGIN, top + size[1] + 6), "original", "")
    for i, variant in enumerate(variants):
        x, y = left + (i % columns) * (cell_w + GAP), top + (i // columns) * cell_h
        paste_tile(page, draw, variant, (x, y), (tile_w, tile_h))
        if part_size:
            paste_tile(page, draw, variant[part], (x + tile_w + PART_GAP, y), part_size)
        _mark_extent(draw, region, (x, y), (tile_w, tile_h))
        caption(draw, (x, y + tile_h + 6), labels[i], notes[i])
    return page


def draw_block_grid(
    image: np.ndarray,           # [H, W, C]
    block_grid: tuple[int, int],
    title: str,
    subtitle: str,
    footer: str,
) -> Image.Image:
    """The image, large, with the borders and the names `row,column` of its blocks."""
    rows, cols = block_grid
    w, h = (GRID_TILE * side for side in tile_size(image.shape[:2]))
    least_width, top = frame_of(title, subtitle, footer)
    page, draw = blank_page(max(MARGIN + w + MARGIN, least_width), top + h + 40 + 34, title, subtitle, footer)
    paste_tile(page, draw, image, (MARGIN, top), (w, h))
    for width, fill in ((3, (255, 255, 255)), (1, INK)):  # legible on any picture
        for x in (MARGIN + col * w // cols for col in range(cols + 1)):
            draw.line((x, top, x, top + h), fill=fill, width=width)
        for y in (top + row * h // rows for row in range(rows + 1)):
            draw.line((MARGIN, y, MARGIN + w, y), fill=fill, width=width)
    size = min(24, max(10, w // cols // 4))
    for row in range(rows):
        for col in range(cols):
            center = (MARGIN + (2 * col + 1) * w // cols // 2, top + (2 * row + 1) * h // rows // 2)
            draw.text(center, f"{row},{col}", fill=INK, font=font(size), anchor="mm", stroke_width=2,
                      stroke_fill=(255, 255, 255))
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


def _enlarged_part(
    region: np.ndarray, tile: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[int, int] | None]:
    """Where the region lies, and width and height at which that part fits a tile; None if it is not worth it."""
    rows, cols = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return (slice(0), slice(0)), None
    height, width = rows[-1] + 1 - rows[0], cols[-1] + 1 - cols[0]
    part = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    if 2 * height * width > region.size:
        return part, None
    scale = min(tile[0] / width, tile[1] / height)
    return part, (max(round(width * scale), 1), max(round(height * scale), 1))


def _number_edges(
    draw: ImageDraw.ImageDraw, block_grid: tuple[int, int], at: tuple[int, int], size: tuple[int, int]
) -> None:
    """Numbers of the columns above a tile and of the rows on its left, beside the picture, which stays untouched."""
    rows, cols = block_grid
    for col in range(cols):
        draw.text((at[0] + (2 * col + 1) * size[0] // cols // 2, at[1] - 4), str(col), fill=GRAY, font=font(11),
                  anchor="ms")
    for row in range(rows):
        draw.text((at[0] - 6, at[1] + (2 * row + 1) * size[1] // rows // 2), str(row), fill=GRAY, font=font(11),
                  anchor="rm")


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
