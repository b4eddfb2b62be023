"""Draws a leak matrix: which blocks of an image change when one of them is redrawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ssn_plugin.errors import UserError
from ssn_plugin.page import GRAY, HAIRLINE, INK, MARGIN, blank_page, colormap, font

MAX_NUMBERED = 20   # with more blocks the cells are too small for numbers
DECADES = 4         # range of the logarithmic colour scale


def draw_leak_map(
    matrix: np.ndarray,     # [B, B]  mean squared change of block j (column) when block i (row) is redrawn
    grid: Sequence[int],    # (R, S)
    note: str,              # small print
) -> Image.Image:
    """The matrix as a heat map with a cell per pair of blocks, coloured by the logarithm of the change.

    Leaks are often a thousandth of the change in the redrawn block, so a linear scale would show the diagonal only.
    """
    num_blocks = len(matrix)
    if matrix.shape != (num_blocks, num_blocks) or num_blocks != grid[0] * grid[1]:
        raise UserError(f"the leak matrix of a {grid[0]}x{grid[1]} grid must be {grid[0] * grid[1]} square, got "
                        f"{list(matrix.shape)}")
    cell = max(min(720 // num_blocks, 48), 4)
    numbered = num_blocks <= MAX_NUMBERED
    size = cell * num_blocks
    labels = [f"{i // grid[1]},{i % grid[1]}" for i in range(num_blocks)]
    left, top = MARGIN + 64, MARGIN + 112
    width, height = left + size + 130, top + size + MARGIN + 24
    subtitle = "mean squared change of a block (column) when another one (row) is redrawn"
    page, draw = blank_page(max(width, 560), height, "Leak matrix", subtitle, note)

    # Zero has no logarithm; it gets the lightest colour, like everything more than DECADES below the largest.
    largest = float(matrix.max())
    with np.errstate(divide="ignore", invalid="ignore"):
        shade = 1 + np.log10(matrix / largest) / DECADES if largest > 0 else np.zeros_like(matrix)
    shade = np.nan_to_num(shade, nan=0, neginf=0).clip(0, 1)
    for i in range(num_blocks):
        for j in range(num_blocks):
            x, y = left + j * cell, top + i * cell
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=_color(shade[i, j]), outline="white")
            if numbered and cell >= 32:
                draw.text((x + cell / 2, y + cell / 2), _short(matrix[i, j]), anchor="mm", font=font(10),
                          fill="white" if shade[i, j] > 0.6 else INK)
    draw.text((left + size / 2, top - 40), "changed block (row,column)", fill=INK, font=font(14), anchor="mm")
    draw.text((MARGIN, top - 12), "redrawn", fill=INK, font=font(14), anchor="ls")
    step = 1 if numbered else grid[1]   # otherwise only the first block of every grid row
    for i in range(0, num_blocks, step):
        middle = cell / 2 + i * cell
        draw.text((left - 8, top + middle), labels[i], fill=GRAY, font=font(12), anchor="rm")
        draw.text((left + middle, top - 8), labels[i], fill=GRAY, font=font(12), anchor="mb")
    _draw_scale(draw, left + size + 28, top, size, largest)
    return page


def _draw_scale(draw: ImageDraw.ImageDraw, x: int, top: int, length: int, largest: float) -> None:
    """The colour bar, from `largest` at the top down by DECADES powers of ten."""
    for y in range(length):
        draw.line((x, top + y, x + 15, top + y), fill=_color(1 - y / max(length - 1, 1)))
    draw.rectangle((x - 1, top - 1, x + 16, top + length), outline=HAIRLINE)
    for d in range(DECADES + 1):
        text = _short(largest * 10.0**-d) if largest > 0 else "0"
        draw.text((x + 22, top + (length - 1) * d / DECADES), text, fill=GRAY, font=font(12), anchor="lm")


def _color(shade: float) -> tuple[int, int, int]:
    """The colour of a shade in 0..1, the darker the larger."""
    r, g, b = colormap()[round(float(shade) * 255)].tolist()
    return r, g, b


def _short(value: float) -> str:
    """Two significant digits in few characters."""
    if value == 0:
        return "0"
    return f"{value:.2g}" if value >= 0.01 else f"{value:.0e}".replace("e-0", "e-")
