"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991)."""

from __future__ import annotations

from typing import Any

import torch

from dnnlib.util import UserError

from . import detectors, metric_utils

# The result does not depend on the tile, only memory does: 2048 x 2048 distances are 16 MB.
MAX_TILE = 2048


def kth_neighbour_distance(
    manifold: torch.Tensor,   # [n, F]
    nhood_size: int,          # k
    row_batch_size: int,
    col_batch_size: int,
) -> torch.Tensor:            # [n]
    """Distance from each point to its k-th nearest other point."""
    radii = []
    for rows in manifold.split(min(row_batch_size, MAX_TILE)):
        nearest = torch.empty([len(rows), 0], device=manifold.device)
        for cols in manifold.split(min(col_batch_size, MAX_TILE)):
            nearest = torch.cat([nearest, torch.cdist(rows.float(), cols.float())], dim=1)
            # One more than k, because each point is its own nearest neighbour.
            nearest = nearest.topk(min(nhood_size + 1, nearest.shape[1]), dim=1, largest=False).values
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def fraction_within(
    manifold: torch.Tensor,   # [n, F]
    radii: torch.Tensor,      # [n]
    probes: torch.Tensor,     # [m, F]
    row_batch_size: int,
    col_batch_size: int,
) -> float:
    """Share of the probes that lie within the radius of at least one manifold point."""
    count = 0
    col_tile = min(col_batch_size, MAX_TILE)
    for rows in probes.split(min(row_batch_size, MAX_TILE)):
        inside = torch.zeros(len(rows), dtype=torch.bool, device=probes.device)
        for cols, r in zip(manifold.split(col_tile), radii.split(col_tile), strict=True):
            inside |= (torch.cdist(rows.float(), cols.float()) <= r).any(dim=1)
        count += int(inside.sum())
    return count / len(probes)


def check_sizes(num_real: int, num_gen: int, nhood_size: int) -> None:
    for num, side in ((num_real, "real"), (num_gen, "generated")):
        if num <= nhood_size:
            raise UserError(f"{nhood_size} neighbours need more than {nhood_size} {side} images, got {num}")


def precision_recall(
    real: torch.Tensor,   # [n_r, F]
    gen: torch.Tensor,    # [n_g, F]
    nhood_size: int = 3,
    row_batch_size: int = 10_000,
    col_batch_size: int = 10_000,
) -> tuple[float, float]:
    """Share of generated images inside the manifold of real ones, and the other way round."""
    check_sizes(len(real), len(gen), nhood_size)
    precision, recall = (
        fraction_within(
            manifold, kth_neighbour_distance(manifold, nhood_size, row_batch_size, col_batch_size),
            probes, row_batch_size, col_batch_size)
        for manifold, probes in ((real, gen), (gen, real)))
    return precision, recall


def compute_pr(
    opts: metric_utils.MetricOptions,
    max_real: int | None,
    num_gen: int,
    nhood_size: int,
    row_batch_size: int,
    col_batch_size: int,
) -> tuple[float, float]:
    """Precision and recall in VGG16 features rounded to half precision, as the host does; NaN on ranks other than 0."""
    detector_kwargs = dict(return_features=True)
    kwargs: dict[str, Any] = dict(opts=opts, detector_url=detectors.VGG16_URL, detector_kwargs=detector_kwargs)
    real = metric_utils.compute_feature_stats_for_dataset(
        **kwargs, rel_lo=0, rel_hi=0, capture_all=True, max_items=max_real)
    gen = metric_utils.compute_feature_stats_for_generator(
        **kwargs, rel_lo=0, rel_hi=1, capture_all=True, max_items=num_gen)
    if opts.rank != 0:
        return float("nan"), float("nan")
    real_features, gen_features = (stats.get_all_torch().to(torch.float16).to(opts.device) for stats in (real, gen))
    return precision_recall(real_features, gen_features, nhood_size, row_batch_size, col_batch_size)
