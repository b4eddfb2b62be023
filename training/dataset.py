"""Images and labels for training, read from a folder or a zip archive.

`Dataset` is what the training loop and the metrics see; `ImageFolderDataset` fills it from files. `ImageArchive` and
`read_labels` know how such a folder or zip is laid out, and serve `training.dataset_conversion` too.

Shapes: N images, C channels, H x W pixels. Images are uint8, `[C, H, W]` in memory and `[H, W]` or `[H, W, C]` on disk.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch.utils.data

import dnnlib

LABEL_FILE = "dataset.json"
MAX_FILE_BYTES = 2**30      # larger than any image or label file; stops archives that unpack without end
MAX_CLASSES = 10**6         # labels are one-hot vectors: a wider one is a mistake in the label file
PIXEL_MODES = ("L", "RGB", "RGBA")


class Dataset(torch.utils.data.Dataset):
    """Images with optional labels, a fixed random subset of them, and mirrored copies.

    Sub-classes implement `_load_raw_image(raw_idx)` and, where there are labels, `_load_raw_labels()`; they may
    implement `close()`. The raw index counts the images before `max_size` and `xflip`.
    """

    def __init__(
        self,
        name: str,
        raw_shape: Sequence[int],      # N, C, H, W of the source
        max_size: int | None = None,   # keep so many images, drawn with `random_seed`; None keeps all
        use_labels: bool = False,      # False ignores the labels: every image then has a label of width 0
        xflip: bool = False,           # append a mirrored copy of every kept image
        random_seed: int = 0,
    ):
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size must be at least 1, got {max_size}")
        self._name = name
        self._raw_shape = [int(size) for size in raw_shape]
        self._use_labels = use_labels
        self._raw_labels: np.ndarray | None = None   # read when first asked for, together with their width
        self._label_shape: list[int] | None = None
        self._raw_idx = np.arange(self._raw_shape[0], dtype=np.int64)
        if max_size is not None and max_size < self._raw_idx.size:
            np.random.RandomState(random_seed).shuffle(self._raw_idx)
            self._raw_idx = np.sort(self._raw_idx[:max_size])
        self._xflip = np.zeros(self._raw_idx.size, dtype=bool)
        if xflip:
            self._raw_idx = np.tile(self._raw_idx, 2)
            self._xflip = np.concatenate([self._xflip, ~self._xflip])

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        """Image `raw_idx` as uint8 `[C, H, W]`."""
        raise NotImplementedError

    def _load_raw_labels(self) -> np.ndarray | None:
        """Class indices int64 `[N]`, or label vectors float32 `[N, width]`, or None."""
        return None

    def close(self) -> None:
        """Release open files; the data set opens them again when needed."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__, _raw_labels=None, _label_shape=None)

    def __len__(self) -> int:
        return self._raw_idx.size

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 `[C, H, W]` and label float32 `[label_dim]`, both free to be changed by the caller."""
        image = self._load_raw_image(int(self._raw_idx[idx]))
        if image.dtype != np.uint8 or list(image.shape) != self.image_shape:
            raise ValueError(f"{self._name}: image {self._raw_idx[idx]} must be uint8 of shape {self.image_shape}, "
                             f"got {image.dtype} of shape {list(image.shape)}")
        if self._xflip[idx]:
            image = image[:, :, ::-1]
        return image.copy(), self.get_label(idx)

    def get_label(self, idx: int) -> np.ndarray:
        """Label of item `idx`, float32 `[label_dim]`: the stored vector, or the one-hot form of a class index."""
        label = self._get_raw_labels()[self._raw_idx[idx]]
        if label.dtype == np.int64:
            onehot = np.zeros(self.label_shape, dtype=np.float32)
            onehot[label] = 1
            return onehot
        return label.copy()

    def get_details(self, idx: int) -> dnnlib.EasyDict:
        """`raw_idx`, `xflip` and `raw_label` (as stored, not one-hot) of item `idx`."""
        raw_idx = int(self._raw_idx[idx])
        return dnnlib.EasyDict(
            raw_idx=raw_idx, xflip=bool(self._xflip[idx]), raw_label=self._get_raw_labels()[raw_idx].copy()
        )

    def _get_raw_labels(self) -> np.ndarray:
        if self._raw_labels is None:
            labels = self._load_raw_labels() if self._use_labels else None
            if labels is None:
                labels = np.zeros([self._raw_shape[0], 0], dtype=np.float32)
            if len(labels) != self._raw_shape[0] or (labels.dtype, labels.ndim) not in ((np.int64, 1), (np.float32, 2)):
                raise ValueError(f"{self._name}: labels must be int64 [{self._raw_shape[0]}] or float32 "
                                 f"[{self._raw_shape[0]}, width], got {labels.dtype} {list(labels.shape)}")
            self._raw_labels = labels
            self._label_shape = [int(labels.max()) + 1] if labels.dtype == np.int64 else list(labels.shape[1:])
        return self._raw_labels

    @property
    def name(self) -> str:
        return self._name

    @property
    def image_shape(self) -> list[int]:
        """C, H, W."""
        return self._raw_shape[1:]

    @property
    def num_channels(self) -> int:
        return self._raw_shape[1]

    @property
    def resolution(self) -> int:
        """Side of the images, which must be square."""
        height, width = self._raw_shape[2:]
        if height != width:
            raise ValueError(f"{self._name}: images must be square, they are {width}x{height}")
        return height

    @property
    def label_shape(self) -> list[int]:
        """Shape of a label as returned; counts the classes of all images, also of those that `max_size` leaves out."""
        if self._label_shape is None:
            self._get_raw_labels()
            assert self._label_shape is not None
        return self._label_shape

    @property
    def label_dim(self) -> int:
        shape = self.label_shape
        if len(shape) != 1:
            raise ValueError(f"{self._name}: labels must be vectors, they have the shape {shape}")
        return shape[0]

    @property
    def has_labels(self) -> bool:
        return any(size != 0 for size in self.label_shape)

    @property
    def has_onehot_labels(self) -> bool:
        """Whether the stored labels are class indices."""
        return self._get_raw_labels().dtype == np.int64


class ImageFolderDataset(Dataset):
    """All images below a folder or inside a zip, in the order of their relative paths, labelled by `dataset.json`.

    Raises `OSError` for a path that cannot be read, holds no image, or has not the asked `resolution`; an image that
    cannot be read raises `OSError` and one unlike the first image `ValueError`, both with the name of the file.
    """

    def __init__(self, path: str, resolution: int | None = None, **super_kwargs: Any):
        self._path = str(path)
        self._archive = ImageArchive(self._path)
        self._image_fnames = self._archive.image_names
        if not self._image_fnames:
            raise OSError(f"{self._path} contains no image")
        first = self._read_pixels(0)   # [C, H, W]
        if resolution is not None and list(first.shape[1:]) != [resolution, resolution]:
            raise OSError(f"{self._path}: images must be {resolution}x{resolution}, {self._image_fnames[0]} is "
                          f"{describe_shape(first.shape)}")
        name = os.path.splitext(os.path.basename(os.path.abspath(self._path)))[0]
        super().__init__(name=name, raw_shape=[len(self._image_fnames), *first.shape], **super_kwargs)

    def close(self) -> None:
        self._archive.close()

    def _read_pixels(self, raw_idx: int) -> np.ndarray:
        name = self._image_fnames[raw_idx]
        image = self._archive.load_image(name)
        if image.mode not in PIXEL_MODES:
            raise ValueError(f"{self._path}: images must be 8-bit gray or RGB, {name} has Pillow's mode {image.mode}; "
                             "dataset_tool.py converts it")
        pixels = np.asarray(image)
        return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[np.newaxis]

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        pixels = self._read_pixels(raw_idx)
        if list(pixels.shape) != self.image_shape:
            raise ValueError(f"{self._path}: all images must be alike, {self._image_fnames[raw_idx]} is "
                             f"{describe_shape(pixels.shape)} and {self._image_fnames[0]} is "
                             f"{describe_shape(self.image_shape)}")
        return pixels

    def _load_raw_labels(self) -> np.ndarray | None:
        labels = read_labels(self._archive)
        if labels is None:
            return None
        missing = [name for name in self._image_fnames if name not in labels]
        if missing:
            raise ValueError(f"{self._path}: {LABEL_FILE} must label every image, {missing[0]} has no label "
                             f"({len(missing)} of {len(self._image_fnames)} images)")
        values = [labels[name] for name in self._image_fnames]
        return np.array(values, dtype=np.int64 if isinstance(values[0], int) else np.float32)


def describe_shape(shape: Sequence[int]) -> str:
    """Shape `[C, H, W]` in the words of the error messages: `64x32 RGB` for 64 columns and 32 rows."""
    channels, height, width = shape
    return f"{width}x{height} {({1: 'gray', 3: 'RGB', 4: 'RGBA'}).get(channels, f'with {channels} channels')}"


class ImageArchive:
    """Files of a folder or a zip by relative name (forward slashes), readable after a fork and after pickling."""

    def __init__(self, path: str):
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid: int | None = None
        if os.path.isdir(path):
            self._is_zip, names = False, list_folder(path)
        elif not os.path.exists(path):
            raise FileNotFoundError(f"no such folder or zip: {path}")
        elif os.path.splitext(path)[1].lower() == ".zip":
            self._is_zip, names = True, [name for name in self._open_zip().namelist() if not name.endswith("/")]
        else:
            raise OSError(f"images are read from a folder or a .zip, got {path}")
        self.names = frozenset(names)
        self.image_names = sorted(name for name in self.names if is_image_name(name))

    def read(self, name: str) -> bytes:
        """Content of a file. `OSError` with archive and name if it is missing, damaged or too large."""
        try:
            if not self._is_zip:
                with open(os.path.join(self.path, name), "rb") as file:
                    return file.read()
            archive = self._open_zip()
            size = archive.getinfo(name).file_size
            if size > MAX_FILE_BYTES:
                raise OSError(f"unpacks to {size} bytes, the limit is {MAX_FILE_BYTES}")
            return archive.read(name)
        except Exception as err:   # zipfile lets errors of zlib, struct and others through when an entry is damaged
            raise OSError(f"{self.path}: cannot read {name}: {one_line(err)}") from err

    def load_image(self, name: str) -> PIL.Image.Image:
        """Decoded image of a file. `OSError` with archive and name if it is not a complete image."""
        data = self.read(name)
        try:
            image = PIL.Image.open(io.BytesIO(data))
            image.load()
            return image
        except PIL.UnidentifiedImageError as err:
            raise OSError(f"{self.path}: cannot read {name}: not an image that Pillow knows") from err
        except Exception as err:   # Pillow's decoders raise nearly anything on damaged data
            raise OSError(f"{self.path}: cannot read {name}: {one_line(err)}") from err

    def close(self) -> None:
        if self._zip is not None and self._zip_pid == os.getpid():
            self._zip.close()
        self._zip = None

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__, _zip=None)

    def _open_zip(self) -> zipfile.ZipFile:
        # A handle that came through a fork shares its file position with the parent, so every process opens its own.
        if self._zip is None or self._zip_pid != os.getpid():
            try:
                self._zip, self._zip_pid = zipfile.ZipFile(self.path), os.getpid()
            except (zipfile.BadZipFile, NotImplementedError, ValueError) as err:
                raise OSError(f"{self.path} is not a readable zip archive: {one_line(err)}") from err
        return self._zip


def list_folder(path: str) -> list[str]:
    """Relative names of all files below a folder, with forward slashes."""
    names = []
    for root, _, files in os.walk(path, onerror=raise_error):
        prefix = os.path.relpath(root, path).replace(os.sep, "/") + "/"
        names += [name if prefix == "./" else prefix + name for name in files]
    return names


def raise_error(err: OSError) -> None:
    """`os.walk` would otherwise skip folders that it cannot open, and the data set would silently be smaller."""
    raise err


def is_image_name(name: str) -> bool:
    """Whether the extension is one that Pillow knows. `._x.png` is not an image but what macOS adds beside `x.png`."""
    extension = os.path.splitext(name)[1].lower()
    return extension in PIL.Image.registered_extensions() and not os.path.basename(name).startswith("._")


def one_line(err: BaseException) -> str:
    return " ".join(str(err).split()) or type(err).__name__


def read_labels(archive: ImageArchive) -> dict[str, int | list[float]] | None:
    """Labels of `dataset.json` by file name, all class indices or all vectors of one width; None if there are none.

    Raises `ValueError` naming the archive, the entry, the rule and the value.
    """
    if LABEL_FILE not in archive.names:
        return None
    where = f"{archive.path}: {LABEL_FILE}"
    try:
        content = json.loads(archive.read(LABEL_FILE))
    except (ValueError, RecursionError) as err:
        raise ValueError(f"{where} is not valid JSON: {one_line(err)}") from err
    entries = content.get("labels", False) if isinstance(content, dict) else False
    if entries is not None and not isinstance(entries, list):
        raise ValueError(f'{where} must be an object with "labels": a list or null, got {shorten(content)}')
    if not entries:
        return None
    labels: dict[str, int | list[float]] = {}
    for i, entry in enumerate(entries):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise ValueError(f"{where}: entry {i} must be [file name, label], got {shorten(entry)}")
        name, label = entry
        if is_class_index(label):
            labels[name] = int(label)
        elif is_vector(label):
            labels[name] = label
        else:
            raise ValueError(f"{where}: the label of {name} must be an integer in 0..{MAX_CLASSES - 1} or a list of "
                             f"finite numbers, got {shorten(label)}")
        if label_width(label) != label_width(entries[0][1]):
            raise ValueError(f"{where}: all labels must be integers or all lists of one length, {name} has "
                             f"{shorten(label)} and {entries[0][0]} has {shorten(entries[0][1])}")
    return labels


def is_class_index(label: Any) -> bool:
    """Integers, also when written as 3.0; true and false are not numbers here."""
    return type(label) in (int, float) and 0 <= label < MAX_CLASSES and label == int(label)


def is_vector(label: Any) -> bool:
    return isinstance(label, list) and all(
        type(value) in (int, float) and abs(value) < 1e38 and math.isfinite(value) for value in label
    )


def label_width(label: int | float | list[float]) -> int | None:
    return len(label) if isinstance(label, list) else None


def shorten(value: Any, limit: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
