"""Where the images of a new data set come from: folders, zips, LSUN, CIFAR-10, MNIST, or the drawing of castles.

A source is opened once, to read its table of contents, and then asked for its images by number. It can be pickled, so
that several processes share the work.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from dnnlib.util import UserError
from training.data import castles
from training.data.array_sources import CIFAR10_CLASSES, read_cifar10, read_mnist
from training.data.conversion_options import ConversionOptions
from training.data.decoding import open_image
from training.data.image_files import ImageArchive, describe_others
from training.data.labels import Label, read_class_names, read_labels
from training.data.messages import one_line

LMDB_MAGIC = 0xBEEFC0DE
LMDB_HEADER = struct.Struct("<16x II 16x I")   # at the start of each of the first two pages: magic, version, page size
LMDB_PAGE_SIZES = tuple(2**i for i in range(8, 17))


class Source:
    """Images by number in a fixed order, each with a name for messages and a label or None."""

    class_names: Sequence[str] | None = None   # what the classes 0, 1, ... mean, where the source knows
    others = ""         # files that are no images, in words
    in_memory = False   # converting an image is then faster than handing it to another process
    may_crash = False   # loading an image may end the process that does it: only workers do

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, idx: int) -> str:
        """`OSError` with one line if no image can be found under this number: the source as a whole is damaged."""
        raise NotImplementedError

    def label(self, idx: int) -> Label | None:
        return None

    def load(self, idx: int) -> PIL.Image.Image:
        """The decoded image as it is stored. `OSError` with one line that names it if it cannot be read."""
        raise NotImplementedError


class ImageFiles(Source):
    """Image files of a folder or zip, sorted by path."""

    def __init__(self, archive: ImageArchive, names: list[str], labels: dict[str, Label],
                 class_names: Sequence[str] | None = None):
        self._archive, self._names, self._labels, self.class_names = archive, names, labels, class_names
        self.others = describe_others(archive.others)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, idx: int) -> str:
        return self._names[idx]

    def label(self, idx: int) -> Label | None:
        return self._labels.get(self._names[idx])

    def load(self, idx: int) -> PIL.Image.Image:
        return self._archive.open_image(self._names[idx])


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
    """Encoded images in an LMDB file, in the order of their keys. Pickles as a path; each process opens its own file.

    Raises `OSError` with one line that names the file if it is damaged, cut short or of another kind, `UserError` if
    the library is missing.
    """

    may_crash = True   # the library maps the file into memory and trusts the offsets in it

    def __init__(self, path: str, max_images: int | None = None):
        self._path = path
        self._cursor: Any = None   # lmdb.Cursor
        self._position = -1        # where the cursor stands; -1 is before the first entry
        check_lmdb_header(path)
        with self._one_line_errors(), self._open() as env:
            needed, entries = (env.info()["last_pgno"] + 1) * env.stat()["psize"], env.stat()["entries"]
        size = os.path.getsize(path)
        if size < needed:
            raise OSError(f"{path} is cut short: it has {size} bytes, its pages take {needed}")
        if entries > size:
            raise OSError(f"{path} is damaged: it claims {entries} entries in {size} bytes")
        self._num_entries = entries if max_images is None else min(entries, max_images)

    def __len__(self) -> int:
        return self._num_entries

    def name(self, idx: int) -> str:
        return self._move_to(idx).key().decode("latin-1")

    def read(self, idx: int) -> bytes:
        return self._move_to(idx).value()

    def load(self, idx: int) -> PIL.Image.Image:
        return open_image(self.read(idx), f"{self._path}: cannot read {self.name(idx)}")

    def _open(self) -> Any:
        # Nobody writes, and the folder may be read-only: no lock file.
        return import_lmdb().open(self._path, subdir=False, readonly=True, lock=False)

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        lmdb = import_lmdb()
        try:
            yield
        except lmdb.Error as err:
            raise OSError(f"{self._path} is not a readable LMDB file: {one_line(err)}") from err

    def _move_to(self, idx: int) -> Any:
        """The cursor at entry `idx`. LMDB knows no positions: it goes there step by step, a microsecond each."""
        with self._one_line_errors():
            if self._cursor is None:
                self._cursor, self._position = self._open().begin().cursor(), -1
            elif idx < self._position:
                self._cursor.first()
                self._position = 0
            while self._position < idx:
                if not self._cursor.next():
                    raise OSError(f"{self._path} is damaged: it ends after {self._position + 1} entries")
                self._position += 1
        return self._cursor

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__, _cursor=None)


def import_lmdb() -> Any:
    try:
        import lmdb
    except ModuleNotFoundError as err:
        raise UserError("LSUN needs the package lmdb, which is not installed: pip install lmdb (extra lsun)") from err
    return lmdb


def check_lmdb_header(path: str) -> None:
    """`OSError` unless a file begins with the two headers of a database whose page size is possible.

    The library divides by the page size that stands there and would take the process with it.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f"{path} is not a readable LMDB file: it is no ordinary file")
    with open(path, "rb") as file:
        page_size = LMDB_HEADER.size
        for number in range(2):
            file.seek(number * page_size)
            header = file.read(LMDB_HEADER.size)
            if len(header) < LMDB_HEADER.size:
                raise OSError(f"{path} is not a readable LMDB file: it ends in its header")
            magic, _, page_size = LMDB_HEADER.unpack(header)
            if magic != LMDB_MAGIC or page_size not in LMDB_PAGE_SIZES:
                raise OSError(f"{path} is not a readable LMDB file: its header is of another kind or damaged")


class Castles(Source):
    """Castles drawn on the spot; see `training.data.castles`."""

    def __init__(self, seed: int, resolution: int, count: int, season: str | None = None):
        self._seed, self._resolution, self._count, self._season = seed, resolution, count, season

    def __len__(self) -> int:
        return self._count

    def name(self, idx: int) -> str:
        return f"castle {idx}"

    def load(self, idx: int) -> PIL.Image.Image:
        return castles.draw_castle(self._seed, self._resolution, idx, self._season)


def open_source(path: str, options: ConversionOptions) -> Source:
    """The first `options.max_images` images of whatever `path` is. `UserError` or `OSError` if it cannot be told."""
    for kind in SOURCE_KINDS:
        if kind.accepts(path):
            if options.subfolders_as_labels and kind.open is not open_image_files:
                raise UserError(f"subfolders-as-labels needs a folder or .zip of images, {path} is {kind.description}")
            source = kind.open(path, options)
            if not len(source):
                raise OSError(f"{path} contains no image" + (f", but {source.others}" if source.others else ""))
            return source
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such source: {path}")
    kinds = "; ".join(kind.description for kind in SOURCE_KINDS)
    raise UserError(f"cannot tell what {path} is; a source is one of: {kinds}")


def open_image_files(path: str, options: ConversionOptions) -> Source:
    archive = ImageArchive(path)
    names = archive.image_names[: options.max_images]
    if not options.subfolders_as_labels:
        return ImageFiles(archive, names, read_labels(archive) or {}, read_class_names(archive))
    class_names = first_folders(archive)
    classes = {name: idx for idx, name in enumerate(class_names)}
    return ImageFiles(archive, names, {name: classes[name.split("/")[0]] for name in names}, class_names)


def first_folders(archive: ImageArchive) -> list[str]:
    """Names of the first folders of all images, sorted: as numbers if all are numbers, otherwise as text.

    `UserError` unless they can serve as classes.
    """
    outside = [name for name in archive.image_names if "/" not in name]
    if outside:
        raise UserError(f"{archive.path}: subfolders-as-labels needs every image in a folder, {outside[0]} is in none")
    folders = sorted({name.split("/")[0] for name in archive.image_names})
    if all(re.fullmatch("[0-9]+", name) for name in folders):
        folders.sort(key=int)
    if len(folders) == 1:
        raise UserError(f"{archive.path}: subfolders-as-labels needs several folders, all images are in {folders[0]}")
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
        raise UserError("source castles needs a square resolution, such as 64x64")
    if options.height != size:
        raise UserError(f"source castles draws squares, got a resolution of {size}x{options.height}")
    if count is None:
        raise UserError("source castles is endless: give max-images")
    if options.transform is not None:
        raise UserError(f"source castles is drawn at its final size, transform {options.transform} does not apply")
    _, colon, season = path.partition(":")
    if colon and season not in castles.SEASONS:
        raise UserError(f"source castles:SEASON takes {', '.join(castles.SEASONS)}, got {path}")
    return Castles(options.seed, size, count, season or None)


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
    SourceKind("the word castles", lambda path: path.partition(":")[0] == "castles", open_castles),
    SourceKind("an LSUN folder (*_lmdb)", is_lmdb_folder, open_lsun),
    SourceKind("a folder of images", os.path.isdir, open_image_files),
    SourceKind("a .zip of images", is_file_like(r"\.zip"), open_image_files),
    SourceKind("cifar-10-python.tar.gz", is_file_like(r"\.tar\.gz"), open_cifar10),
    SourceKind("*-images-idx3-ubyte.gz (MNIST)", is_file_like(r"-images-idx3-ubyte\.gz"), open_mnist),
)
