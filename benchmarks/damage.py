"""What do the metrics say of known damage? Half of a data set against the other half, as it is and damaged.

    python benchmarks/damage.py --data=castles64.zip --images=1000

Prints a table: a row for each damage, a column for each distance. A good distance is small in the first row, and in
every other row far larger. Damage that keeps every pixel (cells, mirrored halves, repeats) asks whether features see
the arrangement of parts and the variety of a set. ST-LPIPS compares each image with its own damaged copy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dnnlib.util import UserError
from metrics import detectors
from metrics.frechet_inception_distance import frechet_distance
from metrics.kernel_inception_distance import squared_mmd
from training.cli import Command
from training.dataset import ImageFolderDataset

FEATURES = {"rfid, rkid": detectors.RANDOM_VGG16_URL, "fid_lite, kid_lite": detectors.EFFICIENTNET_URL}
CELLS = 4         # a side is cut into as many
REPEATED = 10     # different images that are left


def blur(img: torch.Tensor) -> torch.Tensor:
    """Mean over 3x3 pixels."""
    return F.avg_pool2d(F.pad(img, [1] * 4, mode="replicate"), 3, stride=1)


def noise(img: torch.Tensor) -> torch.Tensor:
    """Normal noise with a deviation of 20 grey values."""
    return (img + 20 * torch.randn(img.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255)


def shuffle_cells(img: torch.Tensor) -> torch.Tensor:
    """The 16 cells of each image in another order."""
    n, c, h, w = img.shape
    cells = img.reshape(n, c, CELLS, h // CELLS, CELLS, w // CELLS).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    gen = torch.Generator().manual_seed(2)
    cells = torch.stack([image[torch.randperm(CELLS**2, generator=gen)] for image in cells])
    return cells.unflatten(1, (CELLS, CELLS)).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


def mirror_halves(img: torch.Tensor) -> torch.Tensor:
    """The left half, and its mirror image where the right one was."""
    left = img[..., : img.shape[3] // 2]
    return torch.cat([left, left.flip(3)], dim=3)


def repeat_a_few(img: torch.Tensor) -> torch.Tensor:
    """The first images over and over."""
    return img[torch.arange(len(img)) % REPEATED]


DAMAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda img: img,
    "blurred, 3x3": blur,
    "noise, deviation 20": noise,
    "4x4 cells shuffled": shuffle_cells,
    "left half mirrored": mirror_halves,
    f"{REPEATED} images repeated": repeat_a_few,
}


@click.command(cls=Command, help=__doc__)
@click.option("--data", required=True, metavar="PATH", help="Folder or zip of images")
@click.option("--images", type=click.IntRange(min=20), default=1000, show_default=True, help="Images in each half")
def main(data: str, images: int) -> None:
    first, second = load_halves(data, images)
    originals = {name: extract(url, first) for name, url in FEATURES.items()}
    names = [part for name in FEATURES for part in name.split(", ")]
    click.echo("| damage | " + " | ".join([*names, "ST-LPIPS"]) + " |\n|" + "---|" * (len(names) + 2))
    for damage, apply in DAMAGES.items():
        damaged = apply(second)
        numbers = []
        for name, url in FEATURES.items():
            numbers += distances(originals[name], extract(url, damaged))
        if damage != f"{REPEATED} images repeated":   # an image has no damaged copy there
            pairs = [extract(detectors.STLPIPS_URL, img[:100]) for img in (second, damaged)]
            numbers.append(float(np.square(pairs[0] - pairs[1]).sum(axis=1).mean()))
        click.echo(f"| {damage} | " + " | ".join([*(f"{number:.4g}" for number in numbers), ""]))


def load_halves(path: str, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of different images [N, 3, H, W] in 0..255."""
    data = ImageFolderDataset(path)
    if len(data) < 2 * images:
        raise UserError(f"--images must be at most {len(data) // 2}, half of those in {path}, got {images}")
    order = np.random.RandomState(0).permutation(len(data))[: 2 * images]
    stacked = torch.from_numpy(np.stack([data[i][0] for i in order])).float()
    if stacked.shape[1] != 3 or stacked.shape[2] % CELLS or stacked.shape[3] % (2 * CELLS):
        raise UserError(f"{path} must hold RGB images whose sides {2 * CELLS} divides, got {list(stacked.shape[1:])}")
    return stacked[:images], stacked[images:]


@torch.inference_mode()
def extract(url: str, img: torch.Tensor) -> np.ndarray:
    """Features [N, F] of images in 0..255."""
    detector = detectors.load(url)
    return np.concatenate([detector(batch).numpy() for batch in img.split(32)])


def distances(real: np.ndarray, other: np.ndarray) -> list[float]:
    """Frechet and kernel distance of two sets of features."""
    real, other = (x.astype(np.float64) for x in (real, other))
    moments = [part for x in (other, real) for part in (x.mean(axis=0), np.cov(x, rowvar=False))]
    return [frechet_distance(*moments), squared_mmd(other, real)]


if __name__ == "__main__":
    main()
