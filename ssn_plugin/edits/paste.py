"""Give an edit back to the photograph that it was made for.

The photograph is larger and sharper than what a network makes, so it takes the change alone: new image minus old one,
enlarged and faded out around the place of the edit. Everything beyond stays bit by bit what it was.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image

from ssn_plugin.edits.recipe import MAX_FEATHER, Edit, Picture, Recipe
from ssn_plugin.edits.resample import region_weight
from ssn_plugin.errors import UserError


def paste_weight(G: torch.nn.Module, recipe: Recipe) -> torch.Tensor:
    """How far each pixel of the image belongs to one of the edits, fading out around them. [H, W] in 0..1

    Around edits without a feather the change fades out over a sixteenth of the image: at a border of blocks it would
    end abruptly.
    """
    if not recipe.edits:
        raise UserError("the recipe has no edit whose change could be given to a photograph")
    return torch.stack([region_weight(G, _with_feather(G, edit)) for edit in recipe.edits]).amax(dim=0)


def _with_feather(G: torch.nn.Module, edit: Edit) -> Edit:
    if edit.feather:
        return edit
    side = max(region_weight(G, edit).shape)
    # Blocks have a feather only where the rest is kept, which a photograph does.
    return dataclasses.replace(edit, feather=min(max(side // 16, 1), MAX_FEATHER), keep_exact=True)


def paste_change(
    photo: Image.Image,     # upright
    picture: Picture,       # what the recipe says of it
    before: torch.Tensor,   # [C, H, W] in -1..1
    after: torch.Tensor,    # [C, H, W]
    weight: torch.Tensor,   # [H, W] in 0..1
) -> Image.Image:
    """The photograph at its own size with the change added; where the enlarged weight is 0 it is bit-identical.

    Raises ValueError if the proportions are not those of the picture that the recipe was made for. Gray stays gray
    where the network is gray, transparency stays what it was.
    """
    left, top, right, bottom = box_in(photo, picture)
    channels = before.shape[0]
    photo = _with_channels(photo, channels)
    pixels = np.array(photo)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    size = (right - left, bottom - top)
    share = _resized(weight, size, Image.Resampling.BILINEAR)
    part = pixels[top:bottom, left:right]
    for channel in range(min(channels, 3)):
        change = _resized(after[channel].clamp(-1, 1) - before[channel].clamp(-1, 1), size, Image.Resampling.BICUBIC)
        changed = (part[:, :, channel] + 127.5 * change * share).round().clip(0, 255).astype(np.uint8)
        part[:, :, channel] = np.where(share > 0, changed, part[:, :, channel])
    result = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if "icc_profile" in photo.info:  # without it the colours would be others
        result.info["icc_profile"] = photo.info["icc_profile"]
    return result


def box_in(photo: Image.Image, picture: Picture) -> tuple[int, int, int, int]:
    """The part of the picture, in the pixels of a photograph that may be larger or smaller.

    ValueError if it has other proportions.
    """
    scale = photo.width / picture.width
    if abs(photo.height - picture.height * scale) > max(1, scale):
        raise UserError(f"the photograph is {photo.width}x{photo.height}, the recipe was made for {picture.name} of "
                        f"{picture.width}x{picture.height}: the proportions differ")
    left, top, right, bottom = (round(side * scale) for side in picture.box)
    return left, top, min(max(right, left + 1), photo.width), min(max(bottom, top + 1), photo.height)


def _with_channels(photo: Image.Image, channels: int) -> Image.Image:
    """8 bits per channel, gray or colour as the network has it, with transparency where the photograph has it."""
    alpha = photo.has_transparency_data
    mode = "RGBA" if alpha else "L" if channels == 1 and photo.mode in ("1", "L") else "RGB"
    return photo if photo.mode == mode else photo.convert(mode)


def _resized(values: torch.Tensor, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    """float32 [H, W] at another size."""
    return np.asarray(Image.fromarray(values.numpy().astype(np.float32)).resize(size, method))
