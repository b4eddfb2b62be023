"""Numbers of an SSN, with 95 % confidence intervals: distortion, diversity, locality, leaks, distances of features.

Letters: N pairs or images, B = R*S blocks of the latent grid, F features. A pair is explained in `measures/pairs.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from ssn_plugin.block_grid import block_grid_of
from ssn_plugin.distortion import block_mask, block_means, mean_inside_change, mean_outside_change
from ssn_plugin.errors import UserError
from ssn_plugin.measures.pairs import measure_pairs
from ssn_plugin.pixels import to_three_channels

Z_95 = 1.959964   # standard deviations of a normal distribution that hold 95 %


class Estimate(NamedTuple):
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


# Estimates


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean of independent values `[N]`; the interval is that of a normal mean, and NaN for a single value."""
    values = np.asarray(values, dtype=np.float64)
    return _interval(values.mean(), _standard_error(values))


def ratio_estimate(numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
    """Mean of one over mean of the other, for pairs of values `[N]`; the interval comes from the delta method."""
    numerator, denominator = (np.asarray(x, dtype=np.float64) for x in (numerator, denominator))
    if denominator.mean() == 0:
        value = float("inf") if numerator.mean() > 0 else float("nan")
        return Estimate(value, value, value)
    ratio = numerator.mean() / denominator.mean()
    return _interval(ratio, _standard_error(numerator - ratio * denominator) / abs(denominator.mean()))


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _interval(value: float, standard_error: float) -> Estimate:
    return Estimate(float(value), float(value - Z_95 * standard_error), float(value + Z_95 * standard_error))


def distortion_statistics(
    G: Any,
    num_pairs: int,
    **sampling: Any,   # fields of `Sampling`
) -> dict[str, Estimate]:
    """How much redrawing one block changes elsewhere, and in it.

    distortion: mean squared change outside the block, the paper's Table 2.  diversity: the same inside it.
    locality: diversity / distortion.
    """
    grid = block_grid_of(G, "the network")
    if grid[0] * grid[1] < 2:
        raise UserError(f"distortion needs at least 2 blocks, the network has a {grid[0]}x{grid[1]} grid")

    def measure(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        resampled = block_mask(blocks, grid, *before.shape[2:])
        change = (mean_outside_change(before, after, resampled), mean_inside_change(before, after, resampled))
        return torch.stack(change, dim=1)

    outside, inside = measure_pairs(G, num_pairs, measure, **sampling).T
    return dict(distortion=mean_estimate(outside), diversity=mean_estimate(inside),
                locality=ratio_estimate(inside, outside))


class LeakMatrix(NamedTuple):
    """Mean squared change of block j (column) when block i (row) is redrawn."""

    mean: np.ndarray         # [B, B]
    half_width: np.ndarray   # [B, B]  of the 95 % interval; NaN where fewer than 2 pairs redrew the block
    inside: Estimate         # mean of the diagonal
    outside: Estimate        # mean of all other entries


def leak_matrix(
    G: Any,
    num_pairs: int,    # together; every block is redrawn in an equal share of them
    **sampling: Any,   # fields of `Sampling`
) -> LeakMatrix:
    """Which blocks change when one of them is redrawn."""
    grid = block_grid_of(G, "the network")
    num_blocks = grid[0] * grid[1]
    if num_blocks < 2 or num_pairs < num_blocks:
        raise UserError(f"a leak matrix needs at least 2 blocks and a pair for each of them, got {num_blocks} blocks "
                        f"and {num_pairs} pairs")

    def measure(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        return block_means((after - before).square().mean(dim=1), grid).flatten(1)

    change = measure_pairs(G, num_pairs, measure, uniform_blocks=False, **sampling)
    blocks = np.arange(num_pairs) % num_blocks                     # [N], as `measure_pairs` redraws them
    by_block = [change[blocks == i].astype(np.float64) for i in range(num_blocks)]
    mean = np.stack([rows.mean(axis=0) for rows in by_block])
    half_width = np.stack([
        Z_95 * rows.std(axis=0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.full(num_blocks, np.nan)
        for rows in by_block])
    inside = change[np.arange(num_pairs), blocks].astype(np.float64)
    outside = (change.sum(axis=1, dtype=np.float64) - inside) / (num_blocks - 1)
    return LeakMatrix(mean, half_width, mean_estimate(inside), mean_estimate(outside))


def lpips_statistics(
    G: Any,
    num_pairs: int,
    detector: Callable[..., torch.Tensor],   # image 0..255 -> vector whose squared distance is perceptual
    **sampling: Any,                         # fields of `Sampling`
) -> dict[str, Estimate]:
    """Perceptual distance (Zhang et al. 2018) between an image and itself with only the outside, or inside, changed.

    The mixed images are hard pastes along the border of the block, which both distances see.
    """
    grid = block_grid_of(G, "the network")

    def features(img: torch.Tensor) -> torch.Tensor:
        return detector(to_three_channels((img.clamp(-1, 1) + 1) * 127.5), resize_images=False, return_lpips=True)

    def measure(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        resampled = block_mask(blocks, grid, *before.shape[2:])[:, None]
        reference = features(before)
        mixed = (torch.where(resampled, before, after), torch.where(resampled, after, before))
        return torch.stack([(features(img) - reference).square().sum(dim=1) for img in mixed], dim=1)

    outside, inside = measure_pairs(G, num_pairs, measure, **sampling).T
    return dict(lpips_outside=mean_estimate(outside), lpips_inside=mean_estimate(inside),
                lpips_locality=ratio_estimate(inside, outside))


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features `[N, F]`, in float64.

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr sqrt(S1 S2). With S = X'X the last trace is the sum of the singular values of
    X1 X2', and these are the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2): whichever matrix is smaller.
    It stands here because the reference host has no such function, and that of this project's host takes covariances.
    """
    mean1, mean2 = (f.mean(axis=0, dtype=np.float64) for f in (x, y))
    x1, x2 = (x - mean1) / np.sqrt(len(x)), (y - mean2) / np.sqrt(len(y))
    if min(len(x), len(y)) < x.shape[1]:
        trace_root = np.linalg.svd(x1 @ x2.T, compute_uv=False).sum()
    else:
        values, vectors = np.linalg.eigh(x1.T @ x1)
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        trace_root = np.sqrt(np.linalg.eigvalsh(root @ (x2.T @ x2) @ root).clip(min=0)).sum()
    distance = np.square(mean1 - mean2).sum() + np.square(x1).sum() + np.square(x2).sum() - 2 * trace_root
    return max(float(distance), 0.0)


def jackknife_estimate(statistic: Callable[[np.ndarray], float], num_items: int, num_groups: int = 10) -> Estimate:
    """`statistic(kept indices)` with an interval from leaving out each of `num_groups` groups of items in turn."""
    everything = np.arange(num_items)
    num_groups = min(num_groups, num_items)
    parts = np.array([statistic(everything[everything % num_groups != g]) for g in range(num_groups)])
    standard_error = np.sqrt((num_groups - 1) * parts.var())
    return _interval(statistic(everything), standard_error)
