"""Convolution of every channel with a kernel of its own, with fast derivatives of every order."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from . import conv2d_gradfix


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolve each channel of [N, C, H, W] with its kernel of [C, 1, k, k], k odd, padding with zeros. [N, C, H, W]"""
    return _DepthwiseConv2d.apply(x, weight, [side // 2 for side in weight.shape[2:]])


class _DepthwiseConv2d(torch.autograd.Function):
    """[N, C, H, W], [C, 1, k, k'] -> [N, C, H', W']

    Both derivatives are such convolutions again, so all orders are. Autograd's own second derivative of a convolution
    in groups, which path length regularisation needs, takes several convolutions for each group: thousands.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, padding: list[int]) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        n, c = x.shape[:2]
        kernel = weight.shape[2:]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            padding = [side - 1 - pad for side, pad in zip(kernel, ctx.padding)]
            grad_x = _DepthwiseConv2d.apply(grad, weight.flip([2, 3]), padding)
        if ctx.needs_input_grad[1] and not conv2d_gradfix.weight_gradients_disabled:
            # Each channel of each sample convolved with its gradient.
            maps, kernels = x.reshape(1, n * c, *x.shape[2:]), grad.reshape(n * c, 1, *grad.shape[2:])
            grad_weight = _DepthwiseConv2d.apply(maps, kernels, ctx.padding).reshape(n, c, 1, *kernel).sum(dim=0)
        return grad_x, grad_weight, None
