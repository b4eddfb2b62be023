"""Multiply and add in one pass over memory."""

from __future__ import annotations

import torch


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a*b + c with broadcasting; gradients have the shape of each input, to any order."""
    return torch.addcmul(c, a, b)
