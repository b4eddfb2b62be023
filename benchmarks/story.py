"""Draw an image, the same image as some of its blocks are redrawn one after the other, and what each edit changed.

    python benchmarks/story.py --network=demo:avatars64 --seed=1 --out=docs/images/avatars.png \\
        --edit='new hair:0,1+0,2:3' --edit='new face:1,1+1,2+2,1+2,2:3' --edit='new colours:1x1:0:5'

An edit is a caption, the blocks to redraw as generate.py takes them, and the variant to keep. A map shows the square
root of the mean squared change of a pixel, from none (black) to half of the range of colours (white).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ssn_plugin
from dnnlib.util import UserError
from ssn_plugin.files import save_png
from training.cli import Command

GAP, CAPTION, FONT_SIZE = 8, 26, 16


class Edit(NamedTuple):
    caption: str
    blocks: str
    variant: int


def parse_edit(text: str) -> Edit:
    """`new hair:0,1+0,2:5` -> its three parts; the blocks may have a colon of their own."""
    match = re.fullmatch(r"([^:]+):(.+):([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--edit must be CAPTION:BLOCKS:VARIANT, as in 'new hair:0,1+0,2:5', got {text!r}")
    return Edit(match[1], match[2], int(match[3]))


def tell(network: str, seed: int, edits: list[Edit]) -> list[np.ndarray]:
    """The image of a seed, and what it is after each edit. uint8 [H, W, 3] each"""
    image = ssn_plugin.open(network, device="cpu").image(seed=seed)
    images = [image.pixels]
    for edit in edits:
        image = image.redraw(edit.blocks).pick(edit.variant)
        images.append(image.pixels)
    return images


def change_map(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Root of the mean squared change over the channels, half of the range of colours being white. uint8 [H, W, 3]"""
    change = np.sqrt(np.square(after.astype(np.float64) - before).mean(axis=2, keepdims=True)) / 255
    return np.rint((2 * change).clip(0, 1) * 255).astype(np.uint8).repeat(3, axis=2)


def compose(images: list[np.ndarray], captions: list[str], cell: int) -> Image.Image:
    """A row of images `cell` pixels wide, and below each but the first, where it differs from the one before."""
    step = cell + GAP
    page = Image.new("RGB", (len(images) * step - GAP, CAPTION + cell + GAP + cell // 2), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_SIZE)
    for i, (image, caption) in enumerate(zip(images, captions)):
        draw.text((i * step, 0), caption, fill="black", font=font)
        page.paste(Image.fromarray(image).resize((cell, cell), Image.Resampling.BICUBIC), (i * step, CAPTION))
        if i > 0:
            changed = Image.fromarray(change_map(images[i - 1], image))
            place = (i * step, CAPTION + cell + GAP)
            page.paste(changed.resize((cell // 2, cell // 2), Image.Resampling.NEAREST), place)
    return page


@click.command(cls=Command)
@click.option("--network", required=True, metavar="PATH", help="SSN: a file, a URL or a short name")
@click.option("--seed", type=click.IntRange(min=0), required=True, help="Image to begin with")
@click.option("--edit", "edits", multiple=True, required=True, metavar="CAPTION:BLOCKS:VARIANT", help="In this order")
@click.option("--cell", type=click.IntRange(min=16), default=256, show_default=True, help="Width of an image in pixels")
@click.option("--out", required=True, metavar="PNG", help="Picture to write")
def main(network: str, seed: int, edits: tuple[str, ...], cell: int, out: str) -> None:
    """Draw an image and what becomes of it in a few edits."""
    parsed = [parse_edit(text) for text in edits]
    images = tell(network, seed, parsed)
    save_png(compose(images, ["a generated image", *(edit.caption for edit in parsed)], cell), out)


if __name__ == "__main__":
    main()
