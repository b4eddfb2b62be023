"""Images and labels for training.

`Dataset` is what the training loop and the metrics see; `ImageFolderDataset` fills it from a folder or zip.

Shapes: N images of the source, C channels, H x W pixels. Images are uint8, `[C, H, W]` in memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch.utils.data

import dnnlib
from dnnlib.util import UserError
from training.data.decoding import PLAIN_MODES
from training.data.image_files import LABEL_FILE, ImageArchive, describe_others, is_image_name, list_folder
from training.data.labels import check_every_image_has_a_label, read_labels
from training.data.messages import describe_shape, one_line, shorten

__all__ = [
    "LABEL_FILE", "Dataset", "ImageArchive", "ImageFolderDataset", "describe_shape", "is_image_name", "list_folder",
    "one_line", "read_labels",
]

DATASET_CHOICES = ("max_size", "use_labels", "xflip", "random_seed")   # arguments of `Dataset` besides name and shape
ITEM = np.dtype([("raw_idx", np.int64), ("mirrored", np.bool_)])   # an image of the source, as it is or mirrored


def choose_items(num_raw: int, max_size: int | None, xflip: bool, random_seed: int) -> np.ndarray:
    """Items of a data set in order, ITEM `[len]`: a random subset of the source, then the mirrored copy of it all."""
    raw_idx = np.arange(num_raw)
    if max_size is not None and max_size < num_raw:
        raw_idx = np.sort(np.random.RandomState(random_seed).permutation(num_raw)[:max_size])
    items = np.zeros([2 if xflip else 1, len(raw_idx)], dtype=ITEM)
    items["raw_idx"] = raw_idx
    items["mirrored"][1:] = True
    return items.ravel()


def check_choice(max_size: Any, use_labels: Any, xflip: Any, random_seed: Any) -> None:
    """`UserError` unless these arguments of `Dataset`, which may come from a file, have possible values."""
    if max_size is not None and not (is_integer(max_size) and max_size >= 1):
        raise UserError(f"max_size must be at least 1, got {shorten(max_size)}")
    for name, value in (("use_labels", use_labels), ("xflip", xflip)):
        if value not in (True, False):
            raise UserError(f"{name} must be true or false, got {shorten(value)}")
    if not (is_integer(random_seed) and 0 <= random_seed < 2**32):
        raise UserError(f"random_seed must be in 0..{2**32 - 1}, got {shorten(random_seed)}")


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


class LabelTable:
    """Labels of all images of a source as it stores them: class indices int64 `[N]` or vectors float32 `[N, width]`."""

    def __init__(self, stored: np.ndarray):
        self.stored = stored
        self.are_classes = stored.dtype == np.int64
        self.width = int(stored.max()) + 1 if self.are_classes else stored.shape[1]

    def vector(self, raw_idx: int) -> np.ndarray:
        """Label as networks take it, a new float32 `[width]`: the stored vector, or the one-hot form of a class."""
        if not self.are_classes:
            return self.stored[raw_idx].copy()
        onehot = np.zeros(self.width, dtype=np.float32)
        onehot[self.stored[raw_idx]] = 1
        return onehot


class Dataset(torch.utils.data.Dataset):
    """Images with optional labels, a fixed random subset of them, and mirrored copies.

    Sub-classes implement `_load_raw_image(raw_idx)` and, where there are labels, `_load_raw_labels()`; they may
    implement `close()`. The raw index counts the images of the source, before `max_size` and `xflip`.
    """

    left_out = ""   # files of the source that are no images, in words

    def __init__(
        self,
        name: str,
        raw_shape: Sequence[int],      # N, C, H, W of the source
        max_size: int | None = None,   # keep a subset of this size, drawn with `random_seed`; None keeps all
        use_labels: bool = False,      # False ignores the labels: every image then has a label of width 0
        xflip: bool = False,           # append a mirrored copy of every kept image
        random_seed: int = 0,
    ):
        check_choice(max_size, use_labels, xflip, random_seed)
        self.name = name
        self.num_raw, *self.image_shape = (int(size) for size in raw_shape)   # image_shape: C, H, W
        self._reads_labels = use_labels
        self._items = choose_items(self.num_raw, max_size, xflip, random_seed)

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        """Image `raw_idx` as uint8 `[C, H, W]`."""
        raise NotImplementedError

    def _load_raw_labels(self) -> np.ndarray | None:
        """Class indices int64 `[N]`, or label vectors float32 `[N, width]`, or None."""
        return None

    def close(self) -> None:
        """Release open files; the data set opens them again when needed."""

    @cached_property
    def _labels(self) -> LabelTable:
        """Read when a label is first asked for."""
        stored = self._load_raw_labels() if self._reads_labels else None
        if stored is None:
            stored = np.zeros([self.num_raw, 0], dtype=np.float32)
        kind = stored.dtype, stored.ndim
        if len(stored) != self.num_raw or kind not in ((np.int64, 1), (np.float32, 2)):
            raise UserError(f"{self.name}: labels must be int64 [{self.num_raw}] or float32 [{self.num_raw}, width], "
                            f"got {stored.dtype} {list(stored.shape)}")
        return LabelTable(stored)

    def __getstate__(self) -> dict[str, Any]:
        """The labels stay behind; a process that needs them reads them again."""
        return {key: value for key, value in self.__dict__.items() if key != "_labels"}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 `[C, H, W]` and label float32 `[label_dim]`, both free to be changed by the caller."""
        raw_idx, mirrored = self._items[idx].item()
        image = self._load_raw_image(raw_idx)
        if image.dtype != np.uint8 or list(image.shape) != self.image_shape:
            raise UserError(f"{self.name}: image {raw_idx} must be uint8 of shape {self.image_shape}, "
                            f"got {image.dtype} of shape {list(image.shape)}")
        return (np.flip(image, axis=2) if mirrored else image).copy(), self.get_label(idx)

    def get_label(self, idx: int) -> np.ndarray:
        """Label of item `idx`, a new float32 `[label_dim]`."""
        return self._labels.vector(self._items["raw_idx"][idx])

    def get_details(self, idx: int) -> dnnlib.EasyDict:
        """`raw_idx`, `xflip` and `raw_label` (as stored, not one-hot) of item `idx`."""
        raw_idx, mirrored = self._items[idx].item()
        return dnnlib.EasyDict(raw_idx=raw_idx, xflip=mirrored, raw_label=self._labels.stored[raw_idx].copy())

    @property
    def num_channels(self) -> int:
        return self.image_shape[0]

    @property
    def resolution(self) -> int:
        """Side of the images, which must be square."""
        _, height, width = self.image_shape
        if height != width:
            raise UserError(f"{self.name}: images must be square, they are {width}x{height}")
        return height

    @property
    def img_resolution(self) -> int | list[int]:
        """The size as networks take it: the side of square images, [H, W] of others."""
        _, height, width = self.image_shape
        return height if height == width else [height, width]

    @property
    def label_dim(self) -> int:
        """Width of a label as returned; counts the classes of all images, also of those that `max_size` leaves out."""
        return self._labels.width

    @property
    def label_shape(self) -> list[int]:
        return [self.label_dim]

    @property
    def has_labels(self) -> bool:
        return self.label_dim > 0

    @property
    def has_onehot_labels(self) -> bool:
        """Whether the stored labels are class indices."""
        return self._labels.are_classes


def height_and_width(resolution: Any) -> tuple[int, int]:
    """(H, W) of a resolution: a side, or [H, W]."""
    sides = [resolution, resolution] if is_integer(resolution) else resolution
    if isinstance(sides, (list, tuple)) and len(sides) == 2 and all(map(is_integer, sides)):
        return sides[0], sides[1]
    raise UserError(f"resolution must be a side in pixels, or [height, width], got {shorten(resolution)}")


class ImageFolderDataset(Dataset):
    """All images below a folder or inside a zip, in the order of their relative paths, labelled by `dataset.json`.

    Raises `OSError` for a path that cannot be read, holds no image, or has not the asked `resolution`; an image that
    cannot be read raises `OSError` and one unlike the first image `UserError`, both with the name of the file.
    """

    def __init__(
        self,
        path: str,
        resolution: int | Sequence[int] | None = None,   # what the images must have: a side, or [H, W]
        **super_kwargs: Any,                             # further arguments of Dataset
    ):
        unknown = sorted(super_kwargs.keys() - DATASET_CHOICES)
        if unknown:
            raise UserError(f"a data set of images has no argument {shorten(unknown[0])}; it has path, resolution, "
                            f"{', '.join(DATASET_CHOICES)}")
        self._archive = ImageArchive(str(path))
        names = self._archive.image_names
        if not names:
            others = describe_others(self._archive.others)
            raise OSError(f"{path} contains no image" + (f", but {others}" if others else ""))
        self.left_out = describe_others(self._archive.others)
        first = self._read_pixels(names[0])   # [C, H, W]
        if resolution is not None:
            height, width = height_and_width(resolution)
            if first.shape[1:] != (height, width):
                raise OSError(f"{path}: images must be {width}x{height}, {names[0]} is {describe_shape(first.shape)}")
        stem, _ = os.path.splitext(os.path.basename(os.path.abspath(path)))
        super().__init__(name=stem, raw_shape=[len(names), *first.shape], **super_kwargs)

    def close(self) -> None:
        self._archive.close()

    def _read_pixels(self, file_name: str) -> np.ndarray:
        """Content of an image file, uint8 `[C, H, W]`."""
        image = self._archive.load_image(file_name)
        if image.mode not in PLAIN_MODES:   # gray with transparency
            image = image.convert("RGBA")
        pixels = np.atleast_3d(np.asarray(image))   # [H, W, C]
        return pixels.transpose(2, 0, 1)

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        names = self._archive.image_names
        pixels = self._read_pixels(names[raw_idx])
        if list(pixels.shape) != self.image_shape:
            raise UserError(f"{self._archive.path}: all images must be alike, {names[raw_idx]} is "
                            f"{describe_shape(pixels.shape)} and {names[0]} is {describe_shape(self.image_shape)}")
        return pixels

    def _load_raw_labels(self) -> np.ndarray | None:
        labels = read_labels(self._archive)
        if labels is None:
            return None
        check_every_image_has_a_label(self._archive, labels)
        values = [labels[name] for name in self._archive.image_names]
        return np.array(values, dtype=np.int64 if isinstance(values[0], int) else np.float32)
