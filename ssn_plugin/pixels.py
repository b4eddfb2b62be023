"""Tensors of images to 8 bits, and to the three channels that a detector takes: as the host's scripts do it.

The plugin has these of its own, since the reference host has no functions for them.
"""

from __future__ import annotations

import torch

from ssn_plugin.errors import UserError


def to_uint8(img: torch.Tensor) -> torch.Tensor:
    """-1..1 -> 0..255: x * 127.5 + 128, clamped, the fraction cut off."""
    return (img * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def check_picture(img: torch.Tensor) -> None:
    """Raise ValueError unless an image [..., C, H, W] can be written to a file: gray, RGB or RGBA, of numbers."""
    if img.shape[-3] not in (1, 3, 4):
        raise UserError(f"pictures have 1, 3 or 4 channels, the network makes {img.shape[-3]}")
    if not img.isfinite().all():
        raise UserError("the network makes pixels that are not numbers (NaN or infinite): its weights are damaged, or "
                        "its training diverged")


def to_three_channels(img: torch.Tensor) -> torch.Tensor:
    """What a detector sees of images in 0..255: gray as three equal channels, transparency as white. [N, 3, H, W]"""
    if img.shape[1] == 1:
        return img.repeat(1, 3, 1, 1)
    if img.shape[1] == 4:
        opacity = img[:, 3:].float() / 255
        on_white = img[:, :3] * opacity + 255 * (1 - opacity)
        return on_white if img.is_floating_point() else on_white.round().to(img.dtype)
    return img
