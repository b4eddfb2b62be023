"""What redrawing a block changes, as numbers: distortion, diversity, locality, leak, consistency.

Letters: N pairs, B = R*S blocks of the latent grid (the finest of several), C channels, H W pixels, K numbers per pair.
A pair is an image and the same image with one block redrawn. Both have the same noise maps: fresh unit normals for
every pair, as in training. No truncation; images in -1..1, before rounding. Every draw depends on (seed, number of the
pair) alone.

The functions at the top need only a generator. The metrics at the bottom are registered with the host.
"""

from __future__ import annotations

import copy
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

import dnnlib
from metrics import metric_main, metric_utils
from ssn_plugin.block_grid import block_grid_of, first_block
from ssn_plugin.distortion import block_mask, block_means, mean_inside_change, mean_outside_change
from ssn_plugin.edits.resample import keyed_normal, redraw_blocks
from ssn_plugin.files import open_atomic, save_png
from ssn_plugin.measures.leak_map import draw_leak_map
from ssn_plugin.networks import side_lengths

# First word of a random key. Numbers of their own: a pair must not share draws with `ssn_plugin.edits.resample`.
LATENT_STREAM, FRESH_STREAM, NOISE_STREAM, BLOCK_STREAM, LABEL_STREAM, ORDER_STREAM = range(101, 107)

DETECTORS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
INCEPTION_URL = DETECTORS + "inception-2015-12-05.pt"
VGG16_URL = DETECTORS + "vgg16.pt"

host_detectors: Any = getattr(metric_main, "detectors", None)   # checks that the reference host does not have

Z_95 = 1.959964   # standard deviations of a normal distribution that hold 95 %

LabelFn = Callable[[int], np.ndarray]   # number of a pair -> label vector [c_dim]
# (before, after [N, C, H, W], blocks [N]) -> [N, K]
Measure = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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


# Pairs of images


def measure_pairs(
    G: Any,
    num_pairs: int,
    measure: Measure,
    seed: int = 0,
    batch_size: int = 16,                  # pairs at a time
    device: torch.device | None = None,    # None: where G is
    label_fn: LabelFn | None = None,       # None: uniformly drawn classes, where the network takes any
    uniform_blocks: bool = True,           # False: pair i redraws block i mod B, so that all blocks come equally often
    num_gpus: int = 1,
    rank: int = 0,
    progress: Any = None,                  # metric_utils.ProgressMonitor; counts images
) -> np.ndarray:                           # [N, K]
    """Apply `measure` to pairs of images. With several processes every one measures its share and gets all results."""
    if num_pairs < 1:
        raise ValueError(f"the number of pairs must be at least 1, got {num_pairs}")
    grid = block_grid_of(G, "the network")
    device = device or next(G.parameters()).device
    G = copy.deepcopy(G).eval().requires_grad_(False).to(device)
    stats = metric_utils.FeatureStats(capture_all=True, max_items=num_pairs)
    share = -(-num_pairs // num_gpus)
    for start in range(0, share, batch_size):
        # All processes go through equally many pairs; what exceeds `num_pairs` is dropped by the statistics.
        numbers = [i * num_gpus + rank for i in range(start, min(start + batch_size, share))]
        blocks = draw_blocks(numbers, grid, seed) if uniform_blocks else torch.tensor(numbers) % (grid[0] * grid[1])
        before, after = synthesize_pairs(G, numbers, blocks, seed, device, label_fn)
        stats.append_torch(measure(before, after, blocks.to(device)), num_gpus=num_gpus, rank=rank)
        if progress is not None:
            progress.update(2 * stats.num_items)   # images
    return stats.get_all()


def draw_blocks(numbers: Sequence[int], grid: Sequence[int], seed: int) -> torch.Tensor:
    """The block that each pair redraws, uniform over the grid. [N] int64"""
    num_blocks = grid[0] * grid[1]
    return torch.tensor([np.random.RandomState([BLOCK_STREAM, seed, i]).randint(num_blocks) for i in numbers])


@torch.no_grad()
def synthesize_pairs(
    G: Any,
    numbers: Sequence[int],     # of the pairs
    blocks: torch.Tensor,       # [N] the block that each one redraws
    seed: int,
    device: torch.device,
    label_fn: LabelFn | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:   # [N, C, H, W] twice
    """The images of each pair, before and after."""
    z = torch.cat([keyed_normal([1, G.z_dim], LATENT_STREAM, seed, i) for i in numbers])           # [N, B*bz]
    redrawn = z.clone()
    for row, (i, block) in enumerate(zip(numbers, blocks.tolist(), strict=True)):
        start = (first_block(G.block_grid) + block) * G.block_z_dim
        redrawn[row, start:start + G.block_z_dim] = keyed_normal([G.block_z_dim], FRESH_STREAM, seed, i)
    c = draw_labels(G, numbers, seed, label_fn)
    noise = draw_noise(G, numbers, seed, device)
    if noise is not None:
        noise = [maps.repeat(2, 1, 1, 1) for maps in noise]
    before, after = run_network(G, torch.cat([z, redrawn]), torch.cat([c, c]), noise, device).chunk(2)
    return before, after


def run_network(
    G: Any, z: torch.Tensor, c: torch.Tensor, noise: list[torch.Tensor] | None, device: torch.device
) -> torch.Tensor:
    """Images `[N, C, H, W]` of latents `z` and labels `c`, without truncation."""
    ws = G.mapping(z.to(device), c.to(device))
    img = G.synthesis(ws, noise_mode="const") if noise is None else G.synthesis(ws, noise=noise)
    return img.float()


def draw_labels(G: Any, numbers: Sequence[int], seed: int, label_fn: LabelFn | None) -> torch.Tensor:
    """Labels of the pairs, `[N, c_dim]`."""
    if not G.c_dim:
        return torch.zeros([len(numbers), 0])
    if label_fn is not None:
        return torch.from_numpy(np.stack([label_fn(i) for i in numbers])).float()
    classes = [np.random.RandomState([LABEL_STREAM, seed, i]).randint(G.c_dim) for i in numbers]
    return torch.nn.functional.one_hot(torch.tensor(classes), G.c_dim).float()


def draw_noise(
    G: Any, numbers: Sequence[int], seed: int, device: torch.device
) -> list[torch.Tensor] | None:
    """Fresh noise maps, `[N, 1, r, r]` per convolution; None for a generator that takes none, whose own maps serve all.

    Drawn on the device, where large ones cost nothing, so they differ between CPU and GPU.
    """
    resolutions = getattr(G.synthesis, "noise_resolutions", None)
    if resolutions is None:
        return None
    shapes = [side_lengths(resolution) for resolution in resolutions]
    sizes = [height * width for height, width in shapes]
    rows = []
    for i in numbers:
        words = np.random.SeedSequence([NOISE_STREAM, seed, i]).generate_state(1, np.uint64)
        gen = torch.Generator(device).manual_seed(int(words[0]))
        rows.append(torch.randn(sum(sizes), generator=gen, device=device))
    parts = torch.stack(rows).split(sizes, dim=1)
    return [part.reshape(len(numbers), 1, *shape) for part, shape in zip(parts, shapes, strict=True)]


# Statistics


def distortion_statistics(
    G: Any,
    num_pairs: int,
    seed: int = 0,
    batch_size: int = 16,
    device: torch.device | None = None,
    **pair_kwargs: Any,                 # further ones of `measure_pairs`
) -> dict[str, Estimate]:
    """How much redrawing one block changes elsewhere, and in it.

    distortion: mean squared change outside the block, the paper's Table 2.  diversity: the same inside it.
    locality: diversity / distortion.
    """
    grid = block_grid_of(G, "the network")
    if grid[0] * grid[1] < 2:
        raise ValueError(f"distortion needs at least 2 blocks, the network has a {grid[0]}x{grid[1]} grid")

    def measure(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        resampled = block_mask(blocks, grid, *before.shape[2:])
        change = (mean_outside_change(before, after, resampled), mean_inside_change(before, after, resampled))
        return torch.stack(change, dim=1)

    outside, inside = measure_pairs(G, num_pairs, measure, seed, batch_size, device, **pair_kwargs).T
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
    num_pairs: int,                     # together; every block is redrawn in an equal share of them
    seed: int = 0,
    batch_size: int = 16,
    device: torch.device | None = None,
    **pair_kwargs: Any,                 # further ones of `measure_pairs`
) -> LeakMatrix:
    """Which blocks change when one of them is redrawn."""
    grid = block_grid_of(G, "the network")
    num_blocks = grid[0] * grid[1]
    if num_blocks < 2 or num_pairs < num_blocks:
        raise ValueError(f"a leak matrix needs at least 2 blocks and a pair for each of them, got {num_blocks} blocks "
                         f"and {num_pairs} pairs")

    def measure(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        return block_means((after - before).square().mean(dim=1), grid).flatten(1)

    change = measure_pairs(G, num_pairs, measure, seed, batch_size, device, uniform_blocks=False, **pair_kwargs)
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
    seed: int = 0,
    batch_size: int = 16,
    device: torch.device | None = None,
    **pair_kwargs: Any,                 # further ones of `measure_pairs`
) -> dict[str, Estimate]:
    """Perceptual distance (Zhang et al. 2018) between an image and itself with only the outside, or inside, changed.

    The mixed images are hard pastes along the border of the block, which both distances see.
    """
    grid = block_grid_of(G, "the network")

    def features(img: torch.Tensor) -> torch.Tensor:
        return detector(_three_channels((img.clamp(-1, 1) + 1) * 127.5), resize_images=False, return_lpips=True)

    def measure(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        resampled = block_mask(blocks, grid, *before.shape[2:])[:, None]
        reference = features(before)
        mixed = (torch.where(resampled, before, after), torch.where(resampled, after, before))
        return torch.stack([(features(img) - reference).square().sum(dim=1) for img in mixed], dim=1)

    outside, inside = measure_pairs(G, num_pairs, measure, seed, batch_size, device, **pair_kwargs).T
    return dict(lpips_outside=mean_estimate(outside), lpips_inside=mean_estimate(inside),
                lpips_locality=ratio_estimate(inside, outside))


def _three_channels(img: torch.Tensor) -> torch.Tensor:
    """What a detector sees of images in 0..255: gray as three equal channels, transparency as white. [N, 3, H, W]"""
    if img.shape[1] == 1:
        return img.repeat(1, 3, 1, 1)
    if img.shape[1] == 4:
        opacity = img[:, 3:].float() / 255
        on_white = img[:, :3] * opacity + 255 * (1 - opacity)
        return on_white if img.is_floating_point() else on_white.round().to(img.dtype)
    return img


# Consistency: redrawing everything, block by block, gives a new image of the same distribution ---


def redraw_all_blocks(z: torch.Tensor, block_z_dim: int, seed: int, number: int) -> torch.Tensor:
    """Redraw every block of `z`, of all grids, one after the other in random order. [1, B*bz] -> [1, B*bz]"""
    order = np.random.RandomState([ORDER_STREAM, seed, number]).permutation(z.shape[1] // block_z_dim)
    for step, block in enumerate(order.tolist()):
        z = redraw_blocks(z, [block], block_z_dim, seed, step, variant=number)
    return z


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features `[N, F]`, in float64.

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr sqrt(S1 S2). With S = X'X the last trace is the sum of the singular values of
    X1 X2', and these are the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2): whichever matrix is smaller.
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


# Metrics of the host


def distortion_metric(opts: Any, name: str, count: int) -> dict[str, float]:
    """Distortion, diversity and locality of `count` pairs."""
    estimates = distortion_statistics(opts.G, count, **_sampling_kwargs(opts), **_pair_kwargs(opts, count))
    return _flatten(name, {"": estimates.pop("distortion"), **estimates})


def leak_metric(opts: Any, name: str, count: int) -> dict[str, float]:
    """Mean of the leak matrix inside and outside the redrawn block; the matrix itself goes to the output folder."""
    leak = leak_matrix(opts.G, count, **_sampling_kwargs(opts), **_pair_kwargs(opts, count))
    outdir: str | None = getattr(opts, "outdir", None)
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


def lpips_metric(opts: Any, name: str, count: int) -> dict[str, float]:
    """Perceptual change outside and inside the redrawn block."""
    kwargs = dict(**_sampling_kwargs(opts), **_pair_kwargs(opts, count))
    detector: Any = functools.partial(_run_detector, _load_detector(opts, VGG16_URL), VGG16_URL)
    return _flatten(name, lpips_statistics(opts.G, count, detector, **kwargs))


def consistency_metric(opts: Any, name: str, count: int, detector_url: str = INCEPTION_URL) -> dict[str, float]:
    """Frechet distance between fresh images and the same ones with every block redrawn, in random order.

    Redrawing everything must give the generator's own distribution (Hong et al. 2020, Definition 1), so the value
    should equal `_floor`, the distance between two sets of fresh images, which is above zero as the sets are finite.
    """
    if count < 20:
        raise ValueError(f"consistency needs at least 20 images, got {count}")
    kwargs = _sampling_kwargs(opts)
    detector = functools.partial(_run_detector, _load_detector(opts, detector_url), detector_url, return_features=True)
    fresh = _image_features(opts, count, detector, first=0, **kwargs)
    again = _image_features(opts, count, detector, first=count, **kwargs)
    redrawn = _image_features(opts, count, detector, first=0, redraw=True, **kwargs)
    _note(opts, num_generated=3 * count, rounding="x * 127.5 + 128, clamped, truncated to uint8",
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
def _image_features(
    opts: Any,
    count: int,
    detector: Callable[[torch.Tensor], torch.Tensor],   # images in 0..255 -> features [N, F]
    seed: int,
    batch_size: int,
    device: torch.device,
    label_fn: LabelFn | None,
    first: int,             # number of the first image
    redraw: bool = False,   # redraw every block of every image?
) -> np.ndarray:            # [count, F]
    """Detector features of generated images, rounded to 8 bits as for the host's metrics."""
    G = copy.deepcopy(opts.G).eval().requires_grad_(False).to(device)
    stats = metric_utils.FeatureStats(capture_all=True, max_items=count)
    progress = opts.progress.sub(tag="redrawn images" if redraw else "fresh images", num_items=count)
    share = -(-count // opts.num_gpus)
    for start in range(0, share, batch_size):
        numbers = [first + i * opts.num_gpus + opts.rank for i in range(start, min(start + batch_size, share))]
        z = [keyed_normal([1, G.z_dim], LATENT_STREAM, seed, i) for i in numbers]
        if redraw:
            z = [redraw_all_blocks(z_i, G.block_z_dim, seed, i) for z_i, i in zip(z, numbers, strict=True)]
        # A redrawn image has noise of its own as well: nothing of the first one may be left.
        noise = draw_noise(G, [i + 2 * count for i in numbers] if redraw else numbers, seed, device)
        img = run_network(G, torch.cat(z), draw_labels(G, numbers, seed, label_fn), noise, device)
        img = (img * 127.5 + 128).clamp(0, 255).to(torch.uint8)
        features = detector(_three_channels(img))
        stats.append_torch(features, num_gpus=opts.num_gpus, rank=opts.rank)
        progress.update(stats.num_items)
    return stats.get_all()


def _load_detector(opts: Any, url: str) -> torch.nn.Module:
    detector = metric_utils.get_feature_detector(
        url=url, device=opts.device, num_gpus=opts.num_gpus, rank=opts.rank, verbose=opts.progress.verbose)
    _note(opts, detector_name=metric_utils.get_feature_detector_name(url))
    if opts.rank == 0 and host_detectors is not None:
        _note(opts, detector=host_detectors.get_hash(url))
    return detector


def _run_detector(detector: torch.nn.Module, url: str, img: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Output of a detector `[N, F]`, checked where the host can."""
    return detector(img, **kwargs) if host_detectors is None else host_detectors.run(detector, url, img, **kwargs)


def _sampling_kwargs(opts: Any) -> dict[str, Any]:
    """What the draws depend on. The reference host's options have neither seed nor batch size."""
    block_grid_of(opts.G, "the network")   # fails before the data set is opened or a detector loaded
    return dict(
        seed=getattr(opts, "seed", None) or 0, batch_size=getattr(opts, "batch_size", None) or 16,
        device=opts.device, label_fn=_label_fn(opts))


def _pair_kwargs(opts: Any, num_pairs: int) -> dict[str, Any]:
    """The remaining arguments of `measure_pairs`."""
    _note(opts, num_pairs=num_pairs, rounding="none", resize="none",
          noise="fresh for every pair, shared by its two images")
    return dict(num_gpus=opts.num_gpus, rank=opts.rank,
                progress=opts.progress.sub(tag="pairs of images", num_items=2 * num_pairs))


def _label_fn(opts: Any) -> LabelFn | None:
    """Labels of uniformly drawn images of the data set, for a conditional network."""
    if not opts.G.c_dim:
        return None
    if "class_name" not in opts.dataset_kwargs:
        raise ValueError("a conditional network takes the labels of a data set, and none is known")
    dataset = dnnlib.util.construct_class_by_name(**opts.dataset_kwargs)
    seed = getattr(opts, "seed", None) or 0
    return lambda i: dataset.get_label(np.random.RandomState([LABEL_STREAM, seed, i]).randint(len(dataset)))


def _note(opts: Any, **facts: Any) -> None:
    """Let the result line say what the numbers depend on, where the host keeps such notes."""
    getattr(opts, "provenance", {}).update(facts)


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


def _register_all() -> None:
    for prefix, (compute, thousands) in FAMILIES.items():
        for k in thousands:
            metric: Any = functools.partial(compute, name=f"{prefix}{k}k", count=1000 * k)
            metric.__name__ = f"{prefix}{k}k"   # the host stores it under this name
            metric_main.register_metric(metric)
    if hasattr(metric_main, "register_family"):   # not in the reference host
        for prefix, (compute, _) in FAMILIES.items():
            metric_main.register_family(prefix + metric_main.COUNT)(compute)
        random_features = functools.partial(consistency_metric, detector_url=host_detectors.RANDOM_VGG16_URL)
        metric_main.register_family("ssn_rconsistency" + metric_main.COUNT)(random_features)
    if hasattr(metric_main, "register_detector"):   # not in the reference host
        metric_main.register_detector(r"ssn_lpips\d.*", VGG16_URL)
        metric_main.register_detector(r"ssn_consistency\d.*", INCEPTION_URL)


_register_all()
