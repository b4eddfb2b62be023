"""The grid of latents of a Spatially Stochastic Network."""

from __future__ import annotations

import torch


def block_grid_of(G: torch.nn.Module, name: str) -> tuple[int, int]:
    """(rows, cols) of the latent grid. Raises ValueError for a network without one; `name` is for the message."""
    if not hasattr(G, "block_grid"):
        raise ValueError(f"{name} has no block grid: only Spatially Stochastic Networks (train.py --cfg=ssn) have one")
    if len(G.block_grid) != 1:
        raise ValueError(f"{name} has {len(G.block_grid)} block grids, blocks can be redrawn in networks with one")
    rows, cols = G.block_grid[0]
    return rows, cols


def check_block(block: tuple[int, int], grid: tuple[int, int], name: str | None = None) -> None:
    if not (0 <= block[0] < grid[0] and 0 <= block[1] < grid[1]):
        raise ValueError(f"block {name or block} is outside the {grid[0]}x{grid[1]} latent grid")
