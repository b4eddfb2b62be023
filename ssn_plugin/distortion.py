"""Per-sample terms of low-distortion block resampling, as pure functions of tensors.

Letters: N batch, C channels, H W pixels, R S rows and columns of the block grid, B = R*S blocks, row-major from the
top left. Block (r, c) owns the pixels [r*H/R, (r+1)*H/R) x [c*W/S, (c+1)*W/S).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ssn_plugin.errors import UserError

LOG_FLOOR = 0.02  # share of the cap below which the logarithmic reward stops getting steeper


def redraw_one_block(
    z: torch.Tensor,       # [N, B*bz] latents, block by block
    blocks: torch.Tensor,  # [N] int64, the block of each sample to redraw
    num_blocks: int,       # B, of all grids together
) -> torch.Tensor:         # [N, B*bz]
    """Copy `z` with one block of every sample replaced by fresh unit normals."""
    cells = z.reshape(z.shape[0], num_blocks, -1).clone()                                 # [N, B, bz]
    cells[torch.arange(z.shape[0], device=z.device), blocks] = torch.randn_like(cells[:, 0])
    return cells.reshape(z.shape)


def block_mask(
    blocks: torch.Tensor,       # [N] int64
    block_grid: Sequence[int],  # (R, S)
    height: int,
    width: int,
) -> torch.Tensor:              # [N, H, W] bool
    """True on the pixels that the block of each sample owns."""
    rows, cols = block_grid
    row_of = _cell_of_pixel(rows, height, blocks.device)                     # [H]
    col_of = _cell_of_pixel(cols, width, blocks.device)                      # [W]
    return (row_of[:, None] * cols + col_of) == blocks[:, None, None]


def mean_outside_change(before: torch.Tensor, after: torch.Tensor, resampled: torch.Tensor) -> torch.Tensor:
    """Mean squared change of the pixels that should have stayed, per image.

    before, after: [N, C, H, W] in -1..1.  resampled: [N, H, W] bool, True where change is allowed.
    Returns [N]; 0 where the whole image may change.
    """
    return _masked_mean(_squared_change(before, after), ~resampled)


def mean_inside_change(before: torch.Tensor, after: torch.Tensor, resampled: torch.Tensor) -> torch.Tensor:
    """Mean squared change of the pixels that were redrawn, per image: the diversity of a resampling.

    Arguments as for `mean_outside_change`.  Returns [N].
    """
    return _masked_mean(_squared_change(before, after), resampled)


def diversity_reward(inside: torch.Tensor, cap: float, shape: str) -> torch.Tensor:
    """What the diversity of a resampling earns, per image: `cap` where it reaches `cap` or more, otherwise less.

    linear  min(diversity, cap). Diversity and distortion both grow with the square of a block's change, so no change in
            between is best: where locality is below lambda / mu blocks do nothing, above it all they can up to the cap.
    log     cap * (1 + log((min(diversity, cap) / cap + f) / (1 + f))) with f = LOG_FLOOR. Every doubling earns the
            same, about 0.7 of the cap, so there is a balance: where lambda * distortion is about mu * cap. The reward
            is zero at a third of the cap, and -2.9 caps for a block that does nothing. At the cap it is about as steep
            as the linear one.

    inside: [N], as `mean_inside_change` returns it.  Returns [N].
    """
    capped = inside.clamp(max=cap)
    if shape == "linear":
        return capped
    if shape == "log":
        return cap * (1 + ((capped / cap + LOG_FLOOR) / (1 + LOG_FLOOR)).log())
    raise UserError(f"diversity reward must be 'linear' or 'log', got {shape!r}")


def sum_outside_change(
    before: torch.Tensor, after: torch.Tensor, resampled: torch.Tensor, block_grid: Sequence[int]
) -> torch.Tensor:
    """Sum over the blocks of each block's mean squared change, redrawn pixels counting as unchanged.

    This is Eq. 2 of Hong et al. 2020 (arXiv:2006.05394) read literally. With blocks of one size it is B - 1 times
    `mean_outside_change`, and takes the same arguments.  Returns [N].
    """
    return block_means(_squared_change(before, after) * ~resampled, block_grid).sum(dim=[1, 2])


def block_means(change: torch.Tensor, block_grid: Sequence[int]) -> torch.Tensor:
    """Average a map over the pixels of every block. [N, H, W] -> [N, R, S]"""
    rows, cols = block_grid
    by_row = _cell_averages(rows, change.shape[1], change)                   # [R, H]
    by_col = _cell_averages(cols, change.shape[2], change)                   # [S, W]
    return by_row @ change @ by_col.T


def _squared_change(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Squared difference, averaged over channels. [N, C, H, W] twice -> [N, H, W]"""
    if before.shape != after.shape:
        raise UserError(f"images before and after must have one shape, got {[*before.shape]} and {[*after.shape]}")
    return (after - before).square().mean(dim=1)


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` is True, per sample; 0 where it is True nowhere. [N, H, W] -> [N]"""
    return (values * mask).sum(dim=[1, 2]) / mask.sum(dim=[1, 2]).clamp(min=1)


def _cell_of_pixel(cells: int, pixels: int, device: torch.device) -> torch.Tensor:
    """Grid row (or column) that owns each pixel row (or column). [pixels] int64"""
    if not 1 <= cells <= pixels:
        raise UserError(f"a block grid over {pixels} pixels must have 1 to {pixels} cells per side, got {cells}")
    return torch.arange(pixels, device=device) * cells // pixels


def _cell_averages(cells: int, pixels: int, like: torch.Tensor) -> torch.Tensor:
    """Matrix that averages the pixels of each cell along one axis. [cells, pixels], dtype and device of `like`"""
    owner = _cell_of_pixel(cells, pixels, like.device)
    members = (owner == torch.arange(cells, device=like.device)[:, None]).to(like.dtype)
    return members / members.sum(dim=1, keepdim=True)
