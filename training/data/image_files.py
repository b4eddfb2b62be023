"""Layout of a folder or zip of images with an optional `dataset.json` of labels.

Written by `training.data.dataset_conversion` and read by `training.dataset`.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import PIL.Image

from dnnlib.util import printable
from training.data.decoding import HEIF_ENDINGS, open_image, readable_endings, to_8_bit_srgb
from training.data.messages import one_line

LABEL_FILE = "dataset.json"
MAX_FILE_BYTES = 2**30   # larger than any image; stops archives that unpack without end
MAX_RATIO = 1100         # of bytes unpacked to packed: more than deflate can do; others pack a gigabyte into a page
FREE_BYTES = 2**26       # that any file may unpack to
# What file managers, notebooks and storage servers put beside pictures: previews, copies, deleted files.
TOOL_FOLDERS = frozenset({
    "__MACOSX", "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
    "lost+found", "__pycache__",
})
RAW_ENDINGS = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf",
    ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})
MAX_ENDINGS = 6   # that a message names


class ImageArchive:
    """Files of a folder or a zip by relative name (forward slashes), readable after a fork and after pickling.

    Hidden folders and those of `TOOL_FOLDERS` do not count, nor does what is no ordinary file.
    """

    def __init__(self, path: str):
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid: int | None = None
        self._is_zip = not os.path.isdir(path)
        if not self._is_zip:
            files = list(walk_folder(path))
        elif not os.path.exists(path):
            raise FileNotFoundError(f"no such folder or zip: {path}")
        elif os.path.splitext(path)[1].lower() == ".zip" and os.path.isfile(path):   # not a pipe, which would not end
            files = [(name, True) for name in self._open_zip().namelist() if not name.endswith("/")]
        else:
            raise OSError(f"images are read from a folder or a .zip, got {path}")
        self.names = frozenset(name for name, is_file in files if is_file)
        self.image_names = sorted(name for name in self.names if is_image_name(name))
        self.label_file = self._find_label_file()
        others = self.names.difference(self.image_names, [self.label_file])
        self.others = Counter(ending_of(name) for name in others if not is_in_tool_folder(name))
        self.others["no ordinary file"] += sum(not is_file for _, is_file in files)
        self.others["under the name of another"] += len(files) - len(dict(files))   # in a zip

    def _find_label_file(self) -> str | None:
        """`dataset.json` at the top, or in the only folder of images there: zips are often made of a whole folder."""
        if LABEL_FILE in self.names:
            return LABEL_FILE
        candidates = {f"{name.partition('/')[0]}/{LABEL_FILE}" for name in self.image_names}
        return candidates.pop() if len(candidates) == 1 and candidates <= self.names else None

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Content of a file. `OSError` with archive and name if it is missing, damaged or too large."""
        max_bytes = MAX_FILE_BYTES if max_bytes is None else max_bytes
        try:
            if not self._is_zip:
                with open(os.path.join(self.path, name), "rb") as file:
                    check_length("has", os.fstat(file.fileno()).st_size, max_bytes)
                    return file.read()
            archive = self._open_zip()
            info = archive.getinfo(name)
            check_length("unpacks to", info.file_size, min(max_bytes, max(FREE_BYTES, MAX_RATIO * info.compress_size)))
            return archive.read(name)
        except Exception as err:   # zipfile lets errors of zlib, struct and others through when an entry is damaged
            raise OSError(f"{self.path}: cannot read {name}: {one_line(err)}") from err

    def open_image(self, name: str) -> PIL.Image.Image:
        """Decoded image as the file stores it. `OSError` with archive and name if it is not a complete image."""
        return open_image(self.read(name), self.what(name))

    def load_image(self, name: str) -> PIL.Image.Image:
        """Upright picture in sRGB of mode L, RGB, LA or RGBA. `OSError` or `UserError` with archive and name."""
        return to_8_bit_srgb(self.open_image(name), f"{self.path}: {name}")

    def what(self, name: str) -> str:
        """The beginning of a message about a file that cannot be read."""
        return f"{self.path}: cannot read {name}"

    def checksums(self) -> dict[str, tuple[int, int]]:
        """Length and CRC-32 of every file of a zip, from its directory."""
        return {info.filename: (info.file_size, info.CRC) for info in self._open_zip().infolist()}

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
            except Exception as err:   # a damaged directory shows as nearly anything
                if isinstance(err, OSError) and err.filename is not None:
                    raise
                raise OSError(f"{self.path} is not a readable zip archive: {one_line(err)}") from err
        return self._zip


def check_length(verb: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise OSError(f"{verb} {size} bytes, the limit is {max_bytes}")


def walk_folder(path: str) -> Iterator[tuple[str, bool]]:
    """Relative names of all files below a folder, with forward slashes; False with pipes, devices and sockets.

    Folders of tools are left out. Links to folders are followed after all else, and no folder is entered twice: links
    in a circle end, and links to what is here anyway add nothing.
    """
    entered: set[tuple[int, int]] = set()
    folders, linked = [""], list[str]()   # still to be entered: relative names that end in a slash
    while folders or linked:
        prefix = folders.pop() if folders else linked.pop(0)
        info = os.stat(os.path.join(path, prefix))
        if (info.st_dev, info.st_ino) in entered:
            continue
        entered.add((info.st_dev, info.st_ino))
        with os.scandir(os.path.join(path, prefix)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name, is_link = prefix + entry.name, entry.is_symlink()
                if os.path.isdir(entry.path) if is_link else entry.is_dir():
                    if not is_tool_folder(entry.name):
                        (linked if is_link else folders).append(f"{name}/")
                elif is_link:   # a broken one counts, too: that an image is missing must be seen
                    yield name, os.path.isfile(entry.path) or not os.path.exists(entry.path)
                else:
                    yield name, entry.is_file()


def list_folder(path: str) -> list[str]:
    """Relative names of all ordinary files below a folder, and of broken links; see `walk_folder`."""
    return [name for name, is_file in walk_folder(path) if is_file]


def is_image_name(name: str) -> bool:
    """Whether a file counts as an image: an ending that promises one, and no folder of a tool above it.

    `._x.png` is not an image but what macOS adds beside `x.png`.
    """
    base = os.path.basename(name)
    ending = os.path.splitext(base)[1].lower()
    return ending in readable_endings() and not base.startswith("._") and not is_in_tool_folder(name)


def is_in_tool_folder(name: str) -> bool:
    return any(is_tool_folder(folder) for folder in name.split("/")[:-1])


def is_tool_folder(name: str) -> bool:
    hidden = name.startswith(".") and name.strip(".") != ""   # not . and .. of paths in a zip
    return hidden or name in TOOL_FOLDERS


def ending_of(name: str) -> str:
    """`.jpg`, for messages."""
    return printable(os.path.splitext(name)[1].lower(), 12) or "without an ending"


def describe_others(others: Counter[str]) -> str:
    """How many files are no images, by ending and with advice; empty where there are none.

    `3 files of other kinds: 2 .heic (pip install pillow-heif), 1 .txt`
    """
    counts = [(ending, count) for ending, count in others.most_common() if count]
    if not counts:
        return ""
    named = [f"{count} {ending}{advice_on(ending)}" for ending, count in counts[:MAX_ENDINGS]]
    rest = sum(count for _, count in counts[MAX_ENDINGS:])
    listed = ", ".join([*named, f"{rest} with other endings"] if rest else named)
    total = sum(others.values())
    return f"{total} {'file' if total == 1 else 'files'} of other kinds: {listed}"


def advice_on(ending: str) -> str:
    if ending in HEIF_ENDINGS:
        return " (pip install pillow-heif reads them)"
    if ending in RAW_ENDINGS:
        return " (raw photographs: convert them to TIFF, PNG or JPEG first)"
    return ""
