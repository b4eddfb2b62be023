"""Where the images of a new data set come from: folders, zips, LSUN, CIFAR-10, MNIST, or the drawing of castles.

A source is opened once, to read its table of contents, and then asked for its images by number. It can be pickled, so
that several processes share the work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image

from training.data import castles
from training.data.array_sources import CIFAR10_CLASSES, read_cifar10, read_mnist
from training.data.conversion_options import ConversionOptions
from training.data.image_files import ImageArchive, decode_image, read_labels
from training.data.lmdb_table import open_table

Label = int | list[float]


class Source:
    """Images by number in a fixed order, each with a name for messages and a label or None."""

    class_names: Sequence[str] | None = None   # what the classes 0, 1, ... mean, where the source knows
    in_memory = False            # converting an image is then faster than handing it to another process
    hazard: str | None = None    # why loading an image may end the process, for a message; only workers load it then

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, idx: int) -> str:
        """`OSError` with one line if no image can be found under this number: the source as a whole is damaged."""
        raise NotImplementedError

    def label(self, idx: int) -> Label | None:
        return None

    def load(self, idx: int) -> PIL.Image.Image:
        """The decoded image. `OSError` with one line that names it if it cannot be read."""
        raise NotImplementedError


class ImageFiles(Source):
    """Image files of a folder or zip, sorted by path."""

    def __init__(self, archive: ImageArchive, names: list[str], labels: dict[str, Label],
                 class_names: Sequence[str] | None = None):
        self._archive, self._names, self._labels, self.class_names = archive, names, labels, class_names

    def __len__(self) -> int:
        return len(self._names)

    def name(self, idx: int) -> str:
        return self._names[idx]

    def label(self, idx: int) -> Label | None:
        return self._labels.get(self._names[idx])

    def load(self, idx: int) -> PIL.Image.Image:
        return self._archive.load_image(self._names[idx])


class ImageArrays(Source):
    """Labelled images in memory: uint8 `[N, H, W]` or `[N, H, W, 3]`."""

    in_memory = True

    def __init__(self, images: np.ndarray, labels: Sequence[int], class_names: Sequence[str] | None = None):
        self._images, self._labels, self.class_names = images, labels, class_names

    def __len__(self) -> int:
        return len(self._images)

    def name(self, idx: int) -> str:
        return f"image {idx}"

    def label(self, idx: int) -> Label | None:
        return self._labels[idx]

    def load(self, idx: int) -> PIL.Image.Image:
        return PIL.Image.fromarray(self._images[idx])


class LmdbImages(Source):
    """Encoded images in an LMDB file, in the order of their keys."""

    def __init__(self, path: str, max_images: int | None):
        self.hazard = f"because {path} is damaged"
        self._table = open_table(path, max_images, self.hazard)

    def __len__(self) -> int:
        return len(self._table)

    def name(self, idx: int) -> str:
        return self._table.key(idx).decode("latin-1")

    def load(self, idx: int) -> PIL.Image.Image:
        return decode_image(self._table.value(idx), f"{self._table.path}: cannot read {self.name(idx)}")


class Castles(Source):
    """Castles drawn on the spot; see `training.data.castles`."""

    def __init__(self, seed: int, resolution: int, count: int):
        self._seed, self._resolution, self._count = seed, resolution, count

    def __len__(self) -> int:
        return self._count

    def name(self, idx: int) -> str:
        return f"castle {idx}"

    def load(self, idx: int) -> PIL.Image.Image:
        return castles.draw_castle(self._seed, self._resolution, idx)


def open_source(path: str, options: ConversionOptions) -> Source:
    """The first `options.max_images` images of whatever `path` is. `ValueError` or `OSError` if it cannot be told."""
    for kind in SOURCE_KINDS:
        if kind.accepts(path):
            if options.subfolders_as_labels and kind.open is not open_image_files:
                raise ValueError(f"subfolders-as-labels needs a folder or .zip of images, {path} is {kind.description}")
            source = kind.open(path, options)
            if not len(source):
                raise OSError(f"{path} contains no image")
            return source
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such source: {path}")
    kinds = "; ".join(kind.description for kind in SOURCE_KINDS)
    raise ValueError(f"cannot tell what {path} is; a source is one of: {kinds}")


def open_image_files(path: str, options: ConversionOptions) -> Source:
    archive = ImageArchive(path)
    names = archive.image_names[: options.max_images]
    if not options.subfolders_as_labels:
        return ImageFiles(archive, names, read_labels(archive) or {})
    class_names = first_folders(archive)
    classes = {name: idx for idx, name in enumerate(class_names)}
    return ImageFiles(archive, names, {name: classes[name.split("/")[0]] for name in names}, class_names)


def first_folders(archive: ImageArchive) -> list[str]:
    """Names of the first folders of all images, sorted. `ValueError` unless they can serve as classes."""
    outside = [name for name in archive.image_names if "/" not in name]
    if outside:
        raise ValueError(f"{archive.path}: subfolders-as-labels needs every image in a folder, {outside[0]} is in none")
    folders = sorted({name.split("/")[0] for name in archive.image_names})
    if len(folders) == 1:
        raise ValueError(f"{archive.path}: subfolders-as-labels needs several folders, all images are in {folders[0]}")
    return folders


def open_lsun(path: str, options: ConversionOptions) -> Source:
    return LmdbImages(os.path.join(path, "data.mdb"), options.max_images)


def open_cifar10(path: str, options: ConversionOptions) -> Source:
    images, labels = read_cifar10(path)
    return ImageArrays(images[: options.max_images], labels[: options.max_images], CIFAR10_CLASSES)


def open_mnist(path: str, options: ConversionOptions) -> Source:
    images, labels = read_mnist(path)
    return ImageArrays(images[: options.max_images], labels[: options.max_images])


def open_castles(path: str, options: ConversionOptions) -> Source:
    size, count = options.width, options.max_images
    if size is None or options.height is None:
        raise ValueError("source castles needs a square resolution, such as 64x64")
    if options.height != size:
        raise ValueError(f"source castles draws squares, got a resolution of {size}x{options.height}")
    if count is None:
        raise ValueError("source castles is endless: give max-images")
    if options.transform is not None:
        raise ValueError(f"source castles is drawn at its final size, transform {options.transform} does not apply")
    return Castles(options.seed, size, count)


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: `accepts(path)` recognises it, `open(path, options)` reads its table of contents."""

    description: str
    accepts: Callable[[str], bool]
    open: Callable[[str, ConversionOptions], Source]


def is_file_like(pattern: str) -> Callable[[str], bool]:
    """Test for existing files whose names end like this, in any case."""
    return lambda path: re.search(pattern + "$", path, re.IGNORECASE) is not None and os.path.isfile(path)


def is_lmdb_folder(path: str) -> bool:
    return os.path.isdir(path) and os.path.normpath(path).lower().endswith("_lmdb")


# The first kind that recognises a path opens it.
SOURCE_KINDS: tuple[SourceKind, ...] = (
    SourceKind("the word castles", lambda path: path == "castles", open_castles),
    SourceKind("an LSUN folder (*_lmdb)", is_lmdb_folder, open_lsun),
    SourceKind("a folder of images", os.path.isdir, open_image_files),
    SourceKind("a .zip of images", is_file_like(r"\.zip"), open_image_files),
    SourceKind("cifar-10-python.tar.gz", is_file_like(r"\.tar\.gz"), open_cifar10),
    SourceKind("*-images-idx3-ubyte.gz (MNIST)", is_file_like(r"-images-idx3-ubyte\.gz"), open_mnist),
)
