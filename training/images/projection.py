"""Find the latents and noise maps with which a generator reproduces a given image.

Karras et al. 2020a (arXiv:1912.04958), section 5 and appendix D: gradient descent on one style vector and on the noise
maps, with noise on the style that fades out and a term that keeps the noise maps free of picture content. `project`
does that. `fit` may also start from the best of many samples, leave the noise maps alone, and fit a style per layer.

Letters in shapes: N batch, C channels, H W pixels, L layers (num_ws), B blocks of the latent grid (1 for StyleGAN2).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from dnnlib.util import UserError
from metrics.sampling import noise_maps
from training.images.distances import Distance, PerceptualDistance, load_vgg16
from training.images.generation import synthesize
from training.images.style_prior import StylePrior, style_prior

STATISTICS_SEED = 123       # of the samples that give the mean style


@dataclasses.dataclass(frozen=True)
class ProjectionOptions:
    """Settings of the search; the numbers from `w_avg_samples` on are the paper's.

    The noise maps stay as they are unless asked for: then the styles alone make the image, and one that the network
    made is reached exactly. The regulariser of fitted maps would draw them away from the network's own.
    """

    num_steps: int = 1000
    num_candidates: int = 256                # samples to choose the start from; 0: start from the mean style
    w_plus: bool = False                     # fit one style per layer instead of one for all?
    fit_noise: bool = False                  # fit the noise maps, too?
    seed: int = 303                          # of candidates and of the noise on the style
    stay: float = 0.0                        # weight of the squared deviations from the network's own styles
    w_avg_samples: int = 10_000              # block styles that the mean style is taken over
    initial_learning_rate: float = 0.1
    initial_noise_factor: float = 0.05       # noise on the style, in deviations of the style
    lr_rampdown_length: float = 0.25         # shares of all steps
    lr_rampup_length: float = 0.05
    noise_ramp_length: float = 0.75
    regularize_noise_weight: float = 1e5

    def __post_init__(self) -> None:
        for name, least in dict(num_steps=1, num_candidates=0, seed=0, stay=0, w_avg_samples=1).items():
            if not getattr(self, name) >= least:
                raise UserError(f"{name} must be >= {least}, got {getattr(self, name)}")
        for name in ("lr_rampdown_length", "lr_rampup_length", "noise_ramp_length"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be > 0, got {getattr(self, name)}")

    def learning_rate(self, t: float) -> float:
        """At time t in 0..1: a linear rise, then constant, then half a cosine down to zero."""
        fall = min(1.0, (1 - t) / self.lr_rampdown_length)
        return self.initial_learning_rate * (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, t / self.lr_rampup_length)

    def style_noise(self, t: float) -> float:
        """Strength of the noise on the style at time t in 0..1, in deviations of the style."""
        return self.initial_noise_factor * max(0.0, 1 - t / self.noise_ramp_length) ** 2


@dataclasses.dataclass(frozen=True)
class Projection:
    """What a search found."""

    ws: torch.Tensor                # [num_steps, L, w_dim]  styles after every step, on the CPU
    noise: dict[str, torch.Tensor]  # fitted noise maps by buffer name in G.synthesis; empty if they were not fitted
    start: str                      # what the search started from, in words
    start_distance: float
    distance: float                 # of the last styles, without noise on them


@torch.no_grad()
def style_statistics(
    G: torch.nn.Module, num_samples: int, label: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean style and deviation of the style, both `[1, 1, w_dim]`.

    The deviation is the root mean squared distance of a style from the mean, one number per block. The blocks of a
    grid share their distribution, so they are pooled: `num_samples` counts the styles of blocks.
    """
    sizes = [rows * cols for rows, cols in getattr(G, "block_grid", [[1, 1]])]
    random = np.random.RandomState(STATISTICS_SEED)
    num = -(-num_samples // sum(sizes))
    styles = []
    for first in range(0, num, 1000):
        z = torch.from_numpy(random.randn(min(1000, num - first), G.z_dim)).to(label)
        styles.append(G.mapping(z, label.expand(len(z), -1))[:, 0])
    w = torch.cat(styles).reshape(num, sum(sizes), -1)
    means, deviations = [], []
    for grid in w.split(sizes, dim=1):
        mean = grid.mean(dim=[0, 1])
        deviation = (grid - mean).square().sum(dim=2).mean().sqrt()
        means.append(mean.repeat(grid.shape[1]))
        deviations.append(deviation.expand(grid[0].numel()))
    return torch.cat(means)[None, None], torch.cat(deviations)[None, None]


@torch.no_grad()
def find_start(
    G: torch.nn.Module,
    target: torch.Tensor,          # [1, C, H, W] in -1..1
    distance: Distance,
    mean: torch.Tensor,            # [1, 1, w_dim]
    label: torch.Tensor,           # [1, c_dim]
    num_candidates: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, float, str]:
    """The style `[1, 1, w_dim]` nearest to the target, its distance, and what it is.

    Compared are the mean style, random ones, and for a generator with a grid of blocks also the mosaic: every block
    from the sample that fits best in that block's cell. 16 blocks chosen of 256 samples are 256^16 images.
    """
    def measure(w: torch.Tensor) -> float:
        return float(distance(synthesize(G, w.expand(-1, G.num_ws, -1), {})))

    found = {"the mean style": (measure(mean), mean)}
    if num_candidates:
        z = torch.randn([num_candidates, G.z_dim], generator=generator).to(target)
        w = torch.cat([G.mapping(part, label.expand(len(part), -1))[:, :1] for part in z.split(1000)])
        whole, per_block = _compare(G, w, target, distance)
        best = int(whole.argmin())
        found[f"the best of {num_candidates} samples"] = (float(whole[best]), w[best : best + 1])
        if per_block.shape[1] > 1:
            blocks = w.reshape(num_candidates, per_block.shape[1], -1)
            picks = per_block.argmin(dim=0)
            mosaic = blocks[picks, torch.arange(len(picks), device=picks.device)].reshape(1, 1, -1)
            found[f"the best of {num_candidates} samples for each block"] = (measure(mosaic), mosaic)
    start = min(found, key=lambda what: found[what][0])
    return found[start][1], found[start][0], start


def _compare(
    G: torch.nn.Module, w: torch.Tensor, target: torch.Tensor, distance: Distance
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances of the images of styles `[N, 1, w_dim]`: `[N]`, and the mean squared error in each block `[N, B]`."""
    grids = getattr(G, "block_grid", [[1, 1]])
    batch = min(max(2**22 // target[0, 0].numel(), 1), 16)   # 4 images of 1024x1024
    whole, per_block = [], []
    for part in w.split(batch):
        img = synthesize(G, part.expand(-1, G.num_ws, -1), {})
        whole.append(distance(img))
        change = (img - target).square().mean(dim=1, keepdim=True)
        per_block.append(torch.cat([F.adaptive_avg_pool2d(change, tuple(grid)).flatten(1) for grid in grids], dim=1))
    return torch.cat(whole), torch.cat(per_block)


def noise_autocorrelation(noise: torch.Tensor) -> torch.Tensor:
    """How much a noise map `[H, W]` resembles itself shifted by one pixel; zero expected for white noise.

    The squared mean of the product with a copy shifted down, and with one shifted right, both around the border, summed
    over a pyramid of 2x2 averages, which are doubled to keep the variance, down to 8 pixels (appendix D).
    """
    total = noise.new_zeros([])
    while True:
        for dim in (0, 1):
            total = total + (noise * noise.roll(1, dim)).mean().square()
        if min(noise.shape) <= 8:
            return total
        noise = F.avg_pool2d(noise[None], 2)[0] * 2


@torch.no_grad()
def normalize_noise(noise: torch.Tensor) -> None:
    """Bring a noise map to zero mean and unit variance, in place."""
    noise -= noise.mean()
    noise *= noise.square().mean().rsqrt()


def fit(
    G: torch.nn.Module,
    target: torch.Tensor,                            # [1, C, H, W] in -1..1
    distance: Distance,
    options: ProjectionOptions,
    label: torch.Tensor | None = None,               # [1, c_dim]; needed by a conditional network
    on_step: Callable[[float], None] | None = None,  # called after every step with the distance
    on_image: Callable[[torch.Tensor], None] | None = None,  # called in every step with the image [1, C, H, W]
) -> Projection:
    """Search for the styles and noise maps of G that come closest to the target. G is left as it was."""
    if label is None:
        if G.c_dim:
            raise UserError(f"a conditional network needs a label [1, {G.c_dim}] to project into")
        label = torch.zeros([1, 0], device=target.device)
    random = torch.Generator().manual_seed(options.seed)
    mean, deviation = style_statistics(G, options.w_avg_samples, label)
    w, start_distance, start = find_start(G, target, distance, mean, label, options.num_candidates, random)
    w = w.repeat(1, G.num_ws if options.w_plus else 1, 1).requires_grad_()
    fitted = noise_maps(G.synthesis) if options.fit_noise else {}
    noise = {name: value.clone().requires_grad_() for name, value in fitted.items()}
    history = torch.empty([options.num_steps, *w.shape[1:]])
    prior = style_prior(G, label) if options.stay else None
    for step, (found, img) in enumerate(_descend(G, distance, options, w, deviation, noise, random, prior)):
        history[step] = w.detach()[0]
        if on_image is not None:
            on_image(img)
        if on_step is not None:
            on_step(found)
    ws = history.expand(-1, G.num_ws, -1)
    noise = {name: value.detach() for name, value in noise.items()}
    with torch.no_grad():
        last = float(distance(synthesize(G, ws[-1:].to(target), noise)))
    if not math.isfinite(last):
        raise UserError(f"the search left the range of numbers: its last distance is {last}")
    return Projection(ws, noise, start, start_distance, last)


def _descend(
    G: torch.nn.Module,
    distance: Distance,
    options: ProjectionOptions,
    w: torch.Tensor,                 # [1, 1 or L, w_dim]  changed in place
    deviation: torch.Tensor,         # [1, 1, w_dim]
    noise: dict[str, torch.Tensor],  # changed in place
    random: torch.Generator,
    prior: StylePrior | None,
) -> Iterator[tuple[float, torch.Tensor]]:
    """Gradient descent on style and noise maps; yields the distance and the image of every step."""
    optimizer = torch.optim.Adam([w, *noise.values()], betas=(0.9, 0.999))
    for step in range(options.num_steps):
        t = step / options.num_steps
        optimizer.param_groups[0]["lr"] = options.learning_rate(t)
        wobble = torch.randn(w.shape, generator=random).to(w) * deviation * options.style_noise(t)
        img = synthesize(G, (w + wobble).expand(-1, G.num_ws, -1), noise)
        loss = found = distance(img).sum()
        if prior is not None:
            loss = loss + options.stay * prior.deviations(w).square().mean()
        for value in noise.values():
            loss = loss + options.regularize_noise_weight * noise_autocorrelation(value)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for value in noise.values():
            normalize_noise(value)
        yield found.item(), img.detach()


@torch.no_grad()
def distance_of(G: torch.nn.Module, found: Projection, distance: Distance) -> float:
    """Of the image that a network, such as a tuned one, makes of what was found."""
    device = next(G.parameters()).device
    return float(distance(synthesize(G, found.ws[-1:].to(device), found.noise)))


def project(
    G: torch.nn.Module,
    target: torch.Tensor,   # [C, H, W] in 0..255, of the size of G's images
    *,
    num_steps: int = 1000,
    w_avg_samples: int = 10000,
    initial_learning_rate: float = 0.1,
    initial_noise_factor: float = 0.05,
    lr_rampdown_length: float = 0.25,
    lr_rampup_length: float = 0.05,
    noise_ramp_length: float = 0.75,
    regularize_noise_weight: float = 1e5,
    verbose: bool = False,
    device: torch.device,
    seed: int = 303,
) -> torch.Tensor:          # [num_steps, L, w_dim]
    """The host's function: the paper's search from the mean style with LPIPS. Returns the styles after every step."""
    options = ProjectionOptions(
        num_steps=num_steps, num_candidates=0, fit_noise=True, seed=seed, w_avg_samples=w_avg_samples,
        initial_learning_rate=initial_learning_rate, initial_noise_factor=initial_noise_factor,
        lr_rampdown_length=lr_rampdown_length, lr_rampup_length=lr_rampup_length, noise_ramp_length=noise_ramp_length,
        regularize_noise_weight=regularize_noise_weight,
    )
    G = copy.deepcopy(G).eval().requires_grad_(False).to(device)
    img = target[None].to(device, torch.float32) / 127.5 - 1
    steps = itertools.count(1)

    def print_step(distance: float) -> None:
        print(f"step {next(steps)}/{num_steps}: distance {distance:.4f}", flush=True)

    distance = PerceptualDistance(img, load_vgg16(img.device, verbose))
    return fit(G, img, distance, options, on_step=print_step if verbose else None).ws.to(device)
