"""Sheets of a network: samples, resamplings, and how a redrawn block differs from one pasted in.

    python benchmarks/pareto_sheets.py --network=network-snapshot-000200.pkl --outdir=sheets

Figures 6 to 8 of Hong et al. 2020 (arXiv:2006.05394). A StyleGAN2 gets the samples only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dnnlib.util import open_atomic
from ssn_plugin.block_grid import block_grid_of, first_block
from ssn_plugin.distortion import block_mask
from ssn_plugin.edits.resample import redraw_blocks, sample_z
from ssn_plugin.files import save_png
from ssn_plugin.measures.pairs import draw_noise, measure_pairs, run_network, synthesize_pairs
from torch_utils.devices import choose_device
from training.cli import Command, network_option
from training.images.generation import load_generator

GAP = 4                    # between tiles, pixels
CAPTION = 20               # height of the line above them
ACCENT = (230, 0, 92)      # outline of the redrawn block
LARGEST_CHANGE = 0.5       # mean absolute change that is drawn black, of images in -1..1

Box = tuple[int, int, int, int]   # left, top, right, bottom, in pixels


def to_pixels(img: torch.Tensor) -> np.ndarray:
    """[C, H, W] in -1..1 -> uint8 [H, W, 3]"""
    pixels = (img * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels


def change_map(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """Mean absolute change, white for none. [C, H, W] twice -> uint8 [H, W, 3]"""
    change = (after - before).abs().mean(dim=0).cpu().numpy()
    gray = (255 * (1 - change / LARGEST_CHANGE)).clip(0, 255).astype(np.uint8)
    return gray[:, :, None].repeat(3, axis=2)


def draw_sheet(
    rows: Sequence[Sequence[np.ndarray]],   # images [H, W, 3]
    scale: int,                             # enlarges them
    outlines: Sequence[Box] = (),           # one box for each row
    outlined: Sequence[int] = (),           # columns in which it is drawn
    captions: Sequence[str] = (),           # one for each column
) -> Image.Image:
    """A page of images in rows and columns."""
    side = rows[0][0].shape[0] * scale
    header = CAPTION * bool(captions)
    page = Image.new("RGB", (len(rows[0]) * (side + GAP) - GAP, header + len(rows) * (side + GAP) - GAP), "white")
    draw = ImageDraw.Draw(page)
    for col, caption in enumerate(captions):
        draw.text((col * (side + GAP), 2), caption, fill="black", font=ImageFont.load_default(size=12))
    for r, row in enumerate(rows):
        for col, pixels in enumerate(row):
            x, y = col * (side + GAP), header + r * (side + GAP)
            page.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (x, y))
            if col in outlined:
                left, top, right, bottom = (scale * edge for edge in outlines[r])
                draw.rectangle((x + left, y + top, x + right - 1, y + bottom - 1), outline=ACCENT, width=2)
    return page


def box_of(block: int, grid: tuple[int, int], side: int) -> Box:
    """The pixels of a block."""
    row, col = divmod(block, grid[1])
    rows, cols = grid
    return col * side // cols, row * side // rows, (col + 1) * side // cols, (row + 1) * side // rows


@torch.no_grad()
def sample_sheet(G: Any, device: torch.device, scale: int, columns: int = 12, lines: int = 6) -> Image.Image:
    """Images of the seeds 0, 1, ..., untruncated."""
    rows = []
    for line in range(lines):
        seeds = range(line * columns, (line + 1) * columns)
        z = torch.cat([sample_z(seed, G.z_dim) for seed in seeds])
        c = torch.zeros([columns, G.c_dim])
        if G.c_dim:
            c[torch.arange(columns), torch.tensor(seeds) % G.c_dim] = 1
        rows.append([to_pixels(img) for img in run_network(G, z, c, draw_noise(G, seeds, 0, device), device)])
    return draw_sheet(rows, scale)


def resampling_sheet(G: Any, device: torch.device, scale: int, num_images: int = 8, variants: int = 5) -> Image.Image:
    """A row per image: the original with a block outlined, variants of the block, and the change of the last."""
    grid = block_grid_of(G, "the network")
    rows, outlines = [], []
    for number in range(num_images):
        block = spread_block(number, grid)
        before, after = redraws(G, number, block, variants, device)
        rows.append([to_pixels(before), *(to_pixels(img) for img in after), change_map(before, after[-1])])
        outlines.append(box_of(block, grid, G.img_resolution))
    captions = ["original", *(f"redraw {i}" for i in range(1, variants + 1)), "change of the last"]
    return draw_sheet(rows, scale, outlines, outlined=(0, variants + 1), captions=captions)


def spread_block(number: int, grid: tuple[int, int]) -> int:
    """Another block for every image of a sheet, diagonal by diagonal, so that all rows and columns are seen."""
    rows, cols = grid
    return number % rows * cols + (number + number // rows + cols // 2) % cols


@torch.no_grad()
def redraws(
    G: Any, number: int, block: int, variants: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:   # [C, H, W], [variants, C, H, W]
    """Image `number` and some redraws of one block of it, with the image's noise maps."""
    index = first_block(G.block_grid) + block
    z = sample_z(number, G.z_dim)
    redrawn = [redraw_blocks(z, [index], G.block_z_dim, number, 0, variant) for variant in range(1, variants + 1)]
    c = torch.zeros([1 + variants, G.c_dim])
    if G.c_dim:
        c[:, number % G.c_dim] = 1
    noise = draw_noise(G, [number], 0, device)
    if noise is not None:
        noise = [maps.repeat(1 + variants, 1, 1, 1) for maps in noise]
    images = run_network(G, torch.cat([z, *redrawn]), c, noise, device)
    return images[0], images[1:]


def inpainting_sheet(G: Any, device: torch.device, scale: int, num_images: int = 6) -> Image.Image:
    """A row per image: the original, the redrawn one, the new block pasted into the original, and what differs.

    The difference is what a redraw does beyond inpainting: it changes the surroundings so that the block fits in.
    """
    grid, side = block_grid_of(G, "the network"), G.img_resolution
    rows, outlines = [], []
    for number in range(num_images):
        block = spread_block(number, grid)
        before, after = (images[0] for images in synthesize_pairs(G, [number], torch.tensor([block]), 0, device))
        pasted = paste(before[None], after[None], torch.tensor([block], device=device), grid)[0]
        rows.append([*map(to_pixels, (before, after, pasted)), change_map(pasted, after)])
        outlines.append(box_of(block, grid, side))
    captions = ["original", "redrawn", "hard paste", "difference of both"]
    return draw_sheet(rows, scale, outlines, outlined=(0, 3), captions=captions)


def paste(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The redrawn block in the image before. [N, C, H, W] twice, [N] -> [N, C, H, W]"""
    return torch.where(block_mask(blocks, grid, *before.shape[2:])[:, None], after, before)


def border_step(img: torch.Tensor, resampled: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the neighbours on both sides of the border of a region.

    img: [N, C, H, W].  resampled: [N, H, W] bool, True in the region.  Returns [N]; 0 where there is no border.
    """
    total, count = img.new_zeros([len(img)]), img.new_zeros([len(img)])
    for dim in (1, 2):
        n = img.shape[dim + 1] - 1
        step = img.narrow(dim + 1, 1, n) - img.narrow(dim + 1, 0, n)
        crosses = resampled.narrow(dim, 1, n) != resampled.narrow(dim, 0, n)
        total += (step.square().mean(dim=1) * crosses).sum(dim=[1, 2])
        count += crosses.sum(dim=[1, 2])
    return total / count.clamp(min=1)


def measure_border_steps(G: Any, num_pairs: int, device: torch.device) -> dict[str, float]:
    """How visible the border of a redrawn block is, against before and against a hard paste."""
    grid = block_grid_of(G, "the network")

    def measure(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        resampled = block_mask(blocks, grid, *before.shape[2:])
        images = (before, after, paste(before, after, blocks, grid))
        return torch.stack([border_step(img, resampled) for img in images], dim=1)

    means = measure_pairs(G, num_pairs, measure, device=device).mean(axis=0, dtype=np.float64)
    return dict(zip(("original", "redrawn", "pasted"), means.tolist(), strict=True))


@click.command(cls=Command)
@network_option()
@click.option("--outdir", required=True, type=click.Path(file_okay=False, path_type=Path), help="For the PNG files")
@click.option("--pairs", type=click.IntRange(min=1), default=1000, show_default=True, help="To measure borders with")
def main(network: str, outdir: Path, pairs: int) -> None:
    """Draw samples, resamplings and the difference to inpainting."""
    device = choose_device()
    G = load_generator(network, device)
    scale = max(128 // G.img_resolution, 1)
    outdir.mkdir(parents=True, exist_ok=True)
    sheets = {"samples.png": sample_sheet(G, device, max(scale // 2, 1))}
    facts: dict[str, Any] = {}
    if hasattr(G, "block_grid"):
        sheets["resamplings.png"] = resampling_sheet(G, device, scale)
        sheets["inpainting.png"] = inpainting_sheet(G, device, scale)
        facts = dict(border_step=measure_border_steps(G, pairs, device), num_pairs=pairs)
    for name, sheet in sheets.items():
        save_png(sheet, outdir / name)
    with open_atomic(outdir / "sheets.json", "w") as file:  # last: it says that the others are there
        json.dump(dict(network=Path(network).name, files=list(sheets), **facts), file, indent=2)
    click.echo(f"{', '.join(sheets)} in {outdir}")


if __name__ == "__main__":
    main()
