"""Turn image collections into data sets for `ImageFolderDataset`.

Each image of a source is loaded, transformed and encoded, by one process or several; here the results are checked to be
all alike, numbered, and handed to a writer. The same source and options give the same bytes with one version of Pillow,
and a run that fails leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import PIL.Image

from dnnlib.util import UserError
from training.data.conversion_options import RESIZE_FILTERS, TRANSFORMS, ConversionOptions
from training.data.dataset_sources import Source, open_source
from training.data.dataset_writers import open_writer
from training.data.decoding import to_8_bit_srgb
from training.data.image_files import LABEL_FILE
from training.data.image_size import check_image_size
from training.data.image_transforms import transform_image
from training.data.labels import Label
from training.data.messages import describe_shape
from training.data.ordered_pool import WorkerDied, available_processors, ordered_map

__all__ = [
    "RESIZE_FILTERS", "TRANSFORMS", "ConversionOptions", "ConversionSummary", "convert_dataset",
]

IMAGES_PER_READER = 256    # of a source that only new processes may read
TRIAL_SECONDS = 0.5        # how long this process works alone before it estimates what is left
SECONDS_PER_WORKER = 3.0   # of work that a process must take over to be worth its start, some 0.6 s of computing
DARK = 64   # 8-bit level; where all 16-bit images of a collection stay below it, they hold numbers of fewer bits

Shape = tuple[int, int, int]   # C, H, W


@dataclass(frozen=True)
class ConversionSummary:
    num_images: int                  # written
    num_dropped: int                 # left out by the transform
    skipped: list[str]               # why bad images were left out: a line for each that names its file
    image_shape: Shape
    label_text: str                  # "labels of 10 classes", "no labels", ...
    classes: list[tuple[str, int]]   # name and number of images of class 0, 1, ... where the source has names
    others: str                      # files of the source that are no images, in words; empty if there are none
    warning: str                     # what may be wrong with the data set; empty if nothing is
    num_bytes: int                   # size of the written files
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of an image: the content of a PNG file and its shape, or an error, or neither if it was dropped."""

    name: str   # in the source
    png: bytes = b""
    shape: Shape | None = None
    error: OSError | ValueError | None = None
    top_of_16_bits: int | None = None   # brightest 8-bit level of an image with 16 bits, None for others


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
            stored = self.source.load(idx)
            picture = to_8_bit_srgb(stored, what, self.options.value_range)
            image = transform_image(picture, self.options, what)
            if image is None:
                return Outcome(name)
            check_image_size(image.width, image.height, what)
        except (OSError, ValueError) as err:
            return Outcome(name, error=err)
        shape = len(image.getbands()), image.height, image.width
        return Outcome(name, encode_png(image), shape, top_of_16_bits=brightest_of_16_bits(stored, picture))


def brightest_of_16_bits(stored: PIL.Image.Image, picture: PIL.Image.Image) -> int | None:
    """The brightest 8-bit level of a picture, transparency aside, if its file has 16 bits per channel."""
    if "sixteen_bits" not in stored.info:
        return None
    colours = np.asarray(picture.convert("RGB") if picture.mode in ("LA", "RGBA") else picture)
    return int(colours.max())


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
    With `skip_bad` the images that stay are those of the most common shape.
    Raises `UserError` or `OSError` with one line that names the offending file; `dest` is then as it was before.
    """
    start = time.monotonic()
    if os.path.realpath(source) == os.path.realpath(dest):
        raise UserError(f"destination {dest} must not be the source")
    try:
        chosen = _convert(source, dest, options, progress)
    except OtherShape as err:   # rare: it costs less to begin again than to look at all images twice each time
        chosen = _convert(source, dest, options, progress, err.shape)
    return chosen.summary(time.monotonic() - start)


def _convert(
    source: str, dest: str, options: ConversionOptions, progress: Callable[[int, int], None] | None,
    shape: Shape | None = None,   # that images must have; None takes that of the first
) -> Selection:
    with open_writer(dest) as write:   # refuses a destination that is taken before anything is read
        chosen = Selection(source, open_source(source, options), options, shape)
        with contextlib.closing(chosen.files(progress)) as files:   # an error of the writer ends the workers too
            for name, png in files:
                write(name, png)
        write(LABEL_FILE, chosen.label_file())
    return chosen


class OtherShape(Exception):
    """Most images do not have the shape of the first; bad ones are skipped, so these are to go."""

    def __init__(self, shape: Shape):
        self.shape = shape


class Selection:
    """The images that go into the data set, and why others do not."""

    def __init__(self, path: str, source: Source, options: ConversionOptions, shape: Shape | None):
        self._path, self._source, self._options = path, source, options
        self._shape, self._example = shape, "most are"   # the shape that images must have, and which have it
        self._shapes = Counter[Shape]()                  # of all images that can be read
        self._labels: list[tuple[str, Label | None]] = []   # name and label of each file in the data set
        self._num_dropped = self._num_bytes = 0
        self._skipped: list[str] = []
        self._tops: list[int] = []   # brightest levels of the images with 16 bits

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
        most_common, count = self._shapes.most_common(1)[0]
        if count > len(self._labels):
            raise OtherShape(most_common)

    def _outcomes(self) -> Generator[Outcome, None, None]:
        convert = Converter(self._path, self._source, self._options)
        total, done, workers = len(self._source), 0, self._options.workers
        if self._source.may_crash:
            workers = workers or max(1, min(available_processors(), total // IMAGES_PER_READER))
        elif self._source.in_memory or workers == 1:
            workers = 0
        elif workers is None:
            start = time.monotonic()
            while done < total and (done == 0 or time.monotonic() - start < TRIAL_SECONDS):
                yield convert(done)
                done += 1
            workers = worthwhile_workers((time.monotonic() - start) / done * (total - done))
        try:
            yield from ordered_map(functools.partial(apply_from, done, convert), total - done, workers)
        except WorkerDied as err:
            raise OSError(f"{self._path}: {err}") from err

    def _is_chosen(self, outcome: Outcome) -> bool:
        error = outcome.error
        if outcome.shape is not None:
            if self._shape is None:
                self._shape, self._example = outcome.shape, f"{outcome.name} is"
            self._shapes[outcome.shape] += 1
            if outcome.shape != self._shape:
                error = UserError(f"{self._path}: all images must be alike, {outcome.name} is "
                                  f"{describe_shape(outcome.shape)} and {self._example} {describe_shape(self._shape)}")
        if outcome.top_of_16_bits is not None:
            self._tops.append(outcome.top_of_16_bits)
        if error is not None:
            if not self._options.skip_bad:
                raise error
            self._skipped.append(str(error))
        elif outcome.shape is None:
            self._num_dropped += 1
        return error is None and outcome.shape is not None

    def _nothing_left(self) -> UserError:
        if self._num_dropped:
            size = f"{self._options.width}x{self._options.height}"
            return UserError(f"{self._path}: transform {self._options.transform} drops all {self._num_dropped} images "
                             f"that can be read: they are smaller than {size}")
        return UserError(f"{self._path}: all {len(self._skipped)} images are bad, the first because: "
                         f"{self._skipped[0]}")

    def _labelled(self) -> bool:
        return all(label is not None for _, label in self._labels)

    def _class_names(self) -> list[str]:
        return list(self._source.class_names or []) if self._labelled() else []

    def label_file(self) -> bytes:
        """Content of `dataset.json`; the names of the classes, where known, are for people only."""
        content: dict[str, object] = {"labels": self._labels if self._labelled() else None}
        if self._class_names():
            content["class_names"] = self._class_names()
        return json.dumps(content).encode()

    def summary(self, seconds: float) -> ConversionSummary:
        assert self._shape is not None
        labels = [label for _, label in self._labels]
        counts = Counter(label for label in labels if isinstance(label, int))
        return ConversionSummary(
            num_images=len(labels), num_dropped=self._num_dropped, skipped=self._skipped, image_shape=self._shape,
            label_text=describe_labels(labels),
            classes=[(name, counts[idx]) for idx, name in enumerate(self._class_names())],
            others=self._source.others, warning=self._warning(), num_bytes=self._num_bytes, seconds=seconds,
        )

    def _warning(self) -> str:
        if self._options.value_range is not None or not self._tops or max(self._tops) >= DARK:
            return ""
        top = max(self._tops)
        highest = 256 * top + 255
        return (f"the images with 16 bits per channel ({len(self._tops)}) are dark, as if they held fewer: their "
                f"values 0..{highest} were stored as 0..{top}. --range=0-{highest} would make gray {highest} white")


def apply_from(start: int, convert: Converter, idx: int) -> Outcome:
    return convert(start + idx)


def worthwhile_workers(seconds: float) -> int:
    """How many new processes to start for work that would take this one `seconds`; 0 leaves it to this one."""
    workers = min(available_processors(), int(seconds / SECONDS_PER_WORKER))
    return workers if workers > 1 else 0


def describe_labels(labels: list[Label | None]) -> str:
    """For the summary: also says when labels were left out because some are missing."""
    missing = sum(label is None for label in labels)
    if missing == len(labels):
        return "no labels"
    if missing:
        return f"labels left out: {missing} images have none"
    if isinstance(labels[0], list):
        return f"labels of {len(labels[0])} numbers"
    present = {label for label in labels if isinstance(label, int)}
    num_classes = 1 + max(present)   # labels are one-hot up to the highest
    empty = f", {num_classes - len(present)} empty" if num_classes > len(present) else ""
    return f"labels of {num_classes} {'class' if num_classes == 1 else 'classes'}{empty}"
