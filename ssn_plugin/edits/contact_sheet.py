"""Draws what resampling did: a contact sheet of the variants and a map of the change.

Plain Pillow on a white page. Images are uint8 arrays [H, W, C] with 1, 3 or 4 channels; regions are bool [H, W].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = (28, 28, 30)          # titles, labels
GRAY = (118, 118, 124)      # everything that may be overlooked
HAIRLINE = (214, 214, 218)  # frames, ticks
ACCENT = (230, 0, 92)       # outline of the redrawn region; rare in photographs

MARGIN = 28
GAP = 10            # between neighbouring tiles, pixels
MIN_TILE, MAX_TILE = 160, 256
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
    tile_w, tile_h = _tile_size(region.shape)
    cell_h = tile_h + 40  # the tile, its label and note, and air
    large = 2 if rows > 1 else 1  # the original, twice the size of its variants
    size = (large * tile_w, large * tile_h)

    top = MARGIN + _text_height(title, 24) + 34
    left = MARGIN + size[0] + 3 * GAP
    text_width = max(_text_width(title, 24), _text_width(subtitle, 14), _text_width(footer, 12))
    width = max(left + columns * (tile_w + GAP) - GAP, MARGIN + text_width) + MARGIN
    height = top + rows * cell_h + 34
    page, draw = _page(width, height, title, subtitle, footer)

    _paste_tile(page, draw, original, (MARGIN, top), size)
    _outline(page, region, (MARGIN, top), size)
    _caption(draw, (MARGIN, top + size[1] + 6), "original", "")
    for i, variant in enumerate(variants):
        x, y = left + (i % columns) * (tile_w + GAP), top + (i // columns) * cell_h
        _paste_tile(page, draw, variant, (x, y), (tile_w, tile_h))
        _mark_extent(draw, region, (x, y), (tile_w, tile_h))
        _caption(draw, (x, y + tile_h + 6), labels[i], notes[i])
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
    tile_w, tile_h = (2 * side for side in _tile_size(region.shape))
    top = MARGIN + _text_height(title, 24) + 34
    left = MARGIN + tile_w + 3 * GAP
    bar_x = left + tile_w + 2 * GAP
    bar_w, ticks_w = 16, 56
    text_width = max(_text_width(title, 24), _text_width(subtitle, 14), _text_width(footer, 12))
    width = max(bar_x + bar_w + ticks_w, MARGIN + text_width + MARGIN)
    page, draw = _page(width, top + tile_h + 40 + 34, title, subtitle, footer)

    size = (tile_w, tile_h)
    _paste_tile(page, draw, original, (MARGIN, top), size)
    _outline(page, region, (MARGIN, top), size)
    _caption(draw, (MARGIN, top + tile_h + 6), "original", "")

    limit, step = _nice_scale(float(change.max()))
    colors = _colormap()
    indices = np.clip(change / limit * (len(colors) - 1), 0, len(colors) - 1).round().astype(int)
    _paste_tile(page, draw, colors[indices], (left, top), size)
    _outline(page, region, (left, top), size, INK)  # the accent is too close to the colours of the map
    _caption(draw, (left, top + tile_h + 6), "mean absolute change", "")

    bar = np.linspace(len(colors) - 1, 0, tile_h).round().astype(int)[:, None].repeat(bar_w, axis=1)
    page.paste(Image.fromarray(colors[bar]), (bar_x, top))
    draw.rectangle((bar_x - 1, top - 1, bar_x + bar_w, top + tile_h), outline=HAIRLINE)
    for i in range(round(limit / step) + 1):
        y = top + (tile_h - 1) * (1 - i * step / limit)
        draw.line((bar_x + bar_w, y, bar_x + bar_w + 4, y), fill=GRAY)
        draw.text((bar_x + bar_w + 8, y), f"{i * step:.4g}", fill=GRAY, font=_font(12), anchor="lm")
    return page


def _tile_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a tile: whole multiples of small images, large ones shrunk to MAX_TILE."""
    h, w = shape
    side = max(h, w)
    if side < MIN_TILE:
        factor = math.ceil(MIN_TILE / side)
        return w * factor, h * factor
    scale = min(1.0, MAX_TILE / side)
    return max(round(w * scale), 1), max(round(h * scale), 1)


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _text_width(text: str, size: int) -> int:
    return math.ceil(_font(size).getlength(text))


def _text_height(text: str, size: int) -> int:
    return math.ceil(_font(size).getbbox("Ag")[3]) if text else 0


def _page(width: int, height: int, title: str, subtitle: str, footer: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), title, fill=INK, font=_font(24))
    draw.text((MARGIN, MARGIN + _text_height(title, 24) - 4), subtitle, fill=GRAY, font=_font(14))
    draw.text((MARGIN, height - MARGIN + 4), footer, fill=GRAY, font=_font(12), anchor="ls")
    return page, draw


def _caption(draw: ImageDraw.ImageDraw, at: tuple[int, int], label: str, note: str) -> None:
    draw.text(at, label, fill=INK, font=_font(14))
    draw.text((at[0] + _text_width(label, 14) + 8, at[1] + 2), note, fill=GRAY, font=_font(12))


def _paste_tile(page: Image.Image, draw: ImageDraw.ImageDraw, image: np.ndarray, at: tuple[int, int],
                size: tuple[int, int]) -> None:
    """Place the image at size (w, h) with a hairline frame, so that a white sky does not melt into the page."""
    x, y = at
    page.paste(_resize(_to_rgb(image), size), at)
    draw.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline=HAIRLINE)


def _to_rgb(image: np.ndarray) -> Image.Image:
    if image.shape[2] == 4:
        white = Image.new("RGBA", (image.shape[1], image.shape[0]), "white")
        return Image.alpha_composite(white, Image.fromarray(image)).convert("RGB")
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Whole multiples show the pixels as they are; everything else is resampled smoothly."""
    whole = size[0] % image.width == 0 and size[1] % image.height == 0
    return image.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


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


def _nice_scale(largest: float) -> tuple[float, float]:
    """End and tick distance of a scale from 0 that holds `largest`: 1, 2, 2.5 or 5 times a power of ten per tick."""
    if not math.isfinite(largest) or largest <= 0:
        return 0.01, 0.002
    raw = largest / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    return math.ceil(largest / step - 1e-9) * step, step


@functools.lru_cache
def _colormap() -> np.ndarray:
    """256 sRGB colours [256, 3] from near white to near black, perceived lightness falling evenly.

    A curve through Oklab (Ottosson 2020): lightness is linear, the hue turns from yellow over red to violet.
    """
    t = np.linspace(0, 1, 256)
    lightness = 0.985 - 0.80 * t
    hue = np.deg2rad(95 - 155 * t)
    chroma = 0.16 * np.sin(np.pi * t ** 0.8) ** 0.9
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    lms = np.stack([
        lightness + 0.3963377774 * a + 0.2158037573 * b,
        lightness - 0.1055613458 * a - 0.0638541728 * b,
        lightness - 0.0894841775 * a - 1.2914855480 * b,
    ]) ** 3
    linear = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]) @ lms
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (srgb.T * 255).round().astype(np.uint8)
