"""Sliced Wasserstein distance of Laplacian pyramid patches (Karras et al. 2018, arXiv:1710.10196, section 5).

Letters: N images, C channels, P patches per image, F = C * 7 * 7 numbers per patch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F

from dnnlib.util import UserError

from . import metric_utils, sampling

PATCH_SIZE = 7
PATCHES_PER_IMAGE = 128
NUM_DIRECTIONS = 512
DIRECTIONS_AT_A_TIME = 16   # a matrix product is many times faster than as many products with vectors
MIN_RESOLUTION = 16     # of the coarsest pyramid level
SCALE = 1000            # the published tables multiply the distance by this


def pyramid_resolutions(height: int, width: int) -> list[int]:
    """Shorter sides of the pyramid levels, finest first."""
    if min(height, width) < PATCH_SIZE + 1:
        raise UserError(f"patches of {PATCH_SIZE}x{PATCH_SIZE} need images of at least {PATCH_SIZE + 1} pixels, "
                        f"got {height}x{width}")
    sides = [min(height, width)]
    while height % 2 == width % 2 == 0 and sides[-1] // 2 >= MIN_RESOLUTION:
        height, width = height // 2, width // 2
        sides.append(min(height, width))
    return sides


def smooth(img: torch.Tensor, gain: float = 1) -> torch.Tensor:
    """Filter with the 5 x 5 binomial kernel, mirrored at the border. `[N, C, H, W]`"""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=img.device) / 16
    kernel = (gain * taps[:, None] * taps).repeat(img.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(img, [2, 2, 2, 2], mode="reflect"), kernel, groups=img.shape[1])


def laplacian_pyramid(img: torch.Tensor, num_levels: int) -> list[torch.Tensor]:
    """What each level of the Gaussian pyramid adds to the next coarser one, finest first; the coarsest stays whole."""
    levels = []
    for _ in range(num_levels - 1):
        coarse = smooth(img)[:, :, ::2, ::2]
        spread = torch.zeros_like(img)
        spread[:, :, ::2, ::2] = coarse
        levels.append(img - smooth(spread, gain=4))
        img = coarse
    return [*levels, img]


def draw_patches(level: torch.Tensor, seeds: Iterable[int]) -> torch.Tensor:
    """P random patches of every image, each from the generator of its own seed: `[N, C, H, W]` -> `[N, P * F]`."""
    offsets = torch.arange(PATCH_SIZE)
    patches = []
    for img, seed in zip(level, seeds, strict=True):
        gen = torch.Generator().manual_seed(seed)
        rows, cols = (torch.randint(side - PATCH_SIZE + 1, [PATCHES_PER_IMAGE, 1], generator=gen)
                      for side in img.shape[1:])
        picked = img[:, (rows + offsets)[:, :, None], (cols + offsets)[:, None, :]]   # [C, P, 7, 7]
        patches.append(picked.transpose(0, 1).flatten())
    return torch.stack(patches)


def normalize_channels(patches: np.ndarray, num_channels: int) -> np.ndarray:
    """Zero mean and unit deviation of every channel over the whole set, in place. `[M, F]`"""
    by_channel = patches.reshape(len(patches), num_channels, -1)
    for c in range(num_channels):
        values = by_channel[:, c]
        values -= values.mean(dtype=np.float64)
        values /= max(values.std(dtype=np.float64), 1e-12)
    return patches


def sliced_wasserstein(
    a: np.ndarray,              # [M, F]
    b: np.ndarray,              # [M, F]
    num_directions: int,
    rng: np.random.RandomState,
) -> float:
    """Mean over random directions of the 1-Wasserstein distance between the projections of two sets of equal size."""
    if a.shape != b.shape:
        raise UserError(f"both sets must have one shape, got {list(a.shape)} and {list(b.shape)}")
    directions = rng.randn(num_directions, a.shape[1]).astype(a.dtype)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = 0.0
    for i in range(0, num_directions, DIRECTIONS_AT_A_TIME):
        part = directions[i : i + DIRECTIONS_AT_A_TIME]
        # In one dimension the best transport pairs the values in their order.
        total += float(np.abs(np.sort(part @ a.T) - np.sort(part @ b.T)).mean(axis=1, dtype=np.float64).sum())
    return total / num_directions


def collect_patches(
    opts: metric_utils.MetricOptions,
    batches: Iterable[torch.Tensor],   # this rank's images, uint8 [N, C, H, W]
    num_items: int,
    resolutions: list[int],
    side: int,                         # 0 real, 1 generated: their patches lie at different places
    tag: str,
) -> list[np.ndarray]:                 # per level [num_items * P, F] float32
    levels = [metric_utils.FeatureStats(capture_all=True, max_items=num_items) for _ in resolutions]
    progress = opts.progress.sub(tag=tag, num_items=num_items)
    index, num_channels = opts.rank, 0
    for images in batches:
        num_channels = images.shape[1]
        numbers = [index + i * opts.num_gpus for i in range(len(images))]
        index += len(images) * opts.num_gpus
        pyramid = laplacian_pyramid(images.to(opts.device, torch.float32), len(resolutions))
        for k, (stats, level) in enumerate(zip(levels, pyramid, strict=True)):
            seeds = [sampling.item_seed(opts.seed or 0, sampling.STREAM_PATCHES, (2 * i + side) * 16 + k)
                     for i in numbers]
            stats.append_torch(draw_patches(level, seeds), opts.num_gpus, opts.rank)
        progress.update(levels[0].num_items)
    return [stats.get_all().reshape(-1, num_channels * PATCH_SIZE**2) for stats in levels]


def compute_swd(
    opts: metric_utils.MetricOptions,
    max_real: int | None,
    num_gen: int,
    batch_size: int = 64,
) -> dict[int, float]:   # resolution of the level -> distance * 1000
    """Distance of each pyramid level between equally many real and generated images; NaN on ranks other than 0.

    Holds the patches of both sides in memory: 75 kB per colour image and level.
    """
    dataset = metric_utils.open_dataset(opts)
    num_items = min(len(dataset), num_gen if max_real is None else min(max_real, num_gen))
    resolutions = pyramid_resolutions(*dataset.image_shape[1:])
    data_hash = metric_utils.on_rank_0(opts, lambda: metric_utils.hash_of_dataset(opts))
    opts.provenance.update(
        num_real=num_items, num_generated=num_items, data=data_hash, resize="none",
        rounding="x * 127.5 + 128, clamped, truncated to uint8", num_directions=NUM_DIRECTIONS,
        patches_per_image=PATCHES_PER_IMAGE)
    batch_size = opts.batch_size or batch_size
    real = collect_patches(
        opts, metric_utils.iterate_images(opts, dataset, num_items, batch_size), num_items, resolutions, 0,
        "dataset patches")
    gen = collect_patches(
        opts, metric_utils.iterate_generated(opts, num_items, batch_size), num_items, resolutions, 1,
        "generator patches")
    if opts.rank != 0:
        return dict.fromkeys(resolutions, float("nan"))
    rng = np.random.RandomState(sampling.item_seed(opts.seed or 0, sampling.STREAM_SUBSETS, 1) % 2**32)
    return {
        side: SCALE * sliced_wasserstein(
            normalize_channels(a, dataset.num_channels), normalize_channels(b, dataset.num_channels),
            NUM_DIRECTIONS, rng)
        for side, a, b in zip(resolutions, real, gen, strict=True)}
