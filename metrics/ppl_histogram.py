"""Distribution of the path length over images (StyleGAN2, arXiv:1912.04958, Figures 4 and 5)."""

from __future__ import annotations

import os

import numpy as np

import dnnlib
from dnnlib.util import UserError
from training.images import pictures

from . import metric_utils, perceptual_path_length

SHEET_IMAGES = 60   # at most, per sheet


def pick_tenth(distances: np.ndarray, lowest: bool, max_items: int) -> np.ndarray:
    """Sample numbers of the lowest (or highest) tenth, at most `max_items`, spread evenly over it, in rising order."""
    order = np.argsort(distances, kind="stable")
    tenth = max(len(order) // 10, 1)
    order = order[:tenth] if lowest else order[-tenth:]
    return order[np.linspace(0, len(order) - 1, min(len(order), max_items)).round().astype(int)]


def save(
    opts: metric_utils.MetricOptions,
    name: str,                 # of the metric; the files start with it
    distances: np.ndarray,     # [N]
    space: str,
    sampling: str,
) -> list[str]:
    """Write the distances, their histogram, and sheets of images from both ends. Returns the paths."""
    if opts.outdir is None:
        raise UserError("a path length histogram needs an output folder")
    base = os.path.join(opts.outdir, name)
    with dnnlib.util.open_atomic(f"{base}-distances.npy") as file:
        np.save(file, distances)
    mean = perceptual_path_length.trimmed_mean(distances)
    note = f"{len(distances):,} samples, space {space}, sampling {sampling}, seed {opts.seed or 0}"
    drawings = {"histogram": pictures.draw_histogram(
        distances, mean, f"trimmed mean {mean:.4g}", "Perceptual path length per sample", note)}
    for lowest, end in ((True, "lowest"), (False, "highest")):
        numbers = pick_tenth(distances, lowest, SHEET_IMAGES)
        images = perceptual_path_length.path_images(opts, numbers.tolist(), space, sampling)
        limits = f"{distances[numbers[0]]:.4g} to {distances[numbers[-1]]:.4g}"
        drawings[end] = pictures.draw_sheet(images, f"The {end} tenth: {limits}", note)
    for part, image in drawings.items():
        with dnnlib.util.open_atomic(f"{base}-{part}.png") as file:
            image.save(file, format="PNG")
    return [f"{base}-distances.npy", *(f"{base}-{part}.png" for part in drawings)]
