"""The grids of latents of a Spatially Stochastic Network.

There is one, or there are several, coarse to fine: `[[1, 1], [4, 4]]`. The latents of all blocks lie one after the
other, grid by grid. The blocks of the finest grid are those that are meant where no grid is named: they are what has a
place in the image, while coarser grids hold what blocks share (light, colour, pose).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ssn_plugin.errors import UserError
from ssn_plugin.networks import side_lengths


def finest_grid(block_grid: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(rows, cols) of the last of the grids."""
    rows, cols = block_grid[-1]
    return rows, cols


def first_block(block_grid: Sequence[Sequence[int]]) -> int:
    """How many blocks, of coarser grids, lie before the first block of the finest grid."""
    return sum(rows * cols for rows, cols in block_grid[:-1])


def locate_grid(block_grid: Sequence[Sequence[int]], grid: tuple[int, int] | None) -> tuple[tuple[int, int], int]:
    """(rows, cols) of one of the grids, None for the finest, and how many blocks lie before its first one.

    Raises ValueError for a grid that is not among them.
    """
    grids = [(rows, cols) for rows, cols in block_grid]
    if grid is None:
        grid = grids[-1]
    if grid not in grids:
        names = ", ".join(f"{rows}x{cols}" for rows, cols in grids)
        raise UserError(f"grid {grid[0]}x{grid[1]} is not among those of the network: {names}")
    return grid, first_block(grids[:grids.index(grid) + 1])


def block_grid_of(G: torch.nn.Module, name: str) -> tuple[int, int]:
    """(rows, cols) of the finest grid. Raises ValueError for a network without one; `name` is for the message."""
    if not hasattr(G, "block_grid"):
        raise UserError(f"{name} has no block grid: only Spatially Stochastic Networks (train.py --cfg=ssn) have one")
    return finest_grid(G.block_grid)


def image_size(G: torch.nn.Module) -> tuple[int, int]:
    """Height and width of the images."""
    height, width = side_lengths(G.img_resolution)
    return height, width


def check_block(block: tuple[int, int], grid: tuple[int, int], name: str | None = None) -> None:
    if not (0 <= block[0] < grid[0] and 0 <= block[1] < grid[1]):
        raise UserError(f"block {name or block} is outside the {grid[0]}x{grid[1]} latent grid")
