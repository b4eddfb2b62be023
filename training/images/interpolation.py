"""Films that move through latent space from the image of one seed to that of the next."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from dnnlib.util import UserError
from metrics import sampling
from training.images.generation import call_with_seed, class_to_label, device_of, seed_to_z, series_name, to_uint8
from training.images.video import FilmFormat, save_film

MAX_FRAMES = 100_000   # an hour at 30 frames a second; more is a slip of the keyboard


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """Which way a film goes."""

    seeds: Sequence[int]   # images to pass through
    steps: int             # frames from one seed to the next
    space: str = "w"       # in a straight line through the styles 'w', or on the sphere of the latents 'z'
    loop: bool = False     # return to the first seed at the end?

    def __post_init__(self) -> None:
        if self.space not in ("w", "z"):
            raise UserError(f"an interpolation is in space w or z, got {self.space!r}")
        if len(self.seeds) < 2 or self.steps < 1:
            raise UserError(f"an interpolation needs at least two seeds and one frame for each, got {len(self.seeds)} "
                            f"and {self.steps}")
        if self.num_frames > MAX_FRAMES:
            raise UserError(f"a film may have at most {MAX_FRAMES} frames, got {self.num_frames}")

    @property
    def num_frames(self) -> int:
        """A loop ends one frame before its start, so that it can be repeated without a stop."""
        return len(self.seeds) * self.steps if self.loop else (len(self.seeds) - 1) * self.steps + 1


def slerp(a: torch.Tensor, b: torch.Tensor, t: float, num_blocks: int = 1) -> torch.Tensor:
    """Spherical interpolation of latents `[1, z_dim]`: each block turns from a to b at constant speed.

    A network normalises every block of its latent, so that only directions count. On the straight line the direction
    would change fastest in the middle. The lengths change linearly.
    """
    x, y = a.reshape(num_blocks, -1), b.reshape(num_blocks, -1)
    length = x.norm(dim=1, keepdim=True).lerp(y.norm(dim=1, keepdim=True), t)
    return (sampling.slerp(x, y, t) * length).reshape(a.shape)


@torch.no_grad()
def interpolation_frames(
    G: torch.nn.Module,
    path: Interpolation,
    class_idx: int | Sequence[float] | None = None,   # or a label vector
    truncation_psi: float = 1,
    noise_mode: str = "const",   # random: the maps of the first seed in all frames, which would flicker otherwise
) -> Iterator[np.ndarray]:
    """The frames, uint8 `[H, W, C]`. Every `steps`-th is the image of a seed."""
    device = device_of(G)
    c = class_to_label(class_idx, G.c_dim).to(device)
    num_blocks = sum(math.prod(grid) for grid in getattr(G, "block_grid", [[1, 1]]))
    latents = [seed_to_z(seed, G.z_dim).to(device) for seed in path.seeds]
    if path.space == "w":
        latents = [G.mapping(z, c, truncation_psi=truncation_psi) for z in latents]
    for frame in range(path.num_frames):
        start, t = frame // path.steps, frame % path.steps / path.steps
        before, after = latents[start], latents[(start + 1) % len(latents)]
        if path.space == "w":
            ws = before.lerp(after, t)
        else:
            z = slerp(before, after, t, num_blocks) if t else before   # the very image of the seed
            ws = G.mapping(z, c, truncation_psi=truncation_psi)
        yield to_uint8(call_with_seed(G.synthesis, path.seeds[0], noise_mode, ws))[0]


def save_interpolation(
    frames: Iterator[np.ndarray],
    path: Interpolation,
    fps: int,
    outdir: str,
    film_format: FilmFormat,
    on_frame: Callable[[], None] | None = None,   # called with every frame
) -> str:
    """Write the film `seed0003-seed0007.mp4` (or .webp), named by its first and its last seed; returns its path."""
    os.makedirs(outdir, exist_ok=True)
    name = os.path.join(outdir, series_name(path.seeds))
    return save_film(frames, path.num_frames, fps, name, film_format, on_frame)
