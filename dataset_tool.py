"""Make a data set for training from a collection of images, or draw one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dnnlib.terminal import ProgressLine
from dnnlib.util import open_atomic, printable
from training.cli import Command
from training.data.conversion_options import CHANNELS, RESIZE_FILTERS, TRANSFORMS, ConversionOptions
from training.data.messages import describe_shape

if TYPE_CHECKING:
    from training.data.dataset_conversion import ConversionSummary

MAX_LINES = 10   # printed for classes or skipped files; the others are in the data set or in a file beside it
EXAMPLES = """\b
Examples:
  python dataset_tool.py --source=castles --dest=datasets/castles64.zip --resolution=64x64 --max-images=20000
  python dataset_tool.py --source=photos --dest=datasets/photos256.zip --transform=center-crop --resolution=256x256
"""


class Resolution(click.ParamType):
    """`96x64` -> (96, 64)."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value)
        if match is None:
            self.fail(f"must be WIDTHxHEIGHT such as 64x64, got {value}", param, ctx)
        return int(match[1]), int(match[2])


class ValueRange(click.ParamType):
    """`0-4095` -> (0.0, 4095.0); `4095` is the same."""

    name = "LOW-HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        number = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
        match = re.fullmatch(rf"(?:({number})[-,:])?({number})", value)
        if match is None:
            self.fail(f"must be LOW-HIGH such as 0-4095, got {value}", param, ctx)
        return float(match[1] or 0), float(match[2])


@click.command(cls=Command, epilog=EXAMPLES)
@click.option("--source", required=True, metavar="PATH", help="Where the images are, or castles to draw them")
@click.option("--dest", required=True, metavar="PATH", help="Folder (empty or new), or .zip (replaced) to write")
@click.option("--max-images", type=click.IntRange(min=1), metavar="N",
              help="Use only the first N images  [default: all]")
@click.option("--resize-filter", type=click.Choice(list(RESIZE_FILTERS)), default="lanczos", show_default=True,
              help="How to resize")
@click.option("--transform", type=click.Choice(TRANSFORMS),
              help="Crop before resizing: the centre to the proportions of the data set, or the height only, to a wide "
              "image on a black square")
@click.option("--width", type=click.IntRange(min=1), metavar="N", help="Pixels of a row  [default: as the images]")
@click.option("--height", type=click.IntRange(min=1), metavar="N", help="Pixels of a column  [default: as the images]")
@click.option("--resolution", type=Resolution(), metavar="WxH", help="Short for --width and --height")
@click.option("--force-channels", type=click.Choice([str(channels) for channels in CHANNELS]),
              help="Make all images gray (1), RGB (3) or RGBA (4)  [default: gray or RGB, as they are]")
@click.option("--range", "value_range", type=ValueRange(), metavar="LOW-HIGH",
              help="Black and white of gray images with more than 8 bits, such as 0-4095 for 12 bits in 16  "
              "[default: 0-65535]")
@click.option("--subfolders-as-labels", is_flag=True,
              help="Label images by the first folder of their path, in the order of names, or of numbers where all "
              "folders are numbers")
@click.option("--skip-bad", is_flag=True,
              help="Leave out images that cannot be used or are unlike most others, and report them")
@click.option("--workers", type=click.IntRange(min=1), metavar="N",
              help="Processes; the data set does not depend on it  [default: one per processor where that pays]")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws other castles")
def main(
    source: str, dest: str, width: int | None, height: int | None, resolution: tuple[int, int] | None,
    force_channels: str | None, **others: Any,
) -> None:
    """Make a data set for training from a collection of images, or draw one.

    \b
    A source is one of:
      a folder or .zip of images in any format that Pillow reads, with labels if dataset.json has them
      an LSUN folder (*_lmdb); needs the package lmdb
      cifar-10-python.tar.gz, with labels
      *-images-idx3-ubyte.gz in the format of MNIST, with labels from the file beside it, padded to 32x32
      the word castles, which draws them (./castles is a folder of that name), or castles:winter for one season

    The data set holds uncompressed PNG files, all of one size and kind, and dataset.json with the labels if every
    image has one. Sides are a power of two, or both a few times one power of two, as in 96x64.

    Images are turned upright as their EXIF data says, and colours of an ICC profile become sRGB. Palette and CMYK
    images become RGB, 16-bit gray images 8-bit gray. Transparency is refused unless --force-channels says what to do:
    1 and 3 put it on black, 4 keeps it. Linked folders are followed. Hidden folders and those of file managers do not
    count.
    """
    if resolution is not None:
        if width is not None or height is not None:
            raise click.UsageError("--resolution stands for --width and --height: give one or the other")
        width, height = resolution
    from training.data.dataset_conversion import convert_dataset  # imports numpy, which --help need not wait for

    channels = None if force_channels is None else int(force_channels)
    options = ConversionOptions(width=width, height=height, force_channels=channels, **others)
    with interrupted_when_terminated(), ProgressLine() as progress:
        summary = convert_dataset(source, dest, options, progress.update)
    click.echo(describe_summary(summary, dest))
    for line in describe_classes(summary) + report_skipped(summary, dest) + report_others(summary):
        click.echo(line)
    if summary.warning:
        click.echo(f"Warning: {summary.warning}", err=True)


@contextlib.contextmanager
def interrupted_when_terminated() -> Iterator[None]:
    """Context in which SIGTERM, and SIGHUP of a terminal that closes, end the process as Ctrl-C does, so that nothing
    half-written stays behind. A signal that is ignored, as under nohup, stays so."""
    if threading.current_thread() is not threading.main_thread():   # Python's rule for setting signal handlers
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe_summary(summary: ConversionSummary, dest: str) -> str:
    parts = [describe_shape(summary.image_shape), summary.label_text]
    if summary.num_dropped:
        parts.append(f"{summary.num_dropped} dropped")
    if summary.skipped:
        parts.append(f"{len(summary.skipped)} bad ones skipped")
    return (f"{summary.num_images} images ({', '.join(parts)}), {summary.num_bytes / 1e6:.1f} MB in "
            f"{summary.seconds:.1f} s: {printable(dest, None)}")


def describe_classes(summary: ConversionSummary) -> list[str]:
    """Which class has which name, where the source knows."""
    lines = [
        f"  class {idx}: {printable(name, None)} ({count} images)" for idx, (name, count) in enumerate(summary.classes)
    ]
    return shortened(lines, "dataset.json")


def report_skipped(summary: ConversionSummary, dest: str) -> list[str]:
    """A line for each skipped image; where they are many, all of them go to a file beside the data set."""
    reasons = [printable(reason, None) for reason in summary.skipped]
    path = re.sub(r"\.zip$", "", os.path.realpath(dest), flags=re.IGNORECASE) + ".skipped.txt"
    if len(reasons) > MAX_LINES:
        with open_atomic(path, "w", encoding="utf-8") as file:
            file.writelines(f"{reason}\n" for reason in reasons)
    return shortened([f"  skipped: {reason}" for reason in reasons], path)


def report_others(summary: ConversionSummary) -> list[str]:
    """What the source has besides images."""
    return [f"  left out: {summary.others}"] if summary.others else []


def shortened(lines: list[str], place: str) -> list[str]:
    """The first lines, and the place where the others are."""
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[:MAX_LINES], f"  ... and {len(lines) - MAX_LINES} more: {place}"]


if __name__ == "__main__":
    main()
