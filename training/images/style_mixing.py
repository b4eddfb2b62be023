"""Images that take some of their styles from one seed and the rest from another."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dnnlib.util import UserError
from training.images.generation import (
    call_with_seed,
    class_to_label,
    device_of,
    image_shape,
    save_png,
    seed_to_z,
    to_uint8,
)

MAX_PIXELS = 2**29   # of the grid: 22 x 22 images of 1024x1024


def parse_styles(text: str) -> list[int]:
    """`3`, `1,5` or `0-6` (inclusive), or a mixture, -> numbers of layers, ascending."""
    styles: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})(?:\s*-\s*(\d{1,3}))?\s*", part)
        if not match or int(match[1]) > int(match[2] or match[1]):
            raise UserError(f"styles must look like 3 or 1,5 or 0-6, got {text!r}")
        styles.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(styles)


def default_styles(num_ws: int) -> list[int]:
    """The coarser half of the layers, but no more than the host's seven, which are half of 14 (256 pixels)."""
    return list(range(min(7, num_ws // 2)))


def check_styles(G: torch.nn.Module, styles: Sequence[int]) -> None:
    if styles[-1] >= G.num_ws:
        raise UserError(f"styles must be in 0..{G.num_ws - 1} for this network, got {styles[-1]}")


def check_grid(G: torch.nn.Module, rows: Sequence[int], columns: Sequence[int]) -> None:
    """ValueError if the grid of all images would be too large for the memory and for image viewers."""
    _, height, width = image_shape(G)
    if (len(rows) + 1) * (len(columns) + 1) * height * width > MAX_PIXELS:
        raise UserError(f"a style mixing grid may have at most {MAX_PIXELS} pixels, got {len(rows)} rows and "
                        f"{len(columns)} columns of {width}x{height}")


@torch.no_grad()
def save_mixtures(
    G: torch.nn.Module,
    rows: Sequence[int],      # seeds
    columns: Sequence[int],   # seeds
    styles: Sequence[int],    # layers whose styles come from the seed of the column
    class_idx: int | None,
    truncation_psi: float,
    noise_mode: str,          # random: that of the row's seed
    outdir: str,
) -> Iterator[str]:
    """Write `5-5.png` for each seed, `<row>-<column>.png` for each mixture, and `grid.png`; yields the paths.

    The first row and column of the grid are the sources, around a black corner.
    """
    os.makedirs(outdir, exist_ok=True)
    c = class_to_label(class_idx, G.c_dim).to(device_of(G))
    ws = {seed: G.mapping(seed_to_z(seed, G.z_dim).to(c), c) for seed in [*rows, *columns]}   # [1, num_ws, w_dim]
    if truncation_psi != 1:
        ws = {seed: G.mapping.w_avg.lerp(w, truncation_psi) for seed, w in ws.items()}
    channels, height, width = image_shape(G)
    grid = np.zeros([len(rows) + 1, height, len(columns) + 1, width, channels], dtype=np.uint8)
    grid[0, :, 0, :, 3:] = 255   # the corner is black also where there is transparency
    for seed, w in ws.items():
        image = to_uint8(call_with_seed(G.synthesis, seed, noise_mode, w))[0]
        grid[1:, :, 0][np.equal(rows, seed)] = image
        grid[0, :, 1:][:, np.equal(columns, seed)] = image[:, None]
        yield save_png(image, os.path.join(outdir, f"{seed}-{seed}.png"))
    for (i, row), (j, column) in itertools.product(enumerate(rows, 1), enumerate(columns, 1)):
        w = ws[row].clone()
        w[:, styles] = ws[column][:, styles]
        grid[i, :, j] = image = to_uint8(call_with_seed(G.synthesis, row, noise_mode, w))[0]
        if row != column:   # that one is a source
            yield save_png(image, os.path.join(outdir, f"{row}-{column}.png"))
    page = grid.reshape(grid.shape[0] * height, grid.shape[2] * width, channels)
    yield save_png(page, os.path.join(outdir, "grid.png"))
