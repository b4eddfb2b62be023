"""Distortion in other spaces than that of pixels: features of a network, and patches that may trade places.

"MSE in pixel space is a priori a terrible choice, with the Earth Mover's distance or MSE on feature spaces being
semantically more meaningful" (Hong et al. 2020, arXiv:2006.05394, on future work). Functions here have the form of
`ssn_plugin.distortion.mean_outside_change`: images before and after [N, C, H, W] in -1..1 and the mask [N, H, W] bool
of the redrawn block -> [N]. All are differentiable twice and of fixed shapes, and none waits for a GPU.

Letters: N batch, C channels, H W pixels, R S rows and columns of the block grid, B = R*S blocks, D directions,
k side of a patch, P patches of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from ssn_plugin.config import SPACES
from ssn_plugin.distortion import block_means
from ssn_plugin.errors import UserError
from ssn_plugin.pixels import to_three_channels

PATCH = 7         # side of a patch, as in the sliced Wasserstein distance of Karras et al. 2018 (arXiv:1710.10196)
DIRECTIONS = 64   # drawn anew for every batch
VGG_BLOCKS = 3    # of the random VGG16: the fourth costs as much as two of them, and sees 92 pixels

Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Features = Callable[[torch.Tensor], list[torch.Tensor]]   # images [N, 3, H, W] in 0..255 -> maps [N, F, h, w]


def outside_change_in(space: str, block_grid: Sequence[int], device: torch.device) -> Change:
    """The measure of what changed outside the block, in one of SPACES other than pixels."""
    if space == "wasserstein":
        return functools.partial(patch_outside_change, block_grid=block_grid)
    return functools.partial(feature_outside_change, features=load_features(space, device))


def feature_outside_change(
    before: torch.Tensor, after: torch.Tensor, resampled: torch.Tensor, features: Features
) -> torch.Tensor:
    """Squared change of features, averaged over positions and layers, per position outside the block.

    The block's pixels are those of `before` in both images. So what changed inside has no effect, however far
    receptive fields reach, no position of a layer must be left out, and any network will do. With the pixels themselves
    as features this is the mean squared change outside, times C.  Returns [N]; 0 where the whole image may change.
    """
    kept = torch.where(resampled[:, None], before, after)
    img = to_three_channels((torch.cat([before, kept]) + 1) * 127.5)
    layers = [(a - b).square().sum(dim=1).mean(dim=[1, 2]) for a, b in (x.chunk(2) for x in features(img))]   # [N] each
    share = (~resampled).to(before.dtype).mean(dim=[1, 2])
    return torch.stack(layers).mean(dim=0) / share.clamp(min=1 / resampled[0].numel())


def patch_outside_change(
    before: torch.Tensor, after: torch.Tensor, resampled: torch.Tensor, block_grid: Sequence[int]
) -> torch.Tensor:
    """Sliced Wasserstein distance, squared, between the patches of each block before and after; mean over the others.

    Patches lie within one block, among whose patches order does not count: leaves may rustle, but not become sky.
    If every pixel changes by c this is c^2 on average over the directions.  Returns [N]; 0 where there is one block.
    """
    side = min(PATCH, before.shape[2] // block_grid[0], before.shape[3] // block_grid[1])
    directions = F.normalize(torch.randn([DIRECTIONS, before.shape[1] * side * side], device=before.device))
    kernels = directions.reshape(DIRECTIONS, before.shape[1], side, side)
    distance = sliced_wasserstein(*(project_patches(img, block_grid, kernels) for img in (before, after)))   # [N, B]
    others = 1 - block_means(resampled.to(distance.dtype), block_grid).flatten(1)
    return (distance * others).sum(dim=1) / others.sum(dim=1).clamp(min=1)


def project_patches(img: torch.Tensor, block_grid: Sequence[int], directions: torch.Tensor) -> torch.Tensor:
    """All patches of every block on directions [D, C, k, k]: [N, C, H, W] -> [N, B, D, P]

    The grid divides the image into equal blocks, none of which is smaller than a patch.
    """
    rows, cols = block_grid
    n, c, height, width = img.shape
    blocks = img.reshape(n, c, rows, height // rows, cols, width // cols).permute(0, 2, 4, 1, 3, 5)
    return F.conv2d(blocks.flatten(0, 2), directions).flatten(2).unflatten(0, [n, rows * cols])


def sliced_wasserstein(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared 2-Wasserstein distance of projections [..., D, P], averaged over directions (Rabin et al. 2011). [...]"""
    return (a.sort(dim=-1).values - b.sort(dim=-1).values).square().mean(dim=[-2, -1])


def load_features(space: str, device: torch.device) -> Features:
    """Feature maps of unit length at every position, as in LPIPS. UserError where their network cannot be had."""
    try:
        from metrics import detectors, random_vgg16

        if space == "features":
            vgg = random_vgg16.RandomVGG16().eval().requires_grad_(False).to(device)
            return lambda img: [unit_length(x) for x in vgg.maps(img, VGG_BLOCKS)]
        if space == "features-efficientnet":
            network = detectors.load(detectors.EFFICIENTNET_URL, device)
            return lambda img: [unit_length(x) for x in network.pyramid(img)]
        if space == "features-lpips":
            lpips = detectors.load(detectors.VGG16_URL, device)   # TorchScript, which has no requires_grad_ of its own
            for parameter in lpips.parameters():
                parameter.requires_grad_(False)
            return lambda img: [lpips(img, resize_images=False, return_lpips=True)[:, :, None, None]]
    except ImportError as err:   # another host
        raise UserError(f"--distortion-space={space} needs the networks in this project's own metrics/: {err}") from err
    except OSError as err:
        raise UserError(f"--distortion-space={space}: {err}") from err
    raise UserError(f"distortion space must be one of {', '.join(SPACES)}, got {space!r}")


def unit_length(x: torch.Tensor) -> torch.Tensor:
    """Scale the features at every position to a vector of length 1; zero stays zero, with a derivative. [N, F, h, w]"""
    return x * (x.square().sum(dim=1, keepdim=True) + 1e-8).rsqrt()
