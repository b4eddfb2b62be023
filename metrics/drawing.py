"""Plain drawings with Pillow: a histogram, and a sheet of images."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, GRAY, HAIRLINE, BAR, ACCENT = (28, 28, 30), (118, 118, 124), (214, 214, 218), (96, 125, 170), (230, 0, 92)
MARGIN = 28


def draw_histogram(values: np.ndarray, mark: float, mark_label: str, title: str, note: str) -> Image.Image:
    """Distribution of `values` `[N]` up to their 99th percentile, with a vertical line at `mark`."""
    width, height, left, top = 760, 420, 76, 84
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


def draw_sheet(images: np.ndarray, title: str, note: str) -> Image.Image:
    """Images, uint8 `[N, H, W, C]`, in rows from the top left."""
    num, longer = len(images), max(images.shape[1:3])
    columns = max(math.ceil(math.sqrt(num * 1.6)), 1)
    rows = math.ceil(num / columns)
    # Small images are enlarged by a whole factor, so that their pixels stay visible; large ones are shrunk.
    factor = max(96 // longer, 1) if longer <= 128 else 128 / longer
    height, width = (max(round(side * factor), 1) for side in images.shape[1:3])
    gap, top = 4, 84
    page, _ = _page(
        max(2 * MARGIN + columns * (width + gap) - gap, 560), top + rows * (height + gap) + 48, title, note)
    for i, pixels in enumerate(images):
        img = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
        img = img.resize((width, height), Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)
        page.paste(img, (MARGIN + (i % columns) * (width + gap), top + (i // columns) * (height + gap)))
    return page


def _page(width: int, height: int, title: str, note: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), title, fill=INK, font=_font(22))
    draw.text((MARGIN, height - MARGIN + 8), note, fill=GRAY, font=_font(12), anchor="ls")
    return page, draw


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
