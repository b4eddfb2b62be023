"""A sheet that shows what truncation does: a row for each seed, a column for each psi."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch

import dnnlib
from dnnlib.util import UserError
from training.images.generation import class_to_label, device_of, image_of_seed, series_name
from training.images.image_commands import MAX_TRUNCATION
from training.images.pictures import draw_labelled_grid

MAX_CELLS = 2000   # 130 million pixels at the largest tile


def parse_psis(text: str, num_seeds: int) -> list[float]:
    """`-1,0,0.5,1` -> values of psi in the given order. ValueError if they are not finite numbers, or too many."""
    try:
        psis = [float(part) for part in text.split(",")]
    except ValueError:
        psis = []
    if not psis or not all(map(math.isfinite, psis)):
        raise UserError(f"truncation values must look like 0.5,0.7,1, got {text!r}")
    if max(map(abs, psis)) > MAX_TRUNCATION:
        raise UserError(f"truncation values must be within -{MAX_TRUNCATION}..{MAX_TRUNCATION}, got {text!r}")
    if num_seeds * len(psis) > MAX_CELLS:
        raise UserError(f"a truncation grid may have at most {MAX_CELLS} images, got {num_seeds} x {len(psis)}")
    return psis


def save_truncation_grid(
    G: torch.nn.Module,
    seeds: Sequence[int],
    psis: Sequence[float],
    class_idx: int | Sequence[float] | None,   # or a label vector
    noise_mode: str,
    outdir: str,
) -> str:
    """Write `seed0003-seed0007-trunc.png`, named by its first and its last seed; returns the path.

    Each image is that of `generation.save_seeds` with the same seed and psi.
    """
    c = class_to_label(class_idx, G.c_dim).to(device_of(G))
    images = (image_of_seed(G, seed, c, psi, noise_mode) for seed in seeds for psi in psis)
    page = draw_labelled_grid(images, [f"seed {seed}" for seed in seeds], [f"psi {psi:g}" for psi in psis])
    os.makedirs(outdir, exist_ok=True)
    path = os.path.join(outdir, f"{series_name(seeds)}-trunc.png")
    with dnnlib.util.open_atomic(path) as file:
        page.save(file, format="PNG")
    return path
