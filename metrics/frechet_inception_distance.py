"""Frechet distance between two sets of features (Heusel et al. 2017, arXiv:1706.08500)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from dnnlib.util import UserError

from . import detectors, metric_utils


def sqrt_psd(matrix: np.ndarray) -> np.ndarray:
    """Symmetric square root of a symmetric positive semi-definite matrix `[F, F]`."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def frechet_distance(
    mean1: np.ndarray,   # [F]
    cov1: np.ndarray,    # [F, F]
    mean2: np.ndarray,   # [F]
    cov2: np.ndarray,    # [F, F]
) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians, in float64.

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr sqrt(S1 S2). The product S1 S2 has the eigenvalues of the symmetric matrix
    S1^(1/2) S2 S1^(1/2), so that its root needs no general matrix square root, which is slower and can turn complex.
    Rounding may push the distance of equal Gaussians below zero; such a result is returned as 0.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(x, dtype=np.float64) for x in (mean1, cov1, mean2, cov2))
    root = sqrt_psd(cov1)
    product = root @ cov2 @ root
    values = np.linalg.eigvalsh((product + product.T) / 2)
    trace_root = np.sqrt(np.clip(values, 0, None)).sum()
    distance = float(np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * trace_root)
    # An eigenvalue that should be 0 comes out as large as rounding * scale, and its root enters the sum.
    scale = float(np.trace(cov1) + np.trace(cov2))
    tolerance = len(mean1) * np.sqrt(np.finfo(np.float64).eps) * max(scale, 1.0)
    if distance < -tolerance:
        raise UserError(f"the Frechet distance is {distance:g}: the covariances are not positive semi-definite")
    return max(distance, 0.0)


def warn_if_rank_deficient(num_items: int, num_features: int | None, side: str) -> None:
    """A covariance of N samples has rank below N; with fewer samples than features the distance is biased upward."""
    if num_features is not None and num_items <= num_features:
        warnings.warn(
            f"{num_items} {side} images for {num_features} features: the covariance is rank-deficient and the Frechet "
            f"distance biased upward; compare only results of equal N",
            stacklevel=3,
        )


def compute_fid(
    opts: metric_utils.MetricOptions,
    max_real: int | None,
    num_gen: int,
    detector_url: str = detectors.INCEPTION_URL,
    detector_kwargs: dict[str, Any] | None = None,   # default: return_features=True
) -> float:
    """Frechet distance between at most `max_real` real and `num_gen` generated images; NaN on ranks other than 0."""
    detector_kwargs = dict(return_features=True) if detector_kwargs is None else detector_kwargs
    real = metric_utils.compute_feature_stats_for_dataset(
        opts=opts, detector_url=detector_url, detector_kwargs=detector_kwargs,
        rel_lo=0, rel_hi=0, capture_mean_cov=True, max_items=max_real)
    gen = metric_utils.compute_feature_stats_for_generator(
        opts=opts, detector_url=detector_url, detector_kwargs=detector_kwargs,
        rel_lo=0, rel_hi=1, capture_mean_cov=True, max_items=num_gen)
    if opts.rank != 0:
        return float("nan")
    for stats, side in ((real, "real"), (gen, "generated")):
        warn_if_rank_deficient(stats.num_items, stats.num_features, side)
    return frechet_distance(*gen.get_mean_cov(), *real.get_mean_cov())
