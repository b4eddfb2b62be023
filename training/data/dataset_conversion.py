"""Turn image collections into data sets for `ImageFolderDataset`.

Each image of a source is loaded, transformed and encoded, by one process or several; here the results are checked to be
all alike, numbered, and handed to a writer. The same source and options give the same bytes with one version of Pillow,
and a run that fails leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import PIL.Image

from training.data.conversion_options import RESIZE_FILTERS, TRANSFORMS, ConversionOptions
from training.data.dataset_sources import Label, Source, open_source
from training.data.dataset_writers import open_writer
from training.data.image_files import LABEL_FILE, describe_shape
from training.data.image_size import check_image_size
from training.data.image_transforms import transform_image
from training.data.ordered_pool import WorkerDied, available_processors, ordered_map

__all__ = [
    "RESIZE_FILTERS", "TRANSFORMS", "ConversionOptions", "ConversionSummary", "convert_dataset",
]

ITEMS_PER_WORKER = 256   # starting a process takes as long as converting about this many small images

Shape = tuple[int, int, int]   # C, H, W


@dataclass(frozen=True)
class ConversionSummary:
    num_images: int                  # written
    num_dropped: int                 # left out by the transform
    skipped: list[str]               # why bad images were left out: a line for each that names its file
    image_shape: Shape
    label_text: str                  # "labels of 10 classes", "no labels", ...
    classes: list[tuple[str, int]]   # name and number of images of class 0, 1, ... where the source has names
    num_bytes: int                   # size of the written files
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of an image: the content of a PNG file and its shape, or an error, or neither if it was dropped."""

    name: str   # in the source
    png: bytes = b""
    shape: Shape | None = None
    error: OSError | ValueError | None = None


@dataclass(frozen=True)
class Converter:
    """Callable that makes image `idx` of a source an `Outcome`, in whatever process."""

    path: str
    source: Source
    options: ConversionOptions

    def __call__(self, idx: int) -> Outcome:
        name = self.source.name(idx)
        what = f"{self.path}: {name}"
        try:
            image = transform_image(self.source.load(idx), self.options, what)
            if image is None:
                return Outcome(name)
            check_image_size(image.width, image.height, what)
        except (OSError, ValueError) as err:
            return Outcome(name, error=err)
        return Outcome(name, encode_png(image), (len(image.getbands()), image.height, image.width))


def encode_png(image: PIL.Image.Image) -> bytes:
    """The content of an uncompressed PNG file with the pixels alone: no colour profile or other data of the image."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.asarray(image)).save(buffer, "png", compress_level=0)
    return buffer.getvalue()


def convert_dataset(
    source: str,
    dest: str,
    options: ConversionOptions = ConversionOptions(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> ConversionSummary:
    """Write the images of `source` as a data set to the folder or zip `dest`; `progress` gets (done, total).

    A zip is replaced, a folder must be empty or new. Image i of the source becomes `%05d/img%08d.png`, also where
    images before it were left out; `dataset.json` holds the labels if every written image has one.
    Raises `ValueError` or `OSError` with one line that names the offending file; `dest` is then as it was before.
    """
    start = time.monotonic()
    if os.path.realpath(source) == os.path.realpath(dest):
        raise ValueError(f"destination {dest} must not be the source")
    with open_writer(dest) as write:   # refuses a destination that is taken before anything is read
        chosen = Selection(source, open_source(source, options), options)
        with contextlib.closing(chosen.files(progress)) as files:   # an error of the writer ends the workers too
            for name, png in files:
                write(name, png)
        write(LABEL_FILE, chosen.label_file())
    return chosen.summary(time.monotonic() - start)


class Selection:
    """The images that go into the data set, and why others do not."""

    def __init__(self, path: str, source: Source, options: ConversionOptions):
        self._path, self._source, self._options = path, source, options
        self._first: tuple[str, Shape] | None = None    # name and shape of the first image; the others must be like it
        self._labels: list[tuple[str, Label | None]] = []   # name and label of each file in the data set
        self._num_dropped = self._num_bytes = 0
        self._skipped: list[str] = []

    def files(self, progress: Callable[[int, int], None] | None) -> Generator[tuple[str, bytes], None, None]:
        """Name and content of the image files of the data set, in order."""
        total = len(self._source)
        with contextlib.closing(self._outcomes()) as outcomes:
            for idx, outcome in enumerate(outcomes):
                if self._is_chosen(outcome):
                    name = f"{idx:08d}"[:5] + f"/img{idx:08d}.png"
                    self._labels.append((name, self._source.label(idx)))
                    self._num_bytes += len(outcome.png)
                    yield name, outcome.png
                if progress is not None:
                    progress(idx + 1, total)
        if not self._labels:
            raise self._nothing_left()

    def _outcomes(self) -> Generator[Outcome, None, None]:
        convert = Converter(self._path, self._source, self._options)
        try:
            yield from ordered_map(convert, len(self._source), num_workers(self._source, self._options))
        except WorkerDied as err:
            raise OSError(f"{self._path}: {err}") from err

    def _is_chosen(self, outcome: Outcome) -> bool:
        error = outcome.error
        if outcome.shape is not None:
            self._first = self._first or (outcome.name, outcome.shape)
            first_name, first_shape = self._first
            if outcome.shape != first_shape:
                error = ValueError(f"{self._path}: all images must be alike, {outcome.name} is "
                                   f"{describe_shape(outcome.shape)} and {first_name} is {describe_shape(first_shape)}")
        if error is not None:
            if not self._options.skip_bad:
                raise error
            self._skipped.append(str(error))
        elif outcome.shape is None:
            self._num_dropped += 1
        return error is None and outcome.shape is not None

    def _nothing_left(self) -> ValueError:
        if self._num_dropped:
            size = f"{self._options.width}x{self._options.height}"
            return ValueError(f"{self._path}: transform {self._options.transform} drops all {self._num_dropped} images "
                              f"that can be read: they are smaller than {size}")
        return ValueError(f"{self._path}: all {len(self._skipped)} images are bad, the first because: "
                          f"{self._skipped[0]}")

    def _labelled(self) -> bool:
        return all(label is not None for _, label in self._labels)

    def label_file(self) -> bytes:
        """Content of `dataset.json`; the names of the classes, where known, are for people only."""
        content: dict[str, object] = {"labels": self._labels if self._labelled() else None}
        if self._labelled() and self._source.class_names is not None:
            content["class_names"] = list(self._source.class_names)
        return json.dumps(content).encode()

    def summary(self, seconds: float) -> ConversionSummary:
        assert self._first is not None
        labels = [label for _, label in self._labels]
        counts = Counter(label for label in labels if isinstance(label, int))
        return ConversionSummary(
            num_images=len(labels), num_dropped=self._num_dropped, skipped=self._skipped, image_shape=self._first[1],
            label_text=describe_labels(labels),
            classes=[(name, counts[idx]) for idx, name in enumerate(self._source.class_names or [])],
            num_bytes=self._num_bytes, seconds=seconds,
        )


def num_workers(source: Source, options: ConversionOptions) -> int:
    """New processes to convert the images with; 0 leaves the work to this one."""
    workers = options.workers or max(1, min(available_processors(), len(source) // ITEMS_PER_WORKER))
    return 0 if source.in_memory or workers == 1 and not source.may_crash else workers


def describe_labels(labels: list[Label | None]) -> str:
    """For the summary: also says when labels were left out because some are missing."""
    missing = sum(label is None for label in labels)
    if missing == len(labels):
        return "no labels"
    if missing:
        return f"labels left out: {missing} images have none"
    if isinstance(labels[0], list):
        return f"labels of {len(labels[0])} numbers"
    return f"labels of {len({str(label) for label in labels})} classes"
