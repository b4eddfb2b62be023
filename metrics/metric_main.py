"""The registry of metrics: a name stands for a sample count and a formula.

A fixed name is registered with `register_metric`; `register_family` registers all names of a pattern, so that any
sample count can be had: `fid5k_full`, `kid500`, `ppl2k_wend`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import dnnlib
from dnnlib.util import UserError

from . import (
    content_hash,
    detectors,
    frechet_inception_distance,
    inception_score,
    kernel_inception_distance,
    linear_separability,
    metric_utils,
    perceptual_path_length,
    ppl_histogram,
    precision_recall,
    sliced_wasserstein,
)

MetricFn = Callable[[metric_utils.MetricOptions], dict[str, float]]
FamilyFn = Callable[..., dict[str, float]]

COUNT = r"(?P<count>\d+(?:\.\d+)?k|\d+)"   # a sample count in names: 500, 5k, 2.5k

# Examples of families without a fixed name.
EXTRA_NAMES = ("rfid5k_full", "rkid5k_full", "fid_lite5k_full", "kid_lite5k_full", "swd5k_full", "ls200k")

WITHOUT_FILES = ("rfid5k_full", "rkid5k_full", "swd5k_full", "ssn_distortion1k")

_metrics: dict[str, MetricFn] = {}
_families: list[tuple[re.Pattern, FamilyFn]] = []
_detector_files: list[tuple[re.Pattern, str]] = []


def register_metric(fn: MetricFn) -> MetricFn:
    """Decorator: makes `fn` a metric under its own name."""
    _metrics[fn.__name__] = fn
    return fn


def register_family(pattern: str) -> Callable[[FamilyFn], FamilyFn]:
    """Decorator: makes `fn(opts, name, **groups)` the metric of every name that matches the whole pattern.

    `groups` are the named groups of the pattern; one called `count` arrives as an int. Registered names win.
    """
    def register(fn: FamilyFn) -> FamilyFn:
        _families.append((re.compile(pattern), fn))
        return fn
    return register


def register_detector(pattern: str, url: str) -> None:
    """Metrics whose name matches the whole pattern need the file of this detector."""
    _detector_files.append((re.compile(pattern), url))


def parse_count(text: str) -> int:
    """`5k` -> 5000, `500` -> 500."""
    count = round(float(text[:-1]) * 1000) if text.endswith("k") else int(text)
    if count < 1:
        raise UserError(f"a sample count must be at least 1, got {text}")
    return count


def find_metric(name: str) -> MetricFn | None:
    """The metric of this name, None if there is none."""
    if name in _metrics:
        return _metrics[name]
    for pattern, fn in _families:
        match = pattern.fullmatch(name)
        if match:
            groups: dict[str, Any] = match.groupdict()
            if "count" in groups:
                groups["count"] = parse_count(groups["count"])
            return lambda opts: fn(opts, name, **groups)
    return None


def check_metric(name: str) -> MetricFn:
    """The metric of this name. `ValueError` with the names that exist if there is none."""
    fn = find_metric(name)
    if fn is None:
        known = ", ".join([*list_valid_metrics(), *EXTRA_NAMES])
        raise UserError(f"metric must be one of {known}, or one of these with another sample count, got {name!r}")
    return fn


def detector_of(metric: str) -> str | None:
    """URL of the detector whose file a metric needs, None if it needs none."""
    return next((url for pattern, url in _detector_files if pattern.fullmatch(metric)), None)


def fetch_detector(metric: str, verbose: bool = False) -> None:
    """Have the detector file of a metric on this machine, before anything expensive starts.

    Raises OSError, which says where the file belongs and which metrics do without, if it cannot be had.
    """
    url = detector_of(metric)
    if url is not None:
        try:
            detectors.fetch(url, verbose=verbose)
        except OSError as err:
            raise OSError(f"{err}; {', '.join(WITHOUT_FILES)} need no such file") from err


def is_valid_metric(metric: str) -> bool:
    try:
        return find_metric(metric) is not None
    except ValueError:   # a pattern with a sample count of 0
        return False


def list_valid_metrics() -> list[str]:
    """The registered names, in order of registration; patterns are not among them."""
    return list(_metrics)


def calc_metric(metric: str, **kwargs: Any) -> dnnlib.EasyDict:
    """Measure. `kwargs` are those of `MetricOptions`; `seed` is 0 unless given.

    Returns `results`, `metric`, `total_time`, `total_time_str`, `num_gpus`, and `provenance`: all that the numbers
    depend on.
    """
    fn = check_metric(metric)
    if kwargs.get("seed") is None:
        kwargs["seed"] = 0
    opts = metric_utils.MetricOptions(**kwargs)
    start_time = time.monotonic()
    results = fn(opts)
    total_time = time.monotonic() - start_time

    if opts.num_gpus > 1:   # only rank 0 knows the results
        values = torch.tensor([float(v) for v in results.values()], dtype=torch.float64, device=opts.device)
        torch.distributed.broadcast(values, src=0)
        results = dict(zip(results, values.tolist(), strict=True))
    return dnnlib.EasyDict(
        results=dnnlib.EasyDict({key: float(value) for key, value in results.items()}),
        metric=metric,
        total_time=total_time,
        total_time_str=dnnlib.util.format_time(total_time),
        num_gpus=opts.num_gpus,
        provenance=dnnlib.EasyDict(describe_run(opts)) if opts.rank == 0 else dnnlib.EasyDict(),
    )


def describe_run(opts: metric_utils.MetricOptions) -> dict[str, Any]:
    """What the numbers of a run depend on, besides its name."""
    facts = dict(opts.provenance)
    if getattr(opts.G, "c_dim", 0) and "data" not in facts:   # whatever the metric is, labels come from the data set
        facts["data"] = metric_utils.hash_of_dataset(opts)
    return dict(
        seed=opts.seed,
        network=content_hash.hash_state(opts.G) if isinstance(opts.G, torch.nn.Module) else None,
        G_kwargs=dict(opts.G_kwargs),
        **facts,
        dtype="images uint8 or float32, features float32, statistics float64",
        device=opts.device.type,
        versions=dict(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__),
    )


def report_metric(
    result_dict: dict[str, Any], run_dir: str | None = None, snapshot_pkl: str | None = None, silent: bool = False
) -> None:
    """Print the result as a JSON line (unless `silent`), and append it to `metric-<name>.jsonl` if `run_dir` exists."""
    if run_dir is not None and snapshot_pkl is not None and not dnnlib.util.is_url(snapshot_pkl):
        snapshot_pkl = os.path.relpath(snapshot_pkl, run_dir)
    line = json.dumps(dict(result_dict, snapshot_pkl=snapshot_pkl, timestamp=time.time()))
    if not silent:
        print(line, flush=True)
    if run_dir is not None and os.path.isdir(run_dir):
        with open(os.path.join(run_dir, f"metric-{result_dict['metric']}.jsonl"), "a", encoding="utf-8") as file:
            file.write(line + "\n")


register_detector(r"(fid|kid|is)\d.*", detectors.INCEPTION_URL)
register_detector(r"(pr\d|ppl[\d_]).*", detectors.VGG16_URL)
register_detector(r"(fid|kid)_lite\d.*", detectors.EFFICIENTNET_URL)


# Recommended metrics: all real images against 50,000 generated ones


@register_metric
def fid50k_full(opts):
    """Frechet Inception distance."""
    return _fid(opts, "fid50k_full", max_real=None, num_gen=50_000, xflip=False)


@register_metric
def kid50k_full(opts):
    """Kernel Inception distance."""
    return _kid(opts, "kid50k_full", max_real=1_000_000, num_gen=50_000, xflip=False)


@register_metric
def pr50k3_full(opts):
    """Precision and recall with 3 neighbours."""
    return _pr(opts, "pr50k3_full", max_real=200_000, num_gen=50_000, nhood_size=3, xflip=False)


@register_metric
def ppl2_wend(opts):
    """Path length in W, at path endpoints, whole image."""
    return _ppl(opts, "ppl2_wend", 50_000, space="w", sampling="end", crop=False)


@register_metric
def is50k(opts):
    """Inception score."""
    return _is(opts, "is50k", num_gen=50_000)


# Metrics of older papers


@register_metric
def fid50k(opts):
    """Frechet Inception distance against at most 50,000 real images, mirrored ones included."""
    return _fid(opts, "fid50k", max_real=50_000, num_gen=50_000)


@register_metric
def kid50k(opts):
    """Kernel Inception distance against at most 50,000 real images, mirrored ones included."""
    return _kid(opts, "kid50k", max_real=50_000, num_gen=50_000)


@register_metric
def pr50k3(opts):
    """Precision and recall against at most 50,000 real images, mirrored ones included."""
    return _pr(opts, "pr50k3", max_real=50_000, num_gen=50_000, nhood_size=3)


@register_metric
def ppl_zfull(opts):
    """Path length in Z, along the path, face crop."""
    return _ppl(opts, "ppl_zfull", 50_000, space="z", sampling="full", crop=True)


@register_metric
def ppl_wfull(opts):
    """Path length in W, along the path, face crop."""
    return _ppl(opts, "ppl_wfull", 50_000, space="w", sampling="full", crop=True)


@register_metric
def ppl_zend(opts):
    """Path length in Z, at path endpoints, face crop."""
    return _ppl(opts, "ppl_zend", 50_000, space="z", sampling="end", crop=True)


@register_metric
def ppl_wend(opts):
    """Path length in W, at path endpoints, face crop."""
    return _ppl(opts, "ppl_wend", 50_000, space="w", sampling="end", crop=True)


# The same at any sample count


@register_family(rf"(?P<kind>r?)fid{COUNT}(?P<full>_full)?")
def fid_n(opts, name, count, kind, full):
    """Frechet distance; `rfid` in the features of a random VGG16."""
    url = detectors.RANDOM_VGG16_URL if kind else detectors.INCEPTION_URL
    return _fid(opts, name, None if full else count, count, **_full_set(full), detector_url=url)


@register_family(rf"(?P<kind>r?)kid{COUNT}(?P<full>_full)?")
def kid_n(opts, name, count, kind, full):
    """Kernel distance; `rkid` in the features of a random VGG16."""
    url = detectors.RANDOM_VGG16_URL if kind else detectors.INCEPTION_URL
    return _kid(opts, name, 1_000_000 if full else count, count, **_full_set(full), detector_url=url)


@register_family(rf"fid_lite{COUNT}(?P<full>_full)?")
def fid_lite_n(opts, name, count, full):
    """Frechet distance in the features of EfficientNet-Lite0."""
    return _fid(opts, name, None if full else count, count, **_full_set(full), detector_url=detectors.EFFICIENTNET_URL)


@register_family(rf"kid_lite{COUNT}(?P<full>_full)?")
def kid_lite_n(opts, name, count, full):
    """Kernel distance in the features of EfficientNet-Lite0."""
    real = 1_000_000 if full else count
    return _kid(opts, name, real, count, **_full_set(full), detector_url=detectors.EFFICIENTNET_URL)


@register_family(r"pr(?P<count>\d+(?:\.\d+)?k)(?P<nhood>\d+)(?P<full>_full)?")
def pr_n(opts, name, count, nhood, full):
    """Precision and recall; the number after the k is that of the neighbours."""
    return _pr(opts, name, 200_000 if full else count, count, int(nhood), **_full_set(full))


@register_family(rf"is{COUNT}")
def is_n(opts, name, count):
    """Inception score."""
    return _is(opts, name, count)


@register_family(rf"ppl{COUNT}_(?P<space>[zw])(?P<sampling>full|end)(?P<crop>_crop)?")
def ppl_n(opts, name, count, space, sampling, crop):
    """Path length of the whole image, as `ppl2_wend`; with `_crop` of the face region, as `ppl_wend`."""
    return _ppl(opts, name, count, space, sampling, crop=crop is not None)


@register_family(rf"swd{COUNT}(?P<full>_full)?")
def swd_n(opts, name, count, full):
    """Sliced Wasserstein distance of patches, times 1000: its mean over the pyramid levels, and every level."""
    return _swd(opts, name, None if full else count, count, **_full_set(full))


@register_family(rf"ls{COUNT}")
def ls_n(opts, name, count):
    """Linear separability of z and of w by attribute classifiers that the user supplies."""
    return _ls(opts, name, count)


def _full_set(full: str | None) -> dict[str, Any]:
    """`_full` metrics see every real image once, as it is; the older ones follow the training options."""
    return dict(xflip=False) if full else {}


def _fid(opts, name, max_real, num_gen, detector_url=detectors.INCEPTION_URL, **dataset_kwargs):
    opts.dataset_kwargs.update(max_size=None, **dataset_kwargs)
    return {name: frechet_inception_distance.compute_fid(opts, max_real, num_gen, detector_url)}


def _kid(opts, name, max_real, num_gen, detector_url=detectors.INCEPTION_URL, **dataset_kwargs):
    kernel_inception_distance.check_sizes(max_real or num_gen, num_gen)   # before any image is read
    opts.dataset_kwargs.update(max_size=None, **dataset_kwargs)
    return {name: kernel_inception_distance.compute_kid(
        opts, max_real, num_gen, num_subsets=100, max_subset_size=1000, detector_url=detector_url)}


def _pr(opts, name, max_real, num_gen, nhood_size, **dataset_kwargs):
    precision_recall.check_sizes(max_real or num_gen, num_gen, nhood_size)
    opts.dataset_kwargs.update(max_size=None, **dataset_kwargs)
    precision, recall = precision_recall.compute_pr(
        opts, max_real, num_gen, nhood_size, row_batch_size=10_000, col_batch_size=10_000)
    return {f"{name}_precision": precision, f"{name}_recall": recall}


def _is(opts, name, num_gen):
    inception_score.check_size(num_gen, num_splits=10)
    opts.dataset_kwargs.update(max_size=None, xflip=False)
    mean, std = inception_score.compute_is(opts, num_gen, num_splits=10)
    return {f"{name}_mean": mean, f"{name}_std": std}


def _ppl(opts, name, num_samples, space, sampling, crop):
    distances = perceptual_path_length.path_distances(
        opts, num_samples, epsilon=1e-4, space=space, sampling_mode=sampling, crop=crop,
        batch_size=opts.batch_size or 2)
    if opts.rank != 0:
        return {name: float("nan")}
    opts.provenance.update(
        num_generated=num_samples, rounding="none", resize="area average above 256 pixels",
        detector=detectors.get_hash(detectors.VGG16_URL),
        detector_name=metric_utils.get_feature_detector_name(detectors.VGG16_URL))
    if opts.ppl_histogram:
        ppl_histogram.save(opts, name, distances, space, sampling)
    return {name: perceptual_path_length.trimmed_mean(distances)}


def _swd(opts, name, max_real, num_gen, **dataset_kwargs):
    opts.dataset_kwargs.update(max_size=None, **dataset_kwargs)
    levels = sliced_wasserstein.compute_swd(opts, max_real, num_gen)
    return {name: float(np.mean(list(levels.values()))), **{f"{name}_{side}": d for side, d in levels.items()}}


def _ls(opts, name, num_samples):
    values = linear_separability.compute_ls(opts, num_samples, opts.classifiers)
    return {f"{name}_{space}": value for space, value in values.items()}
