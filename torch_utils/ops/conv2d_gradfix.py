"""Convolutions under the names that StyleGAN2-ADA code calls.

Current PyTorch differentiates its own convolutions to any order, so nothing is left to fix. The two flags and the
context manager exist because scripts set and enter them; they never change a result.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F

enabled = False                    # set by training loops; there is one implementation only
weight_gradients_disabled = False  # true inside no_weight_gradients()


@contextlib.contextmanager
def no_weight_gradients():
    """Mark a region whose caller does not need weight gradients.

    Autograd already skips what `torch.autograd.grad(outputs, inputs)` does not ask for, so this only keeps the flag.
    """
    global weight_gradients_disabled
    before, weight_gradients_disabled = weight_gradients_disabled, True
    try:
        yield
    finally:
        weight_gradients_disabled = before


def conv2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None,
    stride=1, padding=0, dilation=1, groups: int = 1,
) -> torch.Tensor:
    """torch.nn.functional.conv2d."""
    return F.conv2d(input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv_transpose2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None,
    stride=1, padding=0, output_padding=0, groups: int = 1, dilation=1,
) -> torch.Tensor:
    """torch.nn.functional.conv_transpose2d."""
    return F.conv_transpose2d(
        input, weight, bias, stride=stride, padding=padding, output_padding=output_padding, groups=groups,
        dilation=dilation,
    )
