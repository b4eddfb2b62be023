"""Bilinear grid sampling whose gradient can itself be differentiated, on every supported torch version."""

from __future__ import annotations

import torch
import torch.nn.functional as F

enabled = False  # set by training loops; the op is twice differentiable either way


def grid_sample(
    input: torch.Tensor,  # [N, C, H, W]
    grid: torch.Tensor,   # [N, h, w, 2]  position (x, y) to read; the image spans -1..1 from outer edge to outer edge
) -> torch.Tensor:        # [N, C, h, w]
    """Read `input` at the positions of `grid` by bilinear interpolation; pixels outside the image are zero.

    Differentiable to any order with respect to `input`. A grid that requires gradients is left to torch, which
    supports the first order in every version and higher ones in recent versions only.
    """
    if grid.requires_grad and torch.is_grad_enabled():
        return _interpolate(input, grid)
    return _Sample.apply(input, grid)


def _interpolate(input, grid):
    return F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class _Sample(torch.autograd.Function):
    """y = S(grid) x, a linear map of the image x. Its derivative is the transposed map, `_Scatter`."""

    @staticmethod
    def forward(ctx, x, grid):
        ctx.save_for_backward(grid)
        ctx.size = x.shape
        return _interpolate(x, grid)

    @staticmethod
    def backward(ctx, dy):
        (grid,) = ctx.saved_tensors
        return _Scatter.apply(dy, grid, ctx.size), None


class _Scatter(torch.autograd.Function):
    """dx = S(grid)^T dy, linear in dy. Its derivative is `_Sample` again, which closes the circle."""

    @staticmethod
    def forward(ctx, dy, grid, size):
        ctx.save_for_backward(grid)
        # torch offers the transposed map only as the first derivative of the map, which does not depend on the
        # image it is taken at: one zero, broadcast, stands in for it and costs neither memory nor bandwidth.
        with torch.enable_grad():
            blank = dy.new_zeros([]).expand(size).requires_grad_()
            (dx,) = torch.autograd.grad(_interpolate(blank, grid), blank, dy)
        return dx

    @staticmethod
    def backward(ctx, ddx):
        (grid,) = ctx.saved_tensors
        return _Sample.apply(ddx, grid), None, None
