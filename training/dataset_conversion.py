"""Turn image collections into data sets for `ImageFolderDataset`: a source, a transform, a writer.

A source yields one `SourceItem` per image; `convert_dataset` loads each, transforms it, checks that it is like all the
others, and hands the PNG to a writer. The same source and options give the same bytes, and a run that fails leaves
nothing behind.

Shapes: pixels are uint8 `[H, W, C]` with 3 channels, or `[H, W]` for gray.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import PIL.Image
import PIL.ImageOps

from dnnlib.util import open_atomic
from training import castles
from training.dataset import LABEL_FILE, ImageArchive, describe_shape, one_line, read_labels

Label = int | list[float]
RESIZE_FILTERS = {"box": PIL.Image.Resampling.BOX, "lanczos": PIL.Image.Resampling.LANCZOS}
TRANSFORMS = ("center-crop", "center-crop-wide")
ZIP_DATE = (1980, 1, 1, 0, 0, 0)   # the earliest that the format knows; equal input must give equal bytes


@dataclass(frozen=True)
class ConversionOptions:
    """What to make of the images of a source."""

    max_images: int | None = None    # stop after so many images of the source
    transform: str | None = None     # one of TRANSFORMS; None resizes where a width or height is given
    resize_filter: str = "lanczos"   # one of RESIZE_FILTERS
    width: int | None = None         # pixels; None keeps that of the image
    height: int | None = None
    seed: int = 0                    # of drawn sources

    def __post_init__(self) -> None:
        for name, size in (("max-images", self.max_images), ("width", self.width), ("height", self.height)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if self.resize_filter not in RESIZE_FILTERS:
            raise ValueError(f"resize filter must be one of {', '.join(RESIZE_FILTERS)}, got {self.resize_filter}")
        if self.transform not in (None, *TRANSFORMS):
            raise ValueError(f"transform must be one of {', '.join(TRANSFORMS)}, got {self.transform}")
        if self.transform is not None and (self.width is None or self.height is None):
            raise ValueError(f"transform {self.transform} needs both width and height")
        if self.transform == "center-crop-wide" and (self.height or 0) > (self.width or 0):
            raise ValueError(f"center-crop-wide needs a height up to the width, got {self.width}x{self.height}")
        if self.width is not None and self.height is not None:
            height = self.width if self.transform == "center-crop-wide" else self.height
            check_size(self.width, height, "the data set")


@dataclass(frozen=True)
class SourceItem:
    """One image of a source, not loaded yet."""

    name: str                                  # for messages, within the source
    load: Callable[[], PIL.Image.Image]
    label: Label | None = None


@dataclass(frozen=True)
class Source:
    num_items: int
    items: Iterable[SourceItem]


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: `accepts(path)` recognises it, `open(path, options)` reads its table of contents."""

    description: str
    accepts: Callable[[str], bool]
    open: Callable[[str, ConversionOptions], Source]


@dataclass(frozen=True)
class ConversionSummary:
    num_images: int                    # written
    num_dropped: int                   # left out by the transform
    image_shape: tuple[int, int, int]  # C, H, W
    label_text: str                    # "labels of 10 classes", "no labels", ...
    num_bytes: int                     # of the written files
    seconds: float


def convert_dataset(
    source: str,
    dest: str,
    options: ConversionOptions = ConversionOptions(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> ConversionSummary:
    """Write the images of `source` as a data set to the folder or zip `dest`; `progress` gets (done, total).

    A zip is replaced, a folder must be empty or new. Image i of the source becomes `%05d/img%08d.png`, also where the
    transform dropped images before it; `dataset.json` holds the labels if every written image has one.
    Raises `ValueError` or `OSError` with one line that names the offending file; `dest` is then as it was before.
    """
    start = time.monotonic()
    if os.path.realpath(source) == os.path.realpath(dest):
        raise ValueError(f"destination {dest} must not be the source")
    opened = open_source(source, options)
    labels: list[tuple[str, Label | None]] = []
    num_bytes = 0
    with open_writer(dest) as write:
        for idx, item, pixels in finished_images(source, opened, options, progress):
            name, data = f"{idx:08d}"[:5] + f"/img{idx:08d}.png", encode_png(pixels)
            write(name, data)
            num_bytes += len(data)
            labels.append((name, item.label))
        if not labels:
            raise ValueError(f"{source}: transform {options.transform} drops all {opened.num_items} images: they are "
                             f"smaller than {options.width}x{options.height}")
        is_labelled = all(label is not None for _, label in labels)
        write(LABEL_FILE, json.dumps({"labels": labels if is_labelled else None}).encode())
    return ConversionSummary(
        num_images=len(labels), num_dropped=opened.num_items - len(labels), image_shape=channels_first(pixels.shape),
        label_text=describe_labels([label for _, label in labels]), num_bytes=num_bytes,
        seconds=time.monotonic() - start,
    )


def finished_images(
    source: str, opened: Source, options: ConversionOptions, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[int, SourceItem, np.ndarray]]:
    """Index, item and transformed pixels of every image that the transform keeps, checked to be all alike."""
    shape, first_name = None, ""
    for idx, item in enumerate(opened.items):
        pixels = load_pixels(item, options, what=f"{source}: {item.name}")
        if pixels is not None:
            if shape is None:
                shape, first_name = pixels.shape, item.name
                check_size(shape[1], shape[0], f"{source}: {item.name}")
            if pixels.shape != shape:
                raise ValueError(f"{source}: all images must be alike, {item.name} is {describe_pixels(pixels.shape)} "
                                 f"and {first_name} is {describe_pixels(shape)}")
            yield idx, item, pixels
        if progress is not None:
            progress(idx + 1, opened.num_items)


def load_pixels(item: SourceItem, options: ConversionOptions, what: str) -> np.ndarray | None:
    """One image of the source in its final form; None if the transform drops it. Errors begin with `what`."""
    image = apply_transform(as_gray_or_rgb(item.load(), what), options)
    return None if image is None else np.asarray(image)


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG without compression, which loads fastest; from bare pixels, so that no metadata of the source gets in."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="png", compress_level=0, optimize=False)
    return buffer.getvalue()


def check_size(width: int, height: int, what: str) -> None:
    if width != height:
        raise ValueError(f"{what}: images must be square, got {width}x{height}; transform center-crop makes them so")
    if width & (width - 1):
        raise ValueError(f"{what}: width and height must be a power of two, got {width}x{height}; the options of these "
                         "names resize images")


def channels_first(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[2] if len(shape) == 3 else 1, shape[0], shape[1])


def describe_pixels(shape: tuple[int, ...]) -> str:
    return describe_shape(channels_first(shape))


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


def open_source(path: str, options: ConversionOptions) -> Source:
    for kind in SOURCE_KINDS:
        if kind.accepts(path):
            return kind.open(path, options)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such source: {path}")
    kinds = "; ".join(kind.description for kind in SOURCE_KINDS)
    raise ValueError(f"cannot tell what {path} is; a source is one of: {kinds}")


def open_image_files(path: str, options: ConversionOptions) -> Source:
    """All images below a folder or in a zip, sorted by path, with the labels of its `dataset.json`."""
    archive = ImageArchive(path)
    names = archive.image_names[: options.max_images]
    if not names:
        raise OSError(f"{path} contains no image")
    labels = read_labels(archive) or {}
    items = (SourceItem(name, functools.partial(archive.load_image, name), labels.get(name)) for name in names)
    return Source(len(names), items)


def open_castles(path: str, options: ConversionOptions) -> Source:
    """Castles drawn on the spot; see `training.castles`."""
    count, size = options.max_images, options.width
    if size is None or options.height != size:
        raise ValueError("source castles needs a square resolution, such as 64x64")
    if count is None:
        raise ValueError("source castles is endless: give max-images")
    if options.transform is not None:
        raise ValueError(f"source castles is drawn at its final size, transform {options.transform} does not apply")
    draw = functools.partial(castles.draw_castle, options.seed, size)
    return Source(count, (SourceItem(f"castle {i}", functools.partial(draw, i)) for i in range(count)))


# The first kind that recognises a path opens it.
SOURCE_KINDS: tuple[SourceKind, ...] = (
    SourceKind("the word castles", lambda path: path == "castles", open_castles),
    SourceKind("a folder of images", os.path.isdir, open_image_files),
    SourceKind(
        "a .zip of images", lambda path: path.lower().endswith(".zip") and os.path.exists(path), open_image_files
    ),
)


def as_gray_or_rgb(image: PIL.Image.Image, what: str) -> PIL.Image.Image:
    """Upright 8-bit image of mode L or RGB; `what` begins the error messages.

    The orientation in the EXIF data is applied. Palette, CMYK, YCbCr and LAB images become RGB, bilevel and 16-bit gray
    ones 8-bit gray (of 16 bits the upper 8 stay). Of an animation the first frame counts. Transparency and gray values
    without a defined range raise `ValueError`: what to do with them is for the user to say.
    """
    if not image.width or not image.height:
        raise ValueError(f"{what} has no pixels: {image.width}x{image.height}")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        raise ValueError(f"{what} has transparency (Pillow's mode {image.mode}); images must be gray or RGB without it")
    try:
        image = PIL.ImageOps.exif_transpose(image)
    except Exception as err:   # Pillow raises nearly anything on damaged EXIF data
        raise OSError(f"{what} has unreadable EXIF data: {one_line(err)}") from err
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I;16"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "CMYK", "YCbCr", "LAB"):
        return image.convert("RGB")
    raise ValueError(f"{what} has Pillow's mode {image.mode}; images must have 8 or 16 bits per channel")


def apply_transform(image: PIL.Image.Image, options: ConversionOptions) -> PIL.Image.Image | None:
    width, height = options.width or image.width, options.height or image.height
    resample = RESIZE_FILTERS[options.resize_filter]
    if options.transform == "center-crop":
        return center_crop(image, width, height, resample)
    if options.transform == "center-crop-wide":
        return center_crop_wide(image, width, height, resample)
    return image if image.size == (width, height) else image.resize((width, height), resample)


def center_crop(
    image: PIL.Image.Image, width: int, height: int, resample: PIL.Image.Resampling
) -> PIL.Image.Image:
    """The largest square in the middle, resized to width x height."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((width, height), resample)


def center_crop_wide(
    image: PIL.Image.Image, width: int, height: int, resample: PIL.Image.Resampling
) -> PIL.Image.Image | None:
    """Full width and a middle part of the height, resized to width x height on a black square of side `width`.

    None if the image would have to be enlarged, or is not high enough for its width.
    """
    crop_height = round(image.width * height / width)
    if image.width < width or crop_height < height or image.height < crop_height:
        return None
    top = (image.height - crop_height) // 2
    strip = image.crop((0, top, image.width, top + crop_height)).resize((width, height), resample)
    canvas = PIL.Image.new(image.mode, (width, width))
    canvas.paste(strip, (0, (width - height) // 2))
    return canvas


class Writer(Protocol):
    """Adds a file to the data set under a relative name."""

    def __call__(self, name: str, data: bytes, /) -> None: ...


def open_writer(dest: str) -> contextlib.AbstractContextManager[Writer]:
    """Context that yields the writer; what was written appears at `dest` when the context ends without an error."""
    is_zip = os.path.splitext(dest)[1].lower() == ".zip"
    if is_zip and os.path.isdir(dest):
        raise OSError(f"destination {dest} must be a file, it is a folder")
    if not is_zip and os.path.exists(dest) and not os.path.isdir(dest):
        raise OSError(f"destination {dest} must be a folder or end in .zip, it is a file")
    if not is_zip and os.path.isdir(dest) and os.listdir(dest):
        raise OSError(f"destination folder {dest} must be empty")
    return zip_writer(dest) if is_zip else folder_writer(dest)


@contextlib.contextmanager
def zip_writer(dest: str) -> Iterator[Writer]:
    os.makedirs(os.path.dirname(os.path.abspath(dest)), exist_ok=True)
    with open_atomic(dest) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, data: bytes) -> None:
            info = zipfile.ZipInfo(name, date_time=ZIP_DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16   # the same on every system
            archive.writestr(info, data)

        yield write


@contextlib.contextmanager
def folder_writer(dest: str) -> Iterator[Writer]:
    """Writes beside `dest` and moves everything there at the end."""
    final = os.path.realpath(dest)
    partial = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}.{uuid.uuid4().hex[:8]}.partial")
    try:
        os.makedirs(partial)
    except OSError as err:
        raise type(err)(err.errno, err.strerror, dest) from None   # name the folder that the user knows

    def write(name: str, data: bytes) -> None:
        path = os.path.join(partial, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)

    try:
        yield write
        os.makedirs(final, exist_ok=True)
        for name in sorted(os.listdir(partial)):   # dataset.json comes last
            shutil.move(os.path.join(partial, name), os.path.join(final, name))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
