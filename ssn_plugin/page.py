"""A white page to draw on with Pillow: colours, fonts, captions, images as tiles, and a colour map.

For all drawings of the plugin. The host has its own in `training/images/pictures.py`: it works without the plugin, and
the plugin in hosts that have no such file. Images are uint8 arrays [H, W, C] with 1, 3 or 4 channels.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = (28, 28, 30)          # titles, labels
GRAY = (118, 118, 124)      # everything that may be overlooked
HAIRLINE = (214, 214, 218)  # frames, ticks
ACCENT = (230, 0, 92)       # outline of the redrawn region; rare in photographs

MARGIN = 28
GAP = 10            # between neighbouring tiles, pixels
MIN_TILE, MAX_TILE = 160, 256


def tile_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a tile: whole multiples of small images, large ones shrunk to MAX_TILE."""
    h, w = shape
    side = max(h, w)
    if side < MIN_TILE:
        factor = math.ceil(MIN_TILE / side)
        return w * factor, h * factor
    scale = min(1.0, MAX_TILE / side)
    return max(round(w * scale), 1), max(round(h * scale), 1)


@functools.lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def text_width(text: str, size: int) -> int:
    return math.ceil(font(size).getlength(text))


def text_height(text: str, size: int) -> int:
    return math.ceil(font(size).getbbox("Ag")[3]) if text else 0


def blank_page(
    width: int, height: int, title: str, subtitle: str, footer: str
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A page with its texts, and what draws on it."""
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), title, fill=INK, font=font(24))
    draw.text((MARGIN, MARGIN + text_height(title, 24) - 4), subtitle, fill=GRAY, font=font(14))
    draw.text((MARGIN, height - MARGIN + 4), footer, fill=GRAY, font=font(12), anchor="ls")
    return page, draw


def frame_of(title: str, subtitle: str, footer: str) -> tuple[int, int]:
    """The least width of a page with these texts, and how far down its pictures begin."""
    longest = max(text_width(title, 24), text_width(subtitle, 14), text_width(footer, 12))
    return MARGIN + longest + MARGIN, MARGIN + text_height(title, 24) + 34


def caption(draw: ImageDraw.ImageDraw, at: tuple[int, int], label: str, note: str) -> None:
    draw.text(at, label, fill=INK, font=font(14))
    draw.text((at[0] + text_width(label, 14) + 8, at[1] + 2), note, fill=GRAY, font=font(12))


def paste_tile(page: Image.Image, draw: ImageDraw.ImageDraw, image: np.ndarray, at: tuple[int, int],
                size: tuple[int, int]) -> None:
    """Place the image at size (w, h) with a hairline frame, so that a white sky does not melt into the page."""
    x, y = at
    page.paste(resize(to_rgb(image), size), at)
    draw.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline=HAIRLINE)


def to_rgb(image: np.ndarray) -> Image.Image:
    """A picture without transparency: what was transparent becomes white, as on a page."""
    if image.shape[2] == 4:
        white = Image.new("RGBA", (image.shape[1], image.shape[0]), "white")
        return Image.alpha_composite(white, Image.fromarray(image)).convert("RGB")
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Whole multiples show the pixels as they are; everything else is resampled smoothly."""
    whole = size[0] % image.width == 0 and size[1] % image.height == 0
    return image.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def scale_up(image: np.ndarray, factor: int, smooth: bool = False) -> np.ndarray:
    """An image at a multiple of its size: every pixel a square, or smooth, by Lanczos' filter."""
    if not smooth:
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    size = (factor * picture.width, factor * picture.height)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).reshape(size[1], size[0], image.shape[2])


def nice_scale(largest: float) -> tuple[float, float]:
    """End and tick distance of a scale from 0 that holds `largest`: 1, 2, 2.5 or 5 times a power of ten per tick."""
    if not math.isfinite(largest) or largest <= 0:
        return 0.01, 0.002
    raw = largest / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    return math.ceil(largest / step - 1e-9) * step, step


@functools.lru_cache
def colormap() -> np.ndarray:
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
