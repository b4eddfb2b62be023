"""What users ask for when they redraw a part of an image, read from the words and files they give.

`1,2+1,3`, `keep:0,0`, `coarse` and mask pictures get their meaning from a network; the result is a `Recipe`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ssn_plugin.block_grid import block_grid_of, check_block, finest_grid, image_size, locate_grid
from ssn_plugin.edits.recipe import Edit, Recipe, check_seed, encode_mask
from ssn_plugin.errors import UserError


def parse_blocks(text: str, grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Read a set of blocks; returns (row, col) of each, in reading order.

    `1,2` is a row and a column, `6` an index, `1,2+1,3` several of them, `all` every block, and `keep:1,2+1,3` every
    block but those.
    """
    rows, cols = grid
    every = {(r, c) for r in range(rows) for c in range(cols)}
    if text.strip() == "all":
        return tuple(sorted(every))
    if text.startswith("keep:"):
        blocks = every.difference(parse_blocks(text.removeprefix("keep:"), grid))
        if not blocks:
            raise UserError(f"{text!r} keeps all blocks of the {rows}x{cols} latent grid, so nothing would be redrawn")
        return tuple(sorted(blocks))
    blocks = set()
    for part in text.split("+"):
        match = re.fullmatch(r"\s*(-?\d{1,9})\s*(?:,\s*(-?\d{1,9})\s*)?", part)
        if not match:
            raise UserError(f"block {part.strip()!r} must be ROW,COL or an index or 'all'; join several with '+', "
                            "put another grid in front as in 1x1:0")
        first, second = match.groups()
        block = (int(first), int(second)) if second else divmod(int(first), cols)
        check_block(block, grid, part.strip() if not second else None)
        blocks.add(block)
    return tuple(sorted(blocks))


def parse_place(
    text: str, block_grid: Sequence[Sequence[int]]
) -> tuple[tuple[int, int] | None, tuple[tuple[int, int], ...]]:
    """Read blocks of one grid: `1x1:0` names the grid, `1,2` means the finest. Returns the grid, None for the finest,
    and (row, col) of each block.
    """
    match = re.fullmatch(r"\s*(\d{1,9})x(\d{1,9}):(.*)", text)
    named = (int(match[1]), int(match[2])) if match else None
    grid, _ = locate_grid(block_grid, named)
    return None if grid == finest_grid(block_grid) else grid, parse_blocks(match[3] if match else text, grid)


def parse_layers(text: str | None, num_ws: int) -> tuple[int, int]:
    """`coarse`, `middle`, `fine` or `A-B` or `A` -> first and last layer, inclusive; None is all layers.

    Networks of more than 8 layers are split as in StyleGAN (0-3, 4-7, 8 and up), smaller ones into thirds.
    """
    if text is None:
        return 0, num_ws - 1
    splits = (4, 8) if num_ws > 8 else (round(num_ws / 3), round(2 * num_ws / 3))
    named = {"coarse": (0, splits[0] - 1), "middle": (splits[0], splits[1] - 1), "fine": (splits[1], num_ws - 1)}
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text.strip())
    if text.strip() in named:
        first, last = named[text.strip()]
    elif match:
        first, last = int(match[1]), int(match[2] or match[1])
    else:
        raise UserError(f"layers must be coarse, middle, fine, A-B or A, got {text!r}")
    if not first <= last < num_ws:
        raise UserError(f"layers {text} are empty or outside the layers 0-{num_ws - 1} of this network")
    return first, last


@dataclasses.dataclass(frozen=True)
class Mask:
    """Where to redraw, pixel by pixel."""

    path: str            # for messages
    weights: np.ndarray  # uint8 [H, W]: 255 is redrawn, 0 kept, the rest mixed

    @property
    def painted(self) -> float:
        """The share of the image that is redrawn, 0 to 1."""
        return float((self.weights > 127).mean())

    def resized(self, height: int, width: int) -> Mask:
        """The mask at the size of the image. ValueError if its proportions differ by more than a pixel's rounding."""
        mask_height, mask_width = self.weights.shape
        if (mask_height, mask_width) == (height, width):
            return self
        if abs(mask_width - mask_height * width / height) > max(1, width / height):
            raise UserError(f"mask {self.path} is {mask_width}x{mask_height}, the image {width}x{height}: "
                            "the proportions differ")
        smaller = width < mask_width
        method = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
        return Mask(self.path, np.asarray(Image.fromarray(self.weights).resize((width, height), method)))


def load_mask(source: str | os.PathLike | IO[bytes], name: str | None = None) -> Mask:
    """Read a picture that says where to redraw.

    What is painted is redrawn, in whatever colour: opaque parts of a picture with transparency, or all that is not
    black in one without; gray mixes old and new. White on black and white on transparent mean the same.
    name: for messages, where the source is an open file.
    """
    path = name or str(source)
    try:
        with Image.open(source) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except OSError as err:
        if isinstance(err, UnidentifiedImageError):
            raise UserError(f"mask {path} is not a readable image") from err
        raise UserError(f"mask {path} cannot be read: {err.strerror or err}") from err
    except Exception as err:   # Pillow's decoders raise nearly anything on damaged data
        raise UserError(f"mask {path} is not a readable image") from err
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise UserError(f"mask {path} must be an image with 8 or 16 bits of gray or RGB, got mode {upright.mode}")
    weights = _painted(np.asarray(upright.convert("RGBA")).astype(np.uint16))
    if weights.max() < 128:
        raise UserError(f"mask {path} has no pixel brighter than mid gray, so nothing would be redrawn")
    return Mask(path, weights)


def _painted(rgba: np.ndarray) -> np.ndarray:
    """uint16 [H, W, 4] -> uint8 [H, W]"""
    alpha = rgba[:, :, 3]
    brightest = rgba[:, :, :3].max(axis=2)
    weights = (brightest * alpha + 127) // 255
    colourful = (brightest - rgba[:, :, :3].min(axis=2) > 32) & (alpha > 0)
    if colourful.any() and weights.max():  # no colour is half a redraw; only the rim of a stroke is
        weights = np.minimum(weights * 255 // weights.max(), 255)
    if weights.max() < 128 and alpha.min() < 128:  # black paint on nothing
        weights = alpha
    return weights.astype(np.uint8)


def join_masks(masks: Sequence[Mask]) -> Mask | None:
    """One mask that redraws whatever one of them redraws, at the size of the largest; None of none."""
    if not masks:
        return None
    largest = max(masks, key=lambda mask: mask.weights.size)
    resized = [mask.resized(*largest.weights.shape).weights for mask in masks]
    return Mask(", ".join(mask.path for mask in masks), np.maximum.reduce(resized))


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """What a user wants done next, before the network is known that gives blocks and layers their meaning."""

    blocks: str | None = None            # see `parse_place`
    mask: Mask | None = None             # instead of blocks
    layers: str | None = None            # see `parse_layers`
    noise: bool = False                  # redraw the noise maps at that place too?
    num_variants: int = 8                # random draws; a transplant is one
    skip: int = 0                        # draws to pass over: variants are numbered from skip + 1
    transplant_from: int | None = None   # take the latents of this image seed instead of drawing them
    feather: int = 0                     # pixels around the place over which old and new are mixed
    keep_exact: bool = False             # put the old pixels back beyond the feather?

    def __post_init__(self) -> None:
        check_seed("the last variant", self.skip + self.num_variants)
        check_seed("the seed to transplant from", self.transplant_from)

    def add_to(self, recipes: Sequence[Recipe], G: torch.nn.Module, name: str) -> list[Recipe]:
        """The recipes with the requested edits as variants. Raises ValueError for what this network has not."""
        edit = self.first_edit(G, name)
        variants = [edit]
        if self.transplant_from is None:
            variants = [dataclasses.replace(edit, variant=self.skip + 1 + i) for i in range(self.num_variants)]
        return [recipe.with_variants(tuple(variants)) for recipe in recipes]

    def first_edit(self, G: torch.nn.Module, name: str) -> Edit:
        """The first of the variants, or the transplant. Raises ValueError for what this network has not."""
        block_grid_of(G, name)
        mask = None if self.mask is None else self.mask.resized(*image_size(G))
        grid, blocks = (None, ()) if self.blocks is None else parse_place(self.blocks, G.block_grid)
        return Edit(
            blocks=blocks,
            grid=grid,
            mask=None if mask is None else encode_mask(mask.weights),
            feather=self.feather,
            keep_exact=self.keep_exact,
            layers=parse_layers(self.layers, G.num_ws),
            noise=self.noise,
            variant=self.skip + 1 if self.transplant_from is None else None,
            transplant_from=self.transplant_from,
        )
