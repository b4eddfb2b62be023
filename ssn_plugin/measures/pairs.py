"""Pairs of images: one, and the same with one block redrawn.

Letters: N pairs, B = R*S blocks of the latent grid (the finest of several), C channels, H W pixels, K numbers per pair.
Both images of a pair have the same noise maps: fresh unit normals for every pair, as in training. No truncation; images
in -1..1, before rounding. Every draw depends on (seed, number of the pair) alone.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from metrics import metric_utils
from ssn_plugin.block_grid import block_grid_of, first_block
from ssn_plugin.edits.resample import keyed_normal, redraw_blocks, run
from ssn_plugin.errors import UserError
from ssn_plugin.networks import side_lengths

# First word of a random key. Numbers of their own: a pair must not share draws with `ssn_plugin.edits.resample`.
LATENT_STREAM, FRESH_STREAM, NOISE_STREAM, BLOCK_STREAM, LABEL_STREAM, ORDER_STREAM = range(101, 107)

LabelFn = Callable[[int], np.ndarray]   # number of a pair -> label vector [c_dim]
# (before, after [N, C, H, W], blocks [N]) -> [N, K]
Measure = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What images are drawn from, and by which process."""

    seed: int = 0
    batch_size: int = 16                  # pairs, or single images, at a time
    device: torch.device | None = None    # None: where the network is
    label_fn: LabelFn | None = None       # None: uniformly drawn classes, where the network takes any
    num_gpus: int = 1                     # processes that share the work
    rank: int = 0
    progress: Any = None                  # metric_utils.ProgressMonitor; counts images

    def batches(self, count: int) -> Iterator[list[int]]:
        """Numbers of the items of this process, a batch at a time.

        All processes get equally many, so some numbers may exceed `count`; `FeatureStats(max_items=count)` drops those.
        """
        share = -(-count // self.num_gpus)
        for start in range(0, share, self.batch_size):
            yield [i * self.num_gpus + self.rank for i in range(start, min(start + self.batch_size, share))]

    def frozen_copy(self, G: Any) -> tuple[Any, torch.device]:
        """The network in evaluation mode on the device; the caller's may be in training."""
        device = self.device or next(G.parameters()).device
        return copy.deepcopy(G).eval().requires_grad_(False).to(device), device


def measure_pairs(
    G: Any,
    num_pairs: int,
    measure: Measure,
    uniform_blocks: bool = True,   # False: pair i redraws block i mod B, so that all blocks come equally often
    **sampling: Any,               # fields of `Sampling`
) -> np.ndarray:                   # [N, K]
    """Apply `measure` to pairs of images. With several processes each measures its share and gets all results."""
    if num_pairs < 1:
        raise UserError(f"the number of pairs must be at least 1, got {num_pairs}")
    how = Sampling(**sampling)
    grid = block_grid_of(G, "the network")
    G, device = how.frozen_copy(G)
    stats = metric_utils.FeatureStats(capture_all=True, max_items=num_pairs)
    for numbers in how.batches(num_pairs):
        in_turn = torch.tensor(numbers) % (grid[0] * grid[1])
        blocks = draw_blocks(numbers, grid, how.seed) if uniform_blocks else in_turn
        before, after = synthesize_pairs(G, numbers, blocks, how.seed, device, how.label_fn)
        values = measure(before, after, blocks.to(device))
        stats.append_torch(values, num_gpus=how.num_gpus, rank=how.rank)
        if how.progress is not None:
            how.progress.update(2 * stats.num_items)   # images
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
    kwargs: dict[str, Any] = dict(noise_mode="const") if noise is None else dict(noise=noise)
    img = run(G.synthesis, ws, **kwargs)
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


def redraw_all_blocks(z: torch.Tensor, block_z_dim: int, seed: int, number: int) -> torch.Tensor:
    """Redraw every block of `z`, of all grids, one after the other in random order. [1, B*bz] -> [1, B*bz]"""
    order = np.random.RandomState([ORDER_STREAM, seed, number]).permutation(z.shape[1] // block_z_dim)
    for step, block in enumerate(order.tolist()):
        z = redraw_blocks(z, [block], block_z_dim, seed, step, variant=number)
    return z
