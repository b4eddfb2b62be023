"""What a run leaves behind: grids of example images and network pickles.

Letters in shapes: N images of a grid, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import PIL.Image
import torch

import dnnlib
from dnnlib.util import UserError
from training.dataset import Dataset
from training.network_files import frozen_copy


def setup_snapshot_image_grid(
    training_set: Dataset, random_seed: int = 0
) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Choose the real images of the preview grid: about 8K pixels, 7 to 32 columns and 4 to 32 rows.

    Without labels the images are random ones. With labels every row shows one label.
    Returns (columns, rows), images uint8 [N, C, H, W] and labels float32 [N, label_dim].
    """
    grid_size, indices = choose_grid(training_set, random_seed)
    return grid_size, *load_items(training_set, indices)


def choose_grid(training_set: Dataset, random_seed: int) -> tuple[tuple[int, int], np.ndarray]:
    """(columns, rows) of `setup_snapshot_image_grid`, and which items it shows, row by row [N]."""
    _, height, width = training_set.image_shape
    columns = int(np.clip(7680 // width, 7, 32))
    rows = int(np.clip(4320 // height, 4, 32))
    rnd = np.random.RandomState(random_seed)
    if training_set.has_labels:
        return (columns, rows), np.array(rows_by_label(training_set, columns, rows, rnd))
    order = np.arange(len(training_set))
    rnd.shuffle(order)
    return (columns, rows), np.resize(order, columns * rows)


def load_items(training_set: Dataset, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, C, H, W] and labels float32 [N, label_dim] of these items."""
    images, labels = zip(*(training_set[int(i)] for i in indices))
    return np.stack(images), np.stack(labels)


def rows_by_label(training_set: Dataset, columns: int, rows: int, rnd: np.random.RandomState) -> list[int]:
    """Item indices of a grid whose rows run through the labels, and through the items of a label where it returns."""
    groups: dict[tuple, list[int]] = {}
    for i in range(len(training_set)):
        # Reversed: one-hot vectors and class indices sort alike, by class.
        label = tuple(np.ravel(training_set.get_details(i).raw_label)[::-1].tolist())
        groups.setdefault(label, []).append(i)
    ordered = [groups[label] for label in sorted(groups)]
    for group in ordered:
        rnd.shuffle(group)
    indices = []
    for row in range(rows):
        group = ordered[row % len(ordered)]
        first = row // len(ordered) * columns
        indices += [group[(first + column) % len(group)] for column in range(columns)]
    return indices


def save_image_grid(
    img: np.ndarray,             # [N, C, H, W], N = columns * rows, C one of 1, 3, 4
    fname: str,
    drange: tuple[float, float],  # values that become black and white
    grid_size: tuple[int, int],  # columns, rows
) -> None:
    """Write images as one PNG, row by row."""
    low, high = drange
    columns, rows = grid_size
    pixels = np.rint((np.asarray(img, dtype=np.float32) - low) * (255 / (high - low)))
    num, channels, height, width = pixels.shape
    if num != columns * rows or channels not in (1, 3, 4):
        raise UserError(f"a grid of {columns}x{rows} needs {columns * rows} images of 1, 3 or 4 channels, "
                        f"got shape {list(pixels.shape)}")
    grid = pixels.clip(0, 255).astype(np.uint8).reshape(rows, columns, channels, height, width)
    grid = grid.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    image = PIL.Image.fromarray(grid[:, :, 0] if channels == 1 else grid)
    with dnnlib.util.open_atomic(fname, "wb") as file:
        image.save(file, format="PNG", compress_level=3)  # level 6 takes longer for the same size


class PreviewGrid:
    """The same latents and labels at every snapshot, so that one can watch images develop."""

    def __init__(
        self,
        training_set: Dataset,
        z_dim: int,
        device: torch.device,
        batch_size: int,                                  # images generated at a time
        random_seed: int = 0,
        largest_grid: Sequence[int] | None = None,        # columns, rows; None: what setup_snapshot_image_grid chooses
    ):
        self.grid_size, indices = crop_grid(*choose_grid(training_set, random_seed), largest_grid)
        self.reals, labels = load_items(training_set, indices)
        generator = torch.Generator().manual_seed(random_seed)
        self._z = torch.randn([len(labels), z_dim], generator=generator).to(device).split(batch_size)
        self._c = torch.from_numpy(labels).to(device).split(batch_size)

    def save_reals(self, fname: str) -> None:
        """Write the real images beside which the generated ones are judged."""
        save_image_grid(self.reals, fname, drange=(0, 255), grid_size=self.grid_size)

    def save_fakes(self, G_ema: torch.nn.Module, fname: str) -> None:
        """Write the images that `G_ema` makes of the latents, with constant noise."""
        with torch.no_grad():
            images = [G_ema(z=z, c=c, noise_mode="const").cpu() for z, c in zip(self._z, self._c)]
        save_image_grid(torch.cat(images).numpy(), fname, drange=(-1, 1), grid_size=self.grid_size)


class Sheet(Protocol):
    """A picture of the network beside every snapshot, besides the preview. Plugins name theirs in `RunOptions.sheets`.

    It is constructed with the arguments that stand there.
    """

    name: str  # of the files, before the thousands of images

    def draw(self, G_ema: torch.nn.Module) -> np.ndarray:
        """uint8 [H, W, C], the same for the same network; C is 1, 3 or 4."""
        raise NotImplementedError


def save_sheet(image: np.ndarray, fname: str) -> None:
    """Write a picture, uint8 [H, W, C]."""
    save_image_grid(image.transpose(2, 0, 1)[None], fname, drange=(0, 255), grid_size=(1, 1))


def crop_grid(
    grid_size: tuple[int, int], indices: np.ndarray, largest: Sequence[int] | None
) -> tuple[tuple[int, int], np.ndarray]:
    """The upper left part of a grid of items that has at most `largest` columns and rows."""
    if largest is None:
        return grid_size, indices
    columns, rows = (min(size, limit) for size, limit in zip(grid_size, largest))
    if columns < 1 or rows < 1:
        raise UserError(f"the preview grid must have at least one column and row, got {largest[0]}x{largest[1]}")
    return (columns, rows), indices.reshape(grid_size[1], grid_size[0])[:rows, :columns].ravel()


def network_snapshot(
    G: torch.nn.Module,
    D: torch.nn.Module,
    G_ema: torch.nn.Module,
    augment_pipe: torch.nn.Module | None,
    training_set_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of a network pickle: copies of the modules in eval mode, without gradients, on the CPU."""
    modules = {"G": G, "D": D, "G_ema": G_ema, "augment_pipe": augment_pipe}
    snapshot: dict[str, Any] = {"training_set_kwargs": dict(training_set_kwargs)}
    snapshot.update({name: frozen_copy(module) for name, module in modules.items()})
    return snapshot
