"""Kernel distance between two sets of features (Binkowski et al. 2018, arXiv:1801.01401)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dnnlib.util import UserError

from . import detectors, metric_utils, sampling

TILE = 1024   # rows of a kernel matrix held at a time


def kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """Sum over all pairs of the cubic kernel (a.b / F + 1)^3, a few rows at a time. x `[m, F]`, y `[n, F]`."""
    scaled = y.T / x.shape[1]
    return float(sum(((x[i : i + TILE] @ scaled + 1) ** 3).sum() for i in range(0, len(x), TILE)))


def kernel_diagonal_sum(x: np.ndarray) -> float:
    """Sum of the kernel of each row with itself."""
    return float(((np.square(x).sum(axis=1) / x.shape[1] + 1) ** 3).sum())


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of two samples of equal size `[m, F]`."""
    m = len(x)
    within = kernel_sum(x, x) - kernel_diagonal_sum(x) + kernel_sum(y, y) - kernel_diagonal_sum(y)
    return within / (m * (m - 1)) - 2 * kernel_sum(x, y) / m**2


def check_sizes(num_real: int, num_gen: int) -> None:
    if min(num_real, num_gen) < 2:
        raise UserError(f"the kernel distance needs at least 2 images on each side, got {num_real} and {num_gen}")


def kernel_distance(
    real: np.ndarray,        # [n_r, F]
    gen: np.ndarray,         # [n_g, F]
    num_subsets: int,
    max_subset_size: int,
    rng: Any = np.random,    # anything with numpy's `choice`; the module itself is numpy's global generator
) -> float:
    """Mean of `squared_mmd` over random subsets, drawn without replacement, generated before real."""
    check_sizes(len(real), len(gen))
    m = min(len(real), len(gen), max_subset_size)
    total = 0.0
    for _ in range(num_subsets):
        x = gen[rng.choice(len(gen), m, replace=False)].astype(np.float64)
        y = real[rng.choice(len(real), m, replace=False)].astype(np.float64)
        total += squared_mmd(x, y)
    return total / num_subsets


def compute_kid(
    opts: metric_utils.MetricOptions,
    max_real: int | None,
    num_gen: int,
    num_subsets: int,
    max_subset_size: int,
    detector_url: str = detectors.INCEPTION_URL,
    detector_kwargs: dict[str, Any] | None = None,   # default: return_features=True
) -> float:
    """Kernel distance between real and generated images; NaN on ranks other than 0.

    Without `opts.seed` the subsets come from numpy's global generator, as in the reference host.
    """
    detector_kwargs = dict(return_features=True) if detector_kwargs is None else detector_kwargs
    real = metric_utils.compute_feature_stats_for_dataset(
        opts=opts, detector_url=detector_url, detector_kwargs=detector_kwargs,
        rel_lo=0, rel_hi=0, capture_all=True, max_items=max_real)
    gen = metric_utils.compute_feature_stats_for_generator(
        opts=opts, detector_url=detector_url, detector_kwargs=detector_kwargs,
        rel_lo=0, rel_hi=1, capture_all=True, max_items=num_gen)
    if opts.rank != 0:
        return float("nan")
    rng: Any = np.random
    if opts.seed is not None:
        rng = np.random.RandomState(sampling.item_seed(opts.seed, sampling.STREAM_SUBSETS, 0) % 2**32)
    return kernel_distance(real.get_all(), gen.get_all(), num_subsets, max_subset_size, rng)
