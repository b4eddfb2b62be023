"""The plugin's metrics under the names by which the host knows them: `ssn_distortion1k`, `ssn_leak10k`, ...

Importing this file registers them. What they compute stands in `ssn_plugin/measures/`.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import dnnlib
from metrics import metric_main, metric_utils
from ssn_plugin.block_grid import block_grid_of
from ssn_plugin.edits.resample import keyed_normal
from ssn_plugin.errors import UserError
from ssn_plugin.files import open_atomic, save_png
from ssn_plugin.hosts import host
from ssn_plugin.measures.leak_map import draw_leak_map
from ssn_plugin.measures.pairs import (
    LABEL_STREAM,
    LATENT_STREAM,
    LabelFn,
    Sampling,
    draw_labels,
    draw_noise,
    redraw_all_blocks,
    run_network,
)
from ssn_plugin.measures.statistics import (
    Estimate,
    LeakMatrix,
    distortion_statistics,
    frechet_distance,
    jackknife_estimate,
    leak_matrix,
    lpips_statistics,
)
from ssn_plugin.pixels import to_three_channels, to_uint8

DETECTORS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
INCEPTION_URL = DETECTORS + "inception-2015-12-05.pt"
VGG16_URL = DETECTORS + "vgg16.pt"
RANDOM_VGG16_URL = "builtin:random-vgg16-seed0"   # of this project's host, as the next one
STLPIPS_URL = "package:stlpips-pytorch"

Detector = Callable[..., torch.Tensor]   # images [N, 3, H, W] in 0..255 -> [N, F]


def distortion_metric(opts: Any, name: str, count: int) -> dict[str, float]:
    """Distortion, diversity and locality of `count` pairs."""
    estimates = distortion_statistics(opts.G, count, **_of_pairs(opts, count))
    return _flatten(name, {"": estimates.pop("distortion"), **estimates})


def leak_metric(opts: Any, name: str, count: int) -> dict[str, float]:
    """Mean of the leak matrix inside and outside the redrawn block; the matrix itself goes to the output folder."""
    leak = leak_matrix(opts.G, count, **_of_pairs(opts, count))
    outdir = host.current().outdir_of(opts)
    if opts.rank == 0 and outdir is not None:
        save_leak_matrix(leak, block_grid_of(opts.G, "the network"), os.path.join(outdir, name), f"{count:,} pairs")
    elif opts.rank == 0:
        warnings.warn("the leak matrix is not saved: no output folder was named", stacklevel=2)
    return _flatten(name, dict(inside=leak.inside, outside=leak.outside))


def save_leak_matrix(leak: LeakMatrix, grid: Sequence[int], path: str, note: str) -> None:
    """Write `{path}.npy`, the half widths of its intervals as `{path}-ci95.npy`, and a drawing as `{path}.png`."""
    for suffix, array in (("", leak.mean), ("-ci95", leak.half_width)):
        with open_atomic(f"{path}{suffix}.npy") as file:
            np.save(file, array)
    save_png(draw_leak_map(leak.mean, grid, note), f"{path}.png")


def lpips_metric(opts: Any, name: str, count: int, detector_url: str = VGG16_URL) -> dict[str, float]:
    """Perceptual change outside and inside the redrawn block."""
    sampling = _of_pairs(opts, count)
    return _flatten(name, lpips_statistics(opts.G, count, _load_detector(opts, detector_url), **sampling))


def consistency_metric(opts: Any, name: str, count: int, detector_url: str = INCEPTION_URL) -> dict[str, float]:
    """Frechet distance between fresh images and the same ones with every block redrawn, in random order.

    Redrawing everything must give the generator's own distribution (Hong et al. 2020, Definition 1), so the value
    should equal `_floor`, the distance between two sets of fresh images, which is above zero as the sets are finite.
    """
    if count < 20:
        raise UserError(f"consistency needs at least 20 images, got {count}")
    block_grid_of(opts.G, "the network")   # fails before a detector is loaded
    detector = functools.partial(_load_detector(opts, detector_url), return_features=True)
    fresh = image_features(opts, count, detector, first=0)
    again = image_features(opts, count, detector, first=count)
    redrawn = image_features(opts, count, detector, first=0, redraw=True)
    host.current().note(
        opts, num_generated=3 * count, rounding="x * 127.5 + 128, clamped, truncated to uint8",
        resize="inside the detector", noise="fresh for every image")
    if opts.rank == 0 and count <= fresh.shape[1]:
        warnings.warn(f"{count} images for {fresh.shape[1]} features: the covariance is rank-deficient and the Frechet "
                      f"distance biased upward, like its floor", stacklevel=2)
    if opts.rank != 0:
        unknown = Estimate(float("nan"), float("nan"), float("nan"))
        return _flatten(name, {"": unknown, "floor": unknown})
    return _flatten(name, {
        "": jackknife_estimate(lambda kept: frechet_distance(fresh[kept], redrawn[kept]), count),
        "floor": jackknife_estimate(lambda kept: frechet_distance(fresh[kept], again[kept]), count)})


@torch.no_grad()
def image_features(
    opts: Any,
    count: int,
    detector: Detector,
    first: int,             # number of the first image
    redraw: bool = False,   # redraw every block of every image?
) -> np.ndarray:            # [count, F]
    """Detector features of generated images, rounded to 8 bits as for the host's metrics."""
    how = _sampling(opts, "redrawn images" if redraw else "fresh images", count)
    G, device = how.frozen_copy(opts.G)
    stats = metric_utils.FeatureStats(capture_all=True, max_items=count)
    for batch in how.batches(count):
        numbers = [first + i for i in batch]
        z = [keyed_normal([1, G.z_dim], LATENT_STREAM, how.seed, i) for i in numbers]
        if redraw:
            z = [redraw_all_blocks(z_i, G.block_z_dim, how.seed, i) for z_i, i in zip(z, numbers, strict=True)]
        # A redrawn image has noise of its own as well: nothing of the first one may be left.
        noise = draw_noise(G, [i + 2 * count for i in numbers] if redraw else numbers, how.seed, device)
        img = run_network(G, torch.cat(z), draw_labels(G, numbers, how.seed, how.label_fn), noise, device)
        stats.append_torch(detector(to_three_channels(to_uint8(img))), num_gpus=how.num_gpus, rank=how.rank)
        how.progress.update(stats.num_items)
    return stats.get_all()


def _load_detector(opts: Any, url: str) -> Detector:
    detector = metric_utils.get_feature_detector(
        url=url, device=opts.device, num_gpus=opts.num_gpus, rank=opts.rank, verbose=opts.progress.verbose)
    host.current().note(opts, detector_name=metric_utils.get_feature_detector_name(url))
    return host.current().checked_detector(opts, detector, url)


def _sampling(opts: Any, tag: str, num_images: int) -> Sampling:
    """What the draws depend on; `tag` says in the progress line what is done."""
    return Sampling(
        seed=host.current().seed_of(opts), batch_size=host.current().batch_size_of(opts) or 16, device=opts.device,
        label_fn=_label_fn(opts), num_gpus=opts.num_gpus, rank=opts.rank,
        progress=opts.progress.sub(tag=tag, num_items=num_images))


def _of_pairs(opts: Any, num_pairs: int) -> dict[str, Any]:
    """`Sampling` as keywords, for the statistics of pairs."""
    block_grid_of(opts.G, "the network")   # fails before the data set is opened or a detector loaded
    host.current().note(
        opts, num_pairs=num_pairs, rounding="none", resize="none",
        noise="fresh for every pair, shared by its two images")
    return vars(_sampling(opts, "pairs of images", 2 * num_pairs))


def _label_fn(opts: Any) -> LabelFn | None:
    """Labels of uniformly drawn images of the data set, for a conditional network."""
    if not opts.G.c_dim:
        return None
    if "class_name" not in opts.dataset_kwargs:
        raise UserError("a conditional network takes the labels of a data set, and none is known")
    dataset = dnnlib.util.construct_class_by_name(**opts.dataset_kwargs)
    seed = host.current().seed_of(opts)
    return lambda i: dataset.get_label(np.random.RandomState([LABEL_STREAM, seed, i]).randint(len(dataset)))


def _flatten(name: str, estimates: dict[str, Estimate]) -> dict[str, float]:
    """Result keys: the metric's name and `_key` (nothing for the empty key), and both with `_low` and `_high`."""
    results: dict[str, float] = {}
    for key, estimate in estimates.items():
        label = f"{name}_{key}" if key else name
        results |= {label: estimate.value, f"{label}_low": estimate.low, f"{label}_high": estimate.high}
    return results


# Names that every host can list; one whose registry knows patterns offers any count.
FAMILIES: dict[str, tuple[Callable[..., dict[str, float]], tuple[int, ...]]] = {
    "ssn_distortion": (distortion_metric, (1, 10, 50)),   # thousands
    "ssn_leak": (leak_metric, (1, 10)),
    "ssn_lpips": (lpips_metric, (1, 10)),
    "ssn_consistency": (consistency_metric, (5, 50)),
}


def register_count(compute: Callable[..., dict[str, float]], name: str, count: int) -> None:
    """Register `compute` for one count. The host takes the metric's name from the function."""

    def metric(opts: Any) -> dict[str, float]:
        return compute(opts, name, count)

    metric.__name__ = name
    metric_main.register_metric(metric)


def register_all() -> None:
    for prefix, (compute, thousands) in FAMILIES.items():
        for k in thousands:
            register_count(compute, f"{prefix}{k}k", 1000 * k)
    families: dict[str, Callable[..., dict[str, float]]] = {name: compute for name, (compute, _) in FAMILIES.items()}
    families["ssn_rconsistency"] = functools.partial(consistency_metric, detector_url=RANDOM_VGG16_URL)
    families["ssn_stlpips"] = functools.partial(lpips_metric, detector_url=STLPIPS_URL)
    files = dict(ssn_lpips=VGG16_URL, ssn_stlpips=STLPIPS_URL, ssn_consistency=INCEPTION_URL)
    host.current().register_families(families, files)


register_all()
