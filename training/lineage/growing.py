"""Progressive growing: how much of a network is in use, and how images pass between resolutions.

Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation" (arXiv:1710.10196),
section 2 and Figure 2. A *stage* is a number: at stage 2 networks work at their third level, 16x16 pixels for square
images; at stage 1.25 that level counts for a quarter beside the one below. It grows without a jump, so that an image
never changes at the moment of a switch.

Letters in shapes: N batch, C channels, H W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def stage_at(nimg: int, last: int, fade_nimg: float, hold_nimg: float, first: int = 0) -> float:
    """The stage after `nimg` images: each level is held, then the next one fades in, up to the stage `last`."""
    periods, rest = divmod(nimg, fade_nimg + hold_nimg)
    return min(first + periods + max(rest - hold_nimg, 0) / fade_nimg, float(last))


def nimg_at(stage: float, fade_nimg: float, hold_nimg: float, first: int = 0) -> int:
    """The number of images after which `stage_at` first gives this stage: its inverse, to carry on with a network."""
    periods, part = divmod(stage - first, 1)
    nimg = periods * (fade_nimg + hold_nimg) + (hold_nimg + part * fade_nimg if part else 0)
    return max(round(nimg), 0)


def split_stage(stage: float) -> tuple[int, float]:
    """Index of the highest level in use, and its share in 0..1 beside the level below."""
    index = math.ceil(stage)
    return index, 1.0 if index == stage else stage - (index - 1)


def enlarge(img: torch.Tensor, size: tuple[int, int] | list[int]) -> torch.Tensor:
    """Repeat pixels: [N, C, h, w] -> [N, C, H, W], the sides multiples of those before."""
    return img if list(img.shape[2:]) == list(size) else F.interpolate(img, size=list(size), mode="nearest")


def reduce(img: torch.Tensor, size: tuple[int, int] | list[int]) -> torch.Tensor:
    """Average pixels: [N, C, H, W] -> [N, C, h, w], of whose sides those before are multiples."""
    if list(img.shape[2:]) == list(size):
        return img
    return F.avg_pool2d(img, [a // b for a, b in zip(img.shape[2:], size, strict=True)])


def fade(before: torch.Tensor, after: torch.Tensor, share: float) -> torch.Tensor:
    """`after` for a share of 1, `before`, enlarged, for 0, and a mixture between. [N, C, H, W]"""
    return after if share == 1 else enlarge(before, list(after.shape[2:])).lerp(after, share)


def fade_reals(img: torch.Tensor, stage: float, sizes: list[list[int]]) -> torch.Tensor:
    """Real images as a generator at this stage could draw them: reduced, and blurred as far as the last level is new.

    sizes: [height, width] of every level.  [N, C, H, W] -> the same size.
    """
    index, share = split_stage(stage)
    seen = reduce(img, sizes[index])
    seen = fade(reduce(seen, sizes[index - 1]), seen, share) if share < 1 else seen
    return enlarge(seen, list(img.shape[2:]))
