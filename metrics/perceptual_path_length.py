"""Perceptual path length (Karras et al. 2019, arXiv:1812.04948): how much an image changes per step in latent space."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dnnlib.util import UserError

from . import detectors, metric_utils, sampling
from .sampling import slerp


def trimmed_mean(values: np.ndarray) -> float:
    """Mean of the values from the 1st percentile (rounded down to a sample) to the 99th (rounded up), inclusive."""
    lo = np.percentile(values, 1, method="lower")
    hi = np.percentile(values, 99, method="higher")
    return float(np.mean(values[(values >= lo) & (values <= hi)], dtype=np.float64))


class PPLSampler(torch.nn.Module):
    """Squared perceptual distances, divided by epsilon^2, of image pairs an epsilon apart on a random latent path."""

    def __init__(
        self,
        G: Any,
        G_kwargs: dict[str, Any],
        epsilon: float,                  # step along a path of length 1
        space: str,                      # interpolate in 'z' or 'w'
        sampling: str,                   # position on the path: 'full' = anywhere, 'end' = its start
        crop: bool,                      # keep the part where an aligned face lies
        vgg16: torch.nn.Module,          # images 0..255 -> vectors whose squared distance is perceptual
        seed: int = 0,
        items: Iterator[int] | None = None,   # number of each sample, which its draws depend on; None: torch's state
    ):
        if space not in ("z", "w") or sampling not in ("full", "end"):
            raise UserError(f"path length needs space z or w and sampling full or end, got {space} and {sampling}")
        super().__init__()
        self.G: Any = copy.deepcopy(G)
        self.G_kwargs = G_kwargs
        self.epsilon = epsilon
        self.space = space
        self.sampling = sampling
        self.crop = crop
        self.vgg16 = copy.deepcopy(vgg16)
        self.seed = seed
        self.items = items

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        """Distances `[N]` for labels `c` `[N, c_dim]`, which both ends of a path share."""
        img = self._prepare(torch.cat(self.image_pairs(c)))
        features = detectors.run(self.vgg16, detectors.VGG16_URL, img, resize_images=False, return_lpips=True)
        features0, features1 = features.chunk(2)
        return (features0 - features1).square().sum(dim=1) / self.epsilon**2

    def image_pairs(self, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two images of each path `[N, C, H, W]`, with the same noise maps."""
        t, z0, z1, noise = self._draw_shared_noise(c) if self.items is None else self._draw_items(c)
        ws = torch.cat(self._path_points(t, z0, z1, c))
        noise = {name: value if value.ndim == 2 else value.repeat(2, 1, 1, 1) for name, value in noise.items()}
        kwargs = {"noise_mode": "const", **self.G_kwargs, "force_fp32": True}
        img0, img1 = sampling.call_with_noise(self.G.synthesis, noise, ws=ws, **kwargs).chunk(2)
        return img0, img1

    def _draw_shared_noise(self, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        """Draws of the host: from torch's global state, one set of noise maps per batch."""
        n, device = len(c), c.device
        t = torch.rand([n], device=device) if self.sampling == "full" else torch.zeros([n], device=device)
        z0, z1 = torch.randn([2 * n, self.G.z_dim], device=device).chunk(2)
        noise = {name: torch.randn_like(fixed) for name, fixed in sampling.noise_maps(self.G.synthesis).items()}
        return t, z0, z1, noise

    def _draw_items(self, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        """Draws that depend on seed and sample number alone, noise maps included."""
        assert self.items is not None
        numbers = [next(self.items) for _ in c]
        gens = [sampling.item_generator(self.seed, sampling.STREAM_PATH, i) for i in numbers]
        z = torch.stack([torch.randn([2, self.G.z_dim], generator=gen) for gen in gens]).to(c.device)   # [N, 2, Z]
        t = torch.stack([torch.rand([], generator=gen) for gen in gens]).to(c.device)
        noise_gens = [sampling.item_generator(self.seed, sampling.STREAM_NOISE, i, c.device) for i in numbers]
        noise = sampling.draw_noise(self.G.synthesis, noise_gens, c.device)
        return (t if self.sampling == "full" else torch.zeros_like(t)), z[:, 0], z[:, 1], noise

    def _path_points(self, t: torch.Tensor, z0: torch.Tensor, z1: torch.Tensor, c: torch.Tensor) -> tuple:
        """Styles `[N, num_ws, w_dim]` at t and at t + epsilon."""
        if self.space == "w":
            w0, w1 = self.G.mapping(z=torch.cat([z0, z1]), c=torch.cat([c, c])).chunk(2)
            t = t[:, None, None]
            return w0.lerp(w1, t), w0.lerp(w1, t + self.epsilon)
        t = t[:, None]
        z = torch.cat([slerp(z0, z1, t), slerp(z0, z1, t + self.epsilon)])
        return self.G.mapping(z=z, c=torch.cat([c, c])).chunk(2)

    def _prepare(self, img: torch.Tensor) -> torch.Tensor:
        """Crop, shrink to about 256 pixels, bring to 0..255 with three channels. Not rounded: the step is tiny."""
        factor = min(img.shape[2:]) // 256
        if self.crop:
            h, w = (side // 8 for side in img.shape[2:])
            img = img[:, :, 3 * h : 7 * h, 2 * w : 6 * w]
        if factor > 1:
            img = F.avg_pool2d(img, factor)
        return sampling.to_three_channels((img + 1) * (255 / 2))


def path_distances(
    opts: metric_utils.MetricOptions,
    num_samples: int,
    epsilon: float,
    space: str,
    sampling_mode: str,
    crop: bool,
    batch_size: int,
) -> np.ndarray:
    """Distances of `num_samples` pairs, in order of their numbers, float32 `[num_samples]`; empty but on rank 0."""
    vgg16 = metric_utils.get_feature_detector(
        detectors.VGG16_URL, device=opts.device, num_gpus=opts.num_gpus, rank=opts.rank, verbose=opts.progress.verbose)
    labels = PathLabels(opts)
    share = -(-num_samples // opts.num_gpus)
    numbers = [i * opts.num_gpus + opts.rank for i in range(share)]
    sampler = PPLSampler(
        G=opts.G, G_kwargs=opts.G_kwargs, epsilon=epsilon, space=space, sampling=sampling_mode, crop=crop, vgg16=vgg16,
        seed=opts.seed or 0, items=iter(numbers))
    sampler.eval().requires_grad_(False).to(opts.device)
    stats = metric_utils.FeatureStats(capture_all=True, max_items=num_samples)
    progress = opts.progress.sub(tag="path length", num_items=num_samples)
    for start in range(0, share, batch_size):
        c = labels.of(numbers[start : start + batch_size])
        with torch.no_grad():
            distances = sampler(c)
        stats.append_torch(distances[:, None], num_gpus=opts.num_gpus, rank=opts.rank)
        progress.update(stats.num_items)
    return stats.get_all()[:, 0] if opts.rank == 0 else np.zeros([0], dtype=np.float32)


@torch.no_grad()
def path_images(opts: metric_utils.MetricOptions, numbers: list[int], space: str, sampling_mode: str) -> np.ndarray:
    """The images, at the start of the step, of the samples with these numbers: uint8 `[N, H, W, C]`."""
    labels = PathLabels(opts)
    sampler = PPLSampler(
        G=opts.G, G_kwargs=opts.G_kwargs, epsilon=0, space=space, sampling=sampling_mode, crop=False,
        vgg16=torch.nn.Identity(), seed=opts.seed or 0, items=iter(numbers))
    sampler.eval().requires_grad_(False).to(opts.device)
    images = [sampling.to_uint8(sampler.image_pairs(labels.of([number]))[0]) for number in numbers]
    return torch.cat(images).permute(0, 2, 3, 1).cpu().numpy()


class PathLabels:
    """The label of each sample: that of a random real image, fixed by seed and number."""

    def __init__(self, opts: metric_utils.MetricOptions):
        self.label_fn, self.num_labels = metric_utils.label_source(opts)
        self.seed = opts.seed or 0
        self.device = opts.device

    def of(self, numbers: list[int]) -> torch.Tensor:
        """`[N, c_dim]`"""
        if self.label_fn is None:
            return torch.zeros([len(numbers), 0], device=self.device)
        gens = [sampling.item_generator(self.seed, sampling.STREAM_LATENT, i) for i in numbers]
        picks = [int(torch.randint(self.num_labels, [], generator=gen)) for gen in gens]
        return torch.from_numpy(np.stack([self.label_fn(pick) for pick in picks])).to(self.device)


def compute_ppl(
    opts: metric_utils.MetricOptions,
    num_samples: int,
    epsilon: float,
    space: str,
    sampling: str,
    crop: bool,
    batch_size: int,
    jit: bool = False,   # accepted for compatibility, see compute_feature_stats_for_generator
) -> float:
    """Trimmed mean of the path distances; NaN on ranks other than 0."""
    distances = path_distances(opts, num_samples, epsilon, space, sampling, crop, batch_size)
    return trimmed_mean(distances) if opts.rank == 0 else float("nan")
