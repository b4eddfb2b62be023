"""Labels and names of classes from the `dataset.json` of a folder or zip."""

from __future__ import annotations

import json
import math
import posixpath
import unicodedata
from typing import Any

from dnnlib.util import UserError
from training.data.image_files import LABEL_FILE, ImageArchive
from training.data.messages import one_line, shorten

Label = int | list[float]

# A label is a vector, or becomes one with a place for each class, and networks have weights for each of its numbers.
MAX_LABEL_WIDTH = 2**16
MAX_BYTES, MAX_BYTES_PER_IMAGE = 2**20, 2**15   # of dataset.json; JSON takes ten times as much memory as it has bytes


def read_labels(archive: ImageArchive) -> dict[str, Label] | None:
    """Labels by name of image, all class indices or all vectors of one width; None if there are none.

    Names may be written with backslashes, a leading `./` or composed letters, and count from the folder of the file.
    Raises `UserError` naming the archive, the entry, the rule and the value, also if a name leads to no image while
    there are images without a label.
    """
    content = _read_label_file(archive)
    entries = content.get("labels") if content else None
    if not entries:
        return None
    where = f"{archive.path}: {archive.label_file}"
    find = _NameFinder(archive)
    labels: dict[str, Label] = {}
    unknown: list[str] = []
    for i, entry in enumerate(entries):
        given, label = _check_entry(entry, i, entries[0], where)
        name = find(given)
        if name is None:
            unknown.append(given)
        elif labels.setdefault(name, label) != label:
            raise UserError(f"{where}: {name} is listed twice, with the labels {shorten(labels[name])} and "
                            f"{shorten(label)}")
    if unknown:
        found = f"; {shorten(unknown[0])} names no file ({len(unknown)} of {len(entries)} entries)"
        check_every_image_has_a_label(archive, labels, found)
    return labels


def check_every_image_has_a_label(archive: ImageArchive, labels: dict[str, Label], more: str = "") -> None:
    """`UserError` that names the first image without a label, how many have none, and what `more` says."""
    names = archive.image_names
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(f"{archive.path}: {archive.label_file} must label every image, {missing[0]} has no label "
                        f"({len(missing)} of {len(names)} images){more}")


def has_labels(archive: ImageArchive) -> bool:
    """Is there any label in `dataset.json`?"""
    return bool((_read_label_file(archive) or {}).get("labels"))


def read_class_names(archive: ImageArchive) -> list[str] | None:
    """What the classes 0, 1, ... mean, where `dataset.json` says so in a list; for people only."""
    names = (_read_label_file(archive) or {}).get("class_names")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _read_label_file(archive: ImageArchive) -> dict[str, Any] | None:
    """Content of the label file; `labels` is in it and a list or null."""
    if archive.label_file is None:
        return None
    where = f"{archive.path}: {archive.label_file}"
    limit = MAX_BYTES + MAX_BYTES_PER_IMAGE * len(archive.image_names)
    try:
        content = json.loads(archive.read(archive.label_file, limit))
    except (ValueError, RecursionError) as err:
        raise UserError(f"{where} is not valid JSON: {one_line(err)}") from err
    entries = content.get("labels", False) if isinstance(content, dict) else False
    if entries is not None and not isinstance(entries, list):
        raise UserError(f'{where} must be an object with "labels": a list or null, got {shorten(content)}')
    return content


def _check_entry(entry: Any, i: int, first: Any, where: str) -> tuple[str, Label]:
    """Name and label of entry `i`; `UserError` if it is malformed or of another kind than the first."""
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
        raise UserError(f"{where}: entry {i} must be [file name, label], got {shorten(entry)}")
    name, label = entry
    if not (is_class_index(label) or is_vector(label)):
        raise UserError(f"{where}: the label of {name} must be an integer in 0..{MAX_LABEL_WIDTH - 1} or a list of 1 "
                        f"to {MAX_LABEL_WIDTH} finite numbers, got {shorten(label)}")
    if label_width(label) != label_width(first[1]):
        raise UserError(f"{where}: all labels must be integers or all lists of one length, {name} has "
                        f"{shorten(label)} and {first[0]} has {shorten(first[1])}")
    return name, label if isinstance(label, list) else int(label)


def is_class_index(label: Any) -> bool:
    """Integers, also when written as 3.0; true and false are not numbers here."""
    return type(label) in (int, float) and 0 <= label < MAX_LABEL_WIDTH and label == int(label)


def is_vector(label: Any) -> bool:
    return isinstance(label, list) and 1 <= len(label) <= MAX_LABEL_WIDTH and all(
        type(value) in (int, float) and abs(value) < 1e38 and math.isfinite(value) for value in label
    )


def label_width(label: Any) -> int | None:
    return len(label) if isinstance(label, list) else None


class _NameFinder:
    """Callable from a name in `dataset.json` to that of the file in the archive, or None."""

    def __init__(self, archive: ImageArchive):
        assert archive.label_file is not None
        self._names = archive.names
        self._folder = archive.label_file.removesuffix(LABEL_FILE)   # empty, or ends in a slash
        self._by_plain_name: dict[str, str | None] = {}   # None where several files have one plain name
        for name in archive.names:
            plain = plain_name(name)
            self._by_plain_name[plain] = None if plain in self._by_plain_name else name

    def __call__(self, given: str) -> str | None:
        for name in (self._folder + given, given):
            if name in self._names:
                return name
            found = self._by_plain_name.get(plain_name(name))
            if found is not None:
                return found
        return None


def plain_name(name: str) -> str:
    """One spelling for `a/b.png`, `a\\b.png`, `./a/b.png` and letters with accents in one or two parts."""
    return posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))
