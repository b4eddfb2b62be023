"""Layout of a folder or zip of images with an optional `dataset.json` of labels.

Written by `training.data.dataset_conversion` and read by `training.dataset`.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import PIL.Image

LABEL_FILE = "dataset.json"
MAX_FILE_BYTES = 2**30      # larger than any image or label file; stops archives that unpack without end
MAX_CLASSES = 10**6         # labels are one-hot vectors: a wider one is a mistake in the label file


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
        return decode_image(self.read(name), f"{self.path}: cannot read {name}")

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


def decode_image(data: bytes, problem: str) -> PIL.Image.Image:
    """Decoded image of the content of a file. `OSError` that begins with `problem` if it is not a complete image."""
    try:
        image = PIL.Image.open(io.BytesIO(data))
        image.load()
        if image.mode == "I" and image.format == "PNG":   # older Pillows widen 16-bit gray
            return image.convert("I;16")
        return image
    except PIL.UnidentifiedImageError as err:
        raise OSError(f"{problem}: not an image that Pillow knows") from err
    except Exception as err:   # Pillow's decoders raise nearly anything on damaged data
        raise OSError(f"{problem}: {one_line(err)}") from err


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


def describe_shape(shape: Sequence[int]) -> str:
    """Shape `[C, H, W]` in the words of the error messages: `64x32 RGB` for 64 columns and 32 rows."""
    channels, height, width = shape
    return f"{width}x{height} {({1: 'gray', 3: 'RGB', 4: 'RGBA'}).get(channels, f'with {channels} channels')}"
