"""Draw what a transfer does: a StyleGAN2, the SSN it becomes, that SSN after training, and one trained from scratch.

    python benchmarks/transfer_figure.py --source=sg2.pkl --tuned=tuned.pkl --scratch=scratch.pkl --out=transfer.png

docs/networks.md tells how the three networks of its figure were trained.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ssn_plugin.files import save_png
from ssn_plugin.from_stylegan2 import transfer_networks
from training.cli import Command
from training.images.generation import seed_to_z, to_uint8
from training.network_files import load_networks

GAP, LABEL_WIDTH, FONT_SIZE = 8, 170, 15


@torch.no_grad()
def draw_images(G: Any, seeds: range, psi: float, equal_blocks: bool = False) -> np.ndarray:
    """One image per seed; with equal blocks all blocks share the latent of the seed. uint8 [N, H, W, C]"""
    c = torch.zeros([1, G.c_dim])
    images = []
    for seed in seeds:
        z = seed_to_z(seed, G.z_dim)
        if equal_blocks:
            z = seed_to_z(seed, G.block_z_dim).repeat(1, G.z_dim // G.block_z_dim)
        images.append(to_uint8(G(z, c, truncation_psi=psi, noise_mode="const"))[0])
    return np.stack(images)


def compose(rows: list[tuple[str, np.ndarray]], cell: int) -> Image.Image:
    """Labelled rows of square images, each `cell` pixels wide."""
    step, num = cell + GAP, len(rows[0][1])
    sheet = Image.new("RGB", (LABEL_WIDTH + num * step + GAP, len(rows) * step + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for row, (label, images) in enumerate(rows):
        top = GAP + row * step
        draw.multiline_text((GAP, top + cell / 2), label, fill="black", font=font, anchor="lm")
        for column, image in enumerate(images):
            picture = Image.fromarray(image.squeeze()).convert("RGB").resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(picture, (LABEL_WIDTH + column * step, top))
    return sheet


@click.command(cls=Command)
@click.option("--source", required=True, metavar="PATH", help="StyleGAN2")
@click.option("--tuned", required=True, metavar="PATH", help="SSN that was trained from it")
@click.option("--scratch", required=True, metavar="PATH", help="SSN that was trained as long from scratch")
@click.option("--kimg", type=click.IntRange(min=1), default=20, show_default=True,
              help="Thousands of images that both were trained on")
@click.option("--seeds", "num", type=click.IntRange(min=1), default=8, show_default=True, help="Images per row")
@click.option("--trunc", type=float, default=1.0, show_default=True, help="Truncation psi")
@click.option("--cell", type=click.IntRange(min=8), default=96, show_default=True, help="Width of an image in pixels")
@click.option("--out", required=True, metavar="PNG", help="File to write")
def main(source: str, tuned: str, scratch: str, kimg: int, num: int, trunc: float, cell: int, out: str) -> None:
    """Draw the stages of a transfer, one row each."""
    networks, after, fresh = load_networks(source), load_networks(tuned)["G_ema"], load_networks(scratch)["G_ema"]
    start = transfer_networks(networks, after.block_grid)[0]["G_ema"]
    seeds = range(num)
    stylegan2 = draw_images(networks["G_ema"].eval(), seeds, trunc)
    equal = draw_images(start, seeds, trunc, equal_blocks=True)
    click.echo(f"largest difference of a pixel with equal blocks: {np.abs(equal.astype(int) - stylegan2).max()} of 255")
    rows = [
        ("StyleGAN2", stylegan2),
        ("SSN at the start,\nequal blocks", equal),
        ("SSN at the start,\nindependent blocks", draw_images(start, seeds, trunc)),
        (f"SSN after {kimg} kimg,\nindependent blocks", draw_images(after.eval(), seeds, trunc)),
        (f"SSN from scratch,\n{kimg} kimg", draw_images(fresh.eval(), seeds, trunc)),
    ]
    save_png(compose(rows, cell), out)
    click.echo(out)


if __name__ == "__main__":
    main()
