"""Inception score (Salimans et al. 2016, arXiv:1606.03498)."""

from __future__ import annotations

import numpy as np

from dnnlib.util import UserError

from . import detectors, metric_utils


def check_size(num_images: int, num_splits: int) -> None:
    if num_images < num_splits:
        raise UserError(f"{num_splits} splits need at least {num_splits} images, got {num_images}")


def inception_score(probs: np.ndarray, num_splits: int) -> tuple[float, float]:
    """exp(mean KL(p(y|x) || p(y))) of `num_splits` consecutive parts of `probs` `[N, classes]`: mean and deviation."""
    check_size(len(probs), num_splits)
    bounds = [i * len(probs) // num_splits for i in range(num_splits + 1)]
    scores = []
    for lo, hi in zip(bounds[:-1], bounds[1:], strict=True):
        part = probs[lo:hi].astype(np.float64)
        marginal = part.mean(axis=0, keepdims=True)
        # p log p tends to 0 with p; a class of probability 0 contributes nothing.
        ratio = np.divide(part, marginal, out=np.ones_like(part), where=part > 0)
        scores.append(np.exp((part * np.log(ratio)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def compute_is(opts: metric_utils.MetricOptions, num_gen: int, num_splits: int) -> tuple[float, float]:
    """Mean and deviation of the Inception score over the splits; NaN on ranks other than 0."""
    gen = metric_utils.compute_feature_stats_for_generator(
        opts=opts, detector_url=detectors.INCEPTION_URL, detector_kwargs=dict(no_output_bias=True),
        capture_all=True, max_items=num_gen)
    if opts.rank != 0:
        return float("nan"), float("nan")
    return inception_score(gen.get_all(), num_splits)
