"""2-D convolutions whose derivatives are convolutions again.

Autograd differentiates torch's own convolutions to any order, but computes second derivatives as convolutions with
kernels as large as the image, group by group, whether or not they are needed. Path length and R1 regularisation, which
take such derivatives, then spend most of their time there. Here a data gradient is a transposed convolution, a weight
gradient is the third operation below, and the derivatives of all three are made of the three.

This holds while `enabled` is set, as training loops do. Otherwise torch's own operations run: they give the same
results and cost less for each call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

enabled = False                    # are second derivatives to be fast? Set by training loops
weight_gradients_disabled = False  # true inside no_weight_gradients()

Pair = int | Sequence[int]


@contextlib.contextmanager
def first_derivatives_only():
    """Operations called inside will not be differentiated twice, or need not be fast if they are."""
    global enabled
    before, enabled = enabled, False
    try:
        yield
    finally:
        enabled = before


@contextlib.contextmanager
def no_weight_gradients():
    """Backward passes inside skip the gradients of kernels.

    Use it around `torch.autograd.grad` with respect to other tensors: a function of our own cannot see which gradients
    are asked for.
    """
    global weight_gradients_disabled
    before, weight_gradients_disabled = weight_gradients_disabled, True
    try:
        yield
    finally:
        weight_gradients_disabled = before


def conv2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None,
    stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1,
) -> torch.Tensor:
    """torch.nn.functional.conv2d of a batch [N, I, H, W] with padding in numbers."""
    if not enabled:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    geometry = _Geometry(_pair(stride), _pair(padding), _pair(dilation), groups)
    y = _Convolution.apply(input, weight, geometry)
    return y if bias is None else y + bias[:, None, None]


def conv_transpose2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None,
    stride: Pair = 1, padding: Pair = 0, output_padding: Pair = 0, groups: int = 1, dilation: Pair = 1,
) -> torch.Tensor:
    """torch.nn.functional.conv_transpose2d of a batch [N, I, H, W]."""
    if not enabled:
        return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    geometry = _Geometry(_pair(stride), _pair(padding), _pair(dilation), groups)
    y = _Transposed.apply(input, weight, _pair(output_padding), geometry)
    return y if bias is None else y + bias[:, None, None]


class _Geometry(NamedTuple):
    """What a convolution, its transpose and its weight gradient share; rows first."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def output_padding(self, size: Sequence[int], reduced: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of an image of this `size` that its convolution, of size `reduced`, did not reach."""
        rows, cols = (
            size[i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1 - (reduced[i] - 1) * self.stride[i]
            for i in range(2)
        )
        return rows, cols


def _pair(value: Pair) -> tuple[int, int]:
    rows, cols = (value, value) if isinstance(value, int) else value
    return rows, cols


class _Convolution(torch.autograd.Function):
    """[N, I, H, W], [O, I/groups, kh, kw] -> [N, O, h, w]"""

    @staticmethod
    def forward(ctx, x, weight, geometry):
        _save_factors(ctx, x, weight)
        ctx.geometry, ctx.size, ctx.shape = geometry, x.shape[2:], weight.shape
        return F.conv2d(x, weight, None, *geometry)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            rest = ctx.geometry.output_padding(ctx.size, dy.shape[2:], ctx.shape[2:])
            dx = _Transposed.apply(dy, weight, rest, ctx.geometry)
        if ctx.needs_input_grad[1] and not weight_gradients_disabled:
            dw = _WeightGradient.apply(x, dy, ctx.shape, ctx.geometry)
        return dx, dw, None


class _Transposed(torch.autograd.Function):
    """[N, O, h, w], [O, I/groups, kh, kw] -> [N, I, H, W]"""

    @staticmethod
    def forward(ctx, y, weight, output_padding, geometry):
        _save_factors(ctx, y, weight)
        ctx.geometry, ctx.shape = geometry, weight.shape
        stride, padding, dilation, groups = geometry
        return F.conv_transpose2d(y, weight, None, stride, padding, output_padding, groups, dilation)

    @staticmethod
    def backward(ctx, dx):
        y, weight = ctx.saved_tensors
        dy = dw = None
        if ctx.needs_input_grad[0]:
            dy = _Convolution.apply(dx, weight, ctx.geometry)
        if ctx.needs_input_grad[1] and not weight_gradients_disabled:
            dw = _WeightGradient.apply(dx, y, ctx.shape, ctx.geometry)
        return dy, dw, None, None


class _WeightGradient(torch.autograd.Function):
    """[N, I, H, W], [N, O, h, w] -> [O, I/groups, kh, kw]: gradient of sum(y * convolve(x, weight)) for the weight"""

    @staticmethod
    def forward(ctx, x, y, shape, geometry):
        _save_factors(ctx, x, y)
        ctx.geometry, ctx.size = geometry, x.shape[2:]
        return torch.nn.grad.conv2d_weight(x, shape, y, *geometry)

    @staticmethod
    def backward(ctx, dw):
        x, y = ctx.saved_tensors
        dx = dy = None
        if ctx.needs_input_grad[0]:
            rest = ctx.geometry.output_padding(ctx.size, y.shape[2:], dw.shape[2:])
            dx = _Transposed.apply(y, dw, rest, ctx.geometry)
        if ctx.needs_input_grad[1]:
            dy = _Convolution.apply(x, dw, ctx.geometry)
        return dx, dy, None, None


def _save_factors(ctx, a: torch.Tensor, b: torch.Tensor) -> None:
    """Keep of two factors of a product what the derivatives need: each is part of the gradient of the other."""
    ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b if ctx.needs_input_grad[0] else None)
