"""From images to feature statistics: what the metrics share.

Letters: N items, F features, C channels, H W pixels. Real and generated images reach a detector as uint8 0..255
`[N, 3, H, W]`; detectors resize on their own.
"""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

import dnnlib
from dnnlib.util import UserError
from torch_utils import devices
from torch_utils.safe_unpickler import load_pickle
from training.data.decoding import READER
from training.networks import side_lengths

from . import content_hash, detectors, sampling
from .progress import ProgressMonitor
from .shared_features import feature_batches

__all__ = [
    "FeatureStats", "MetricOptions", "ProgressMonitor", "compute_feature_stats_for_dataset",
    "compute_feature_stats_for_generator", "get_feature_detector", "get_feature_detector_name",
]

DEFAULT_LOADER_KWARGS = dict(pin_memory=True, num_workers=3, prefetch_factor=2)


class MetricOptions:
    """What to measure, and where."""

    def __init__(
        self,
        G: Any = None,                                  # the generator
        G_kwargs: dict[str, Any] | None = None,         # passed on to G, as noise_mode or truncation_psi
        dataset_kwargs: dict[str, Any] | None = None,   # class_name, path, ...
        num_gpus: int = 1,
        rank: int = 0,
        device: torch.device | None = None,             # None: the GPU of this rank, or the CPU where there is none
        progress: ProgressMonitor | None = None,
        cache: bool = True,                             # keep and reuse the statistics of the real images
        seed: int | None = None,   # of latents, noise, labels; None: 0, but KID subsets from numpy's global generator
        batch_size: int | None = None,                  # None: the metric's own
        outdir: str | None = None,                      # where metrics that make files put them; None: no files
        classifiers: Sequence[str] = (),                # TorchScript files of the linear separability metric
        ppl_histogram: bool = False,                    # path length also saves its distribution to `outdir`
    ):
        if not 0 <= rank < num_gpus:
            raise UserError(f"rank must be below the number of processes {num_gpus}, got {rank}")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {batch_size}")
        self.G = G
        self.G_kwargs = dnnlib.EasyDict(G_kwargs or {})
        self.dataset_kwargs = dnnlib.EasyDict(dataset_kwargs or {})
        self.num_gpus = num_gpus
        self.rank = rank
        self.device = device if device is not None else devices.choose_device(index=rank)
        self.progress = (progress or ProgressMonitor()).sub() if rank == 0 else ProgressMonitor()
        self.cache = cache
        self.seed = seed
        self.batch_size = batch_size
        self.outdir = outdir
        self.classifiers = list(classifiers)
        self.ppl_histogram = ppl_histogram
        self.provenance = dnnlib.EasyDict()   # filled while a metric runs: what the number depends on


# Detectors


_loaded_detectors: dict[tuple[str, str], torch.nn.Module] = {}


def get_feature_detector_name(url: str) -> str:
    """Stem of the detector's file name."""
    return os.path.splitext(detectors.file_name(url))[0]


def get_feature_detector(
    url: str,
    device: torch.device | str = torch.device("cpu"),  # noqa: B008 - an immutable value
    num_gpus: int = 1,
    rank: int = 0,
    verbose: bool = False,
) -> torch.nn.Module:
    """The detector, loaded once per process and device. Rank 0 goes first, so that only one process downloads."""
    key = (url, str(device))
    if key not in _loaded_detectors:
        if num_gpus > 1 and rank != 0:
            torch.distributed.barrier()
        _loaded_detectors[key] = detectors.load(url, device, verbose=verbose and rank == 0)
        if num_gpus > 1 and rank == 0:
            torch.distributed.barrier()
    return _loaded_detectors[key]


def run_detector(opts: MetricOptions, url: str, detector_kwargs: dict[str, Any], img: torch.Tensor) -> torch.Tensor:
    """Features `[N, F]` of uint8 images `[N, C, H, W]`."""
    detector = get_feature_detector(url, opts.device, opts.num_gpus, opts.rank, opts.progress.verbose)
    with torch.no_grad():
        return detectors.run(detector, url, sampling.to_three_channels(img).to(opts.device), **detector_kwargs)


# Feature statistics


class FeatureStats:
    """Features of a set of images: all of them, or their mean and covariance, or both."""

    def __init__(self, capture_all: bool = False, capture_mean_cov: bool = False, max_items: int | None = None):
        self.capture_all = capture_all
        self.capture_mean_cov = capture_mean_cov
        self.max_items = max_items
        self.num_items = 0
        self.num_features: int | None = None
        self.all_features: list[np.ndarray] | None = None
        self.raw_mean: np.ndarray | None = None   # sum of the features, float64 [F]
        self.raw_cov: np.ndarray | None = None    # sum of their outer products, float64 [F, F]

    def set_num_features(self, num_features: int) -> None:
        if self.num_features is None:
            self.num_features = num_features
            self.all_features = []
            self.raw_mean = np.zeros([num_features], dtype=np.float64)
            self.raw_cov = np.zeros([num_features, num_features], dtype=np.float64)
        elif self.num_features != num_features:
            raise UserError(f"features must stay {self.num_features} wide, got {num_features}")

    def is_full(self) -> bool:
        return self.max_items is not None and self.num_items >= self.max_items

    def append(self, x: np.ndarray) -> None:
        """Add rows `[N, F]`; what exceeds `max_items` is dropped."""
        x = np.asarray(x, dtype=np.float32)
        if x.ndim != 2:
            raise UserError(f"features must be [N, F], got {list(x.shape)}")
        if self.max_items is not None:
            x = x[: max(self.max_items - self.num_items, 0)]
            if len(x) == 0:
                return
        self.set_num_features(x.shape[1])
        assert self.all_features is not None and self.raw_mean is not None and self.raw_cov is not None
        self.num_items += len(x)
        if self.capture_all:
            self.all_features.append(x)
        if self.capture_mean_cov:
            x64 = torch.from_numpy(x.astype(np.float64))
            self.raw_mean += x64.sum(dim=0).numpy()
            torch.from_numpy(self.raw_cov).addmm_(x64.T, x64)   # in place: a sum of 2048 x 2048 numbers costs time

    def append_torch(self, x: torch.Tensor, num_gpus: int = 1, rank: int = 0) -> None:
        """Add rows of all processes, interleaved: the first row of every rank, then the second rows, and so on."""
        if x.ndim != 2:
            raise UserError(f"features must be [N, F], got {list(x.shape)}")
        self.append(gather_rows(x, num_gpus))

    def get_all(self) -> np.ndarray:
        """All rows, float32 `[N, F]`."""
        if not self.capture_all:
            raise UserError("all features were not captured: the statistics need capture_all=True")
        if not self.all_features:
            return np.zeros([0, self.num_features or 0], dtype=np.float32)
        if len(self.all_features) > 1:
            self.all_features = [np.concatenate(self.all_features)]   # joined once, not twice in memory
        return self.all_features[0]

    def get_all_torch(self) -> torch.Tensor:
        return torch.from_numpy(self.get_all())

    def get_mean_cov(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean `[F]` and biased covariance `[F, F]`, float64."""
        if not self.capture_mean_cov:
            raise UserError("the covariance was not captured: the statistics need capture_mean_cov=True")
        if self.raw_mean is None or self.raw_cov is None or self.num_items == 0:
            raise UserError("there are no features to average")
        mean = self.raw_mean / self.num_items
        return mean, self.raw_cov / self.num_items - np.outer(mean, mean)

    def save(self, pkl_file: str | os.PathLike) -> None:
        """Write a pickle of the attribute dict, atomically."""
        if self.capture_all:
            self.get_all()   # joins the arrays: the reader counts them
        with dnnlib.util.open_atomic(pkl_file) as file:
            pickle.dump(vars(self), file, protocol=4)   # the newest that `load_pickle` reads

    @staticmethod
    def load(pkl_file: str | os.PathLike) -> FeatureStats:
        """Read what `save` wrote. `ValueError` for anything else; nothing in the file is executed."""
        with open(pkl_file, "rb") as file:
            data = file.read()
        try:
            return FeatureStats._of_state(load_pickle(data))
        except ValueError as err:
            raise UserError(f"{pkl_file} does not hold feature statistics: {err}") from err

    @staticmethod
    def _of_state(state: Any) -> FeatureStats:
        """Statistics with these attributes. ValueError unless they fit together."""
        stats = FeatureStats()
        if type(state) is not dict or set(state) != set(vars(stats)):
            raise UserError("it has other entries")
        vars(stats).update(state)
        n, width, rows = stats.num_items, stats.num_features, stats.all_features
        if type(n) is not int or n < 1 or type(width) is not int or width < 1:
            raise UserError(f"it counts {n!r} items of {width!r} features")
        if type(rows) is not list or len(rows) > 1 or bool(rows) != stats.capture_all:
            raise UserError("it lacks features that it claims to hold, or holds others")
        arrays: list[tuple[Any, Any, tuple[int, ...]]] = [(array, np.float32, (n, width)) for array in rows]
        arrays += [(stats.raw_mean, np.float64, (width,)), (stats.raw_cov, np.float64, (width, width))]
        for array, dtype, shape in arrays:
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
                raise UserError(f"an array is not {np.dtype(dtype)} of the shape {list(shape)}")
        return stats


def gather_rows(x: torch.Tensor, num_gpus: int) -> np.ndarray:
    """Rows `[N, F]` of all processes, interleaved: the first row of every rank, then the second rows. float32"""
    if num_gpus > 1:
        parts = [torch.empty_like(x) for _ in range(num_gpus)]
        torch.distributed.all_gather(parts, x.contiguous())
        x = torch.stack(parts, dim=1).flatten(0, 1)
    return x.float().cpu().numpy()


def feature_rows(
    opts: MetricOptions, url: str, detector_kwargs: dict[str, Any], images: Iterable[torch.Tensor],
    progress: ProgressMonitor,
) -> Iterator[np.ndarray]:
    """Features `[N, F]` of batches of images, from all processes."""
    done = 0
    for batch in images:
        features = gather_rows(run_detector(opts, url, detector_kwargs, batch), opts.num_gpus)
        done += len(features)
        progress.update(done)
        yield features


# Real images


def open_dataset(opts: MetricOptions) -> Any:
    """The data set of the options; `ValueError` unless its images have the shape that the network makes."""
    if "class_name" not in opts.dataset_kwargs:
        raise UserError("this metric needs real images, and no data set is known: name one with --data")
    dataset = dnnlib.util.construct_class_by_name(**opts.dataset_kwargs)
    G = opts.G
    if hasattr(G, "img_resolution") and hasattr(G, "img_channels"):
        made = [G.img_channels, *side_lengths(G.img_resolution)]
        if list(dataset.image_shape) != made:
            raise UserError(f"data set {dataset.name} has images of shape {list(dataset.image_shape)}, "
                            f"the network makes {made}")
    return dataset


def label_source(opts: MetricOptions) -> tuple[sampling.LabelFn | None, int]:
    """Label number -> vector, and how many there are: the labels of the data set, for a conditional network."""
    if not opts.G.c_dim:
        return None, 0   # then the data set need not even exist
    dataset = open_dataset(opts)
    if dataset.label_dim != opts.G.c_dim:
        raise UserError(f"the network takes labels of width {opts.G.c_dim}, data set {dataset.name} has width "
                        f"{dataset.label_dim}")
    return dataset.get_label, len(dataset)


def iterate_images(
    opts: MetricOptions, dataset: Any, num_items: int, batch_size: int, data_loader_kwargs: dict[str, Any] | None = None
) -> Iterator[torch.Tensor]:
    """Batches of this rank's share of the first `num_items` images, uint8 `[N, C, H, W]`.

    All ranks get batches of one size; where the items do not divide evenly, the list starts over for the last ones.
    """
    kwargs = dict(DEFAULT_LOADER_KWARGS if data_loader_kwargs is None else data_loader_kwargs)
    kwargs["pin_memory"] = bool(kwargs.get("pin_memory")) and opts.device.type == "cuda"
    # On the CPU reading takes a few per cent of the time of a detector, which needs all cores itself. For a single
    # batch starting processes takes longer than reading.
    if opts.device.type == "cpu" or num_items <= batch_size:
        kwargs["num_workers"] = 0
    else:
        kwargs["num_workers"] = min(kwargs.get("num_workers", 0), os.cpu_count() or 1)
    if kwargs["num_workers"] == 0:
        kwargs.pop("prefetch_factor", None)
    share = -(-num_items // opts.num_gpus)
    indices = [(i * opts.num_gpus + opts.rank) % num_items for i in range(share)]
    for images, _labels in torch.utils.data.DataLoader(dataset, sampler=indices, batch_size=batch_size, **kwargs):
        yield images


def compute_feature_stats_for_dataset(
    opts: MetricOptions,
    detector_url: str,
    detector_kwargs: dict[str, Any],
    rel_lo: float = 0,
    rel_hi: float = 1,
    batch_size: int = 64,
    data_loader_kwargs: dict[str, Any] | None = None,
    max_items: int | None = None,
    **stats_kwargs: Any,            # of FeatureStats
) -> FeatureStats:
    """Statistics of the first `max_items` real images, from the cache if the same content was measured before."""
    dataset = open_dataset(opts)
    num_items = len(dataset) if max_items is None else min(len(dataset), max_items)
    if num_items < 2:
        raise UserError(f"data set {dataset.name} gives {num_items} image: a distribution needs at least 2")
    data_hash = on_rank_0(opts, lambda: hash_of_dataset(opts))
    detector_hash = on_rank_0(opts, lambda: detectors.get_hash(detector_url))
    opts.provenance.update(num_real=num_items, data=data_hash, detector=detector_hash,
                           detector_name=get_feature_detector_name(detector_url), resize="inside the detector")

    cache_file = None
    if opts.cache and data_hash is not None:
        cache_file = _cache_file(opts, dataset.name, detector_url, detector_kwargs, stats_kwargs, num_items,
                                 data_hash, detector_hash)
        asked = FeatureStats(max_items=num_items, **stats_kwargs)
        stats = _read_cache(opts, cache_file, asked)
        if stats is not None:
            return stats

    stats = FeatureStats(max_items=num_items, **stats_kwargs)
    progress = opts.progress.sub(tag="dataset features", num_items=num_items, rel_lo=rel_lo, rel_hi=rel_hi)
    batch_size = opts.batch_size or batch_size
    images = iterate_images(opts, dataset, num_items, batch_size, data_loader_kwargs)
    key = ("real", repr(sorted(opts.dataset_kwargs.items())), detector_url, repr(detector_kwargs), num_items,
           batch_size, data_hash, detector_hash)
    for rows in feature_batches(key, feature_rows(opts, detector_url, detector_kwargs, images, progress)):
        stats.append(rows)

    if cache_file is not None and opts.rank == 0:
        try:
            os.makedirs(os.path.dirname(cache_file), exist_ok=True)
            stats.save(cache_file)
        except OSError as err:   # no reason to lose what was measured
            warnings.warn(f"the statistics of the real images are not kept: {err}", stacklevel=2)
    return stats


def hash_of_dataset(opts: MetricOptions) -> str | None:
    """Content hash of the data set's file or folder; None for data sets without one, which are never cached."""
    path = opts.dataset_kwargs.get("path")
    if not isinstance(path, str | os.PathLike) or not os.path.exists(path):
        return None
    return content_hash.hash_dataset(os.fspath(path))


def on_rank_0(opts: MetricOptions, compute: Callable[[], Any]) -> Any:
    """What `compute()` returns on rank 0, on every rank."""
    if opts.num_gpus == 1:
        return compute()
    box = [compute() if opts.rank == 0 else None]
    torch.distributed.broadcast_object_list(box, src=0, device=opts.device)
    return box[0]


def _cache_file(
    opts: MetricOptions, dataset_name: str, detector_url: str, detector_kwargs: dict, stats_kwargs: dict,
    num_items: int, data_hash: str, detector_hash: str,
) -> str:
    """Everything the statistics depend on; the place of the data set is not among it, its content is."""
    dataset_kwargs = {key: value for key, value in opts.dataset_kwargs.items() if key != "path"}
    args = dict(dataset_kwargs=sorted(dataset_kwargs.items()), detector_url=detector_url,
                detector_kwargs=detector_kwargs, stats_kwargs=stats_kwargs, num_items=num_items, data_hash=data_hash,
                detector_hash=detector_hash, picture_reader=READER)
    md5 = hashlib.md5(repr(sorted(args.items())).encode(), usedforsecurity=False).hexdigest()
    name = f"{dataset_name}-{get_feature_detector_name(detector_url).replace(':', '-')}-{md5}.pkl"
    return dnnlib.make_cache_dir_path("gan-metrics", name)


def _read_cache(opts: MetricOptions, cache_file: str, asked: FeatureStats) -> FeatureStats | None:
    """Statistics of an earlier run; None if there are none, or if the file is damaged (then they are made anew)."""

    def read() -> FeatureStats | None:
        if not os.path.isfile(cache_file):
            return None
        try:
            stats = FeatureStats.load(cache_file)
            for key in ("capture_all", "capture_mean_cov", "max_items"):
                if getattr(stats, key) != getattr(asked, key):
                    raise UserError(f"{cache_file} holds other statistics: {key} is {getattr(stats, key)!r}")
            return stats
        except (OSError, ValueError) as err:
            warnings.warn(f"cached statistics are made anew: {err}", stacklevel=2)
            return None

    if opts.num_gpus == 1:
        return read()
    # Rank 0 decides for all: the file may appear or vanish between the looks of two processes.
    stats = read() if opts.rank == 0 else None
    if not on_rank_0(opts, lambda: stats is not None):
        return None
    return stats if opts.rank == 0 else FeatureStats.load(cache_file)


# Generated images


def frozen_generator(opts: MetricOptions) -> Any:
    """A copy of the network on the device, in evaluation mode: the caller's may be in training."""
    return copy.deepcopy(opts.G).eval().requires_grad_(False).to(opts.device)


def iterate_generated(
    opts: MetricOptions, num_items: int, batch_size: int, batch_gen: int | None = None
) -> Iterator[torch.Tensor]:
    """Batches of this rank's share of the first `num_items` generated images, uint8 `[N, C, H, W]`."""
    batch_gen = min(batch_gen or min(batch_size, 4), batch_size)
    label_fn, num_labels = label_source(opts)
    G = frozen_generator(opts)
    share = -(-num_items // opts.num_gpus)
    indices = [i * opts.num_gpus + opts.rank for i in range(share)]
    for start in range(0, share, batch_size):
        batch = indices[start : start + batch_size]
        with torch.no_grad():
            images = [
                sampling.to_uint8(sampling.generate_images(
                    G, batch[i : i + batch_gen], opts.seed or 0, opts.device, label_fn, num_labels, opts.G_kwargs))
                for i in range(0, len(batch), batch_gen)]
        yield torch.cat(images)


def compute_feature_stats_for_generator(
    opts: MetricOptions,
    detector_url: str,
    detector_kwargs: dict[str, Any],
    rel_lo: float = 0,
    rel_hi: float = 1,
    batch_size: int = 64,
    batch_gen: int | None = None,   # images that the network makes at a time; None: min(batch_size, 4)
    jit: bool = False,              # accepted for compatibility; networks are not traced, which torch deprecated
    **stats_kwargs: Any,            # of FeatureStats; max_items is required
) -> FeatureStats:
    """Statistics of `max_items` generated images, rounded to uint8 as the host does."""
    stats = FeatureStats(**stats_kwargs)
    if stats.max_items is None or stats.max_items < 1:
        raise UserError(f"the number of generated images must be at least 1, got {stats.max_items}")
    opts.provenance.update(num_generated=stats.max_items, rounding="x * 127.5 + 128, clamped, truncated to uint8",
                           detector=on_rank_0(opts, lambda: detectors.get_hash(detector_url)),
                           detector_name=get_feature_detector_name(detector_url), resize="inside the detector")
    progress = opts.progress.sub(tag="generator features", num_items=stats.max_items, rel_lo=rel_lo, rel_hi=rel_hi)
    batch_size = opts.batch_size or batch_size
    images = iterate_generated(opts, stats.max_items, batch_size, batch_gen)
    labels_of = repr(sorted(opts.dataset_kwargs.items())) if opts.G.c_dim else None
    key = ("generated", id(opts.G), opts.seed or 0, repr(opts.G_kwargs), labels_of, detector_url,
           repr(detector_kwargs), stats.max_items, batch_size, batch_gen)
    for rows in feature_batches(key, feature_rows(opts, detector_url, detector_kwargs, images, progress)):
        stats.append(rows)
    return stats
