"""A picture of redrawn blocks beside every snapshot of a training run: do they change their place, and only that?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ssn_plugin.block_grid import block_grid_of, first_block, image_size
from ssn_plugin.edits.resample import redraw_blocks, sample_z
from ssn_plugin.pixels import to_uint8

GAP = 2  # pixels between the images


class RedrawSheet:
    """A row per image: the image, then the same with one block redrawn, another one in each column.

    `train.py` draws one with every snapshot of an SSN; blocks are framed. Seeds and blocks are the same every time.
    """

    name = "redraws"

    def __init__(self, rows: int = 4, columns: int = 8):
        self._rows, self._columns = rows, columns

    @torch.no_grad()
    def draw(self, G_ema: Any) -> np.ndarray:
        """uint8 [H, W, C]. Class r of a conditional network in row r."""
        device = next(G_ema.parameters()).device
        grid = block_grid_of(G_ema, "the network")
        rows = []
        for seed in range(self._rows):
            blocks = spread(grid[0] * grid[1], self._columns - 1, seed)
            z = sample_z(seed, G_ema.z_dim)
            own = [first_block(G_ema.block_grid) + block for block in blocks]
            redrawn = [redraw_blocks(z, [block], G_ema.block_z_dim, seed, 0, 0) for block in own]
            c = torch.eye(max(G_ema.c_dim, 1))[[seed % max(G_ema.c_dim, 1)], :G_ema.c_dim]   # [1, c_dim]
            images = [G_ema(latent.to(device), c.to(device), noise_mode="const") for latent in [z, *redrawn]]
            pixels = to_uint8(torch.cat(images).float()).permute(0, 2, 3, 1).cpu().numpy()     # [columns, H, W, C]
            for image, block in zip(pixels[1:], blocks):
                frame(image, block, grid, image_size(G_ema))
            rows.append(join(list(pixels), axis=1))
        return join(rows, axis=0)


def spread(count: int, num: int, shift: int) -> list[int]:
    """`num` of `count` blocks, as far apart as they can be, moved on by `shift`."""
    return [(int(i * count / num) + shift) % count for i in range(num)]


def frame(image: np.ndarray, block: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
    """Draw a line around a block, into the image [H, W, C]."""
    row, col = divmod(block, grid[1])
    top, bottom = (row * size[0] // grid[0], (row + 1) * size[0] // grid[0] - 1)
    left, right = (col * size[1] // grid[1], (col + 1) * size[1] // grid[1] - 1)
    image[[top, bottom], left:right + 1] = 255
    image[top:bottom + 1, [left, right]] = 255


def join(images: list[np.ndarray], axis: int) -> np.ndarray:
    """Images [H, W, C] side by side (axis 1) or one below the other (axis 0), with a white gap."""
    shape = list(images[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, dtype=np.uint8)
    parts = [part for image in images for part in (gap, image)]
    return np.concatenate(parts[1:], axis=axis)
