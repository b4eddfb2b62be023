"""Make a data set for training from a folder or zip of images, or draw one."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from training.cli import Command
from training.dataset import describe_shape
from training.dataset_conversion import (
    RESIZE_FILTERS,
    TRANSFORMS,
    ConversionOptions,
    ConversionSummary,
    convert_dataset,
)

EXAMPLES = """\b
Examples:
  python dataset_tool.py --source=castles --dest=datasets/castles64.zip --resolution=64x64 --max-images=20000
  python dataset_tool.py --source=photos --dest=datasets/photos256.zip --transform=center-crop --resolution=256x256
"""


class Resolution(click.ParamType):
    """`64x64` -> (64, 64)."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value)
        if match is None:
            self.fail(f"must be WIDTHxHEIGHT such as 64x64, got {value}", param, ctx)
        return int(match[1]), int(match[2])


@click.command(cls=Command, epilog=EXAMPLES)
@click.option("--source", required=True, metavar="PATH",
              help="Folder or .zip of images, or castles to draw them (./castles is a folder of that name)")
@click.option("--dest", required=True, metavar="PATH", help="Folder (empty or new), or .zip (replaced) to write")
@click.option("--max-images", type=click.IntRange(min=1), metavar="N", help="Take so many images  [default: all]")
@click.option("--resize-filter", type=click.Choice(list(RESIZE_FILTERS)), default="lanczos", show_default=True,
              help="How to resize")
@click.option("--transform", type=click.Choice(TRANSFORMS),
              help="Crop before resizing, to the centre square or to the wide centre on a black square")
@click.option("--width", type=click.IntRange(min=1), metavar="N", help="Pixels of a row  [default: as the images]")
@click.option("--height", type=click.IntRange(min=1), metavar="N", help="Pixels of a column  [default: as the images]")
@click.option("--resolution", type=Resolution(), help="Short for --width and --height")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws other castles")
def main(
    source: str, dest: str, max_images: int | None, resize_filter: str, transform: str | None, width: int | None,
    height: int | None, resolution: tuple[int, int] | None, seed: int,
) -> None:
    """Make a data set for training from a folder or zip of images, or draw one (--source=castles).

    Any format that Pillow reads will do. The data set holds uncompressed PNG files, all of one size, square, a power
    of two, gray or RGB, and dataset.json with the labels if the source has a dataset.json that labels every image.

    Images are turned upright as their EXIF data says. Palette and CMYK images become RGB, 16-bit gray images 8-bit
    gray. Transparency is refused.
    """
    if resolution is not None:
        if width is not None or height is not None:
            raise click.UsageError("--resolution stands for --width and --height: give one or the other")
        width, height = resolution
    options = ConversionOptions(max_images, transform, resize_filter, width, height, seed)
    with progress_line() if sys.stderr.isatty() else contextlib.nullcontext() as progress:
        summary = convert_dataset(source, dest, options, progress)
    click.echo(describe_summary(summary, dest))


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[int, int], None]]:
    """Callback that keeps one line of the terminal up to date, ten times a second; the line is gone at the end."""
    start = shown = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > 0.1:
            shown = now
            click.echo(f"\r{done}/{total} images, {done / (now - start):.0f}/s\033[K", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\033[K", nl=False, err=True)


def describe_summary(summary: ConversionSummary, dest: str) -> str:
    dropped = f", {summary.num_dropped} dropped" if summary.num_dropped else ""
    return (f"{summary.num_images} images ({describe_shape(summary.image_shape)}, {summary.label_text}{dropped}), "
            f"{summary.num_bytes / 1e6:.1f} MB in {summary.seconds:.1f} s: {dest}")


if __name__ == "__main__":
    main()
