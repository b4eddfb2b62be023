"""Files that show what resampling did: images, contact sheet, map of the change, recipe."""

from __future__ import annotations

import os

import numpy as np
import torch

from ssn_plugin.contact_sheet import draw_change_map, draw_contact_sheet
from ssn_plugin.files import save_png
from ssn_plugin.recipe import Recipe, write_recipe
from ssn_plugin.resample import Resampling


def path_stem(recipe: Recipe, outdir: str | os.PathLike) -> str:
    """What the paths of all files of a recipe start with.

    It says how many edits came before (`seed0003-edit1`), so that a chain of edits fits in one folder.
    """
    edits = f"-edit{len(recipe.edits)}" if recipe.edits else ""
    return os.path.join(outdir, f"seed{recipe.seed:04d}{edits}")


def save_resampling(result: Resampling, outdir: str | os.PathLike) -> str:
    """Write the images, the contact sheet, the change map and the recipe; returns what their paths start with."""
    recipe = result.recipe
    path = path_stem(recipe, outdir)
    original = to_uint8(result.original)
    variants = [to_uint8(variant.img) for variant in result.variants]
    save_png(original, f"{path}.png")
    for variant, image in zip(result.variants, variants, strict=True):
        save_png(image, f"{path}-{variant.name}.png")
    if variants:
        sheet = draw_contact_sheet(
            original, variants, result.region.numpy(),
            title=describe_edit(recipe), subtitle=describe_image(recipe, result.num_ws),
            labels=[variant.name for variant in result.variants],
            notes=[f"{variant.inside:.2g} / {variant.outside:.2g}" for variant in result.variants],
            footer="Red: what was redrawn. Small numbers: mean squared change inside / outside, images in -1..1.",
        )
        save_png(sheet, f"{path}-sheet.png")
        change_map = draw_change_map(
            original, mean_change(result).numpy(), result.region.numpy(),
            title=f"Change: {describe_edit(recipe)}", subtitle=describe_image(recipe, result.num_ws),
            footer="Mean of |variant - original| over variants and channels; 1 is the whole image range.",
        )
        save_png(change_map, f"{path}-change.png")
    write_recipe(recipe, f"{path}-recipe.json")
    return path


def mean_change(result: Resampling) -> torch.Tensor:
    """Mean absolute change over variants and channels of what can be seen; 1 is the whole image range. [H, W]"""
    before = result.original.clamp(-1, 1)
    return torch.stack([(v.img.clamp(-1, 1) - before).abs() for v in result.variants]).mean(dim=[0, 1]) / 2


def to_uint8(img: torch.Tensor) -> np.ndarray:
    """[C, H, W] in -1..1 -> uint8 [H, W, C], cut off rather than rounded, as the host's scripts do."""
    return (img.permute(1, 2, 0) * 127.5 + 128).clamp(0, 255).to(torch.uint8).numpy()


def describe_edit(recipe: Recipe) -> str:
    """What the variants have in common: `Block (1, 2) redrawn 8 times`."""
    edit, num = recipe.variants[0], len(recipe.variants)
    if edit.mask is not None:
        place = "Masked region"
    elif len(edit.blocks) <= 4:
        place = f"Block{'s' * (len(edit.blocks) > 1)} {', '.join(str(block) for block in edit.blocks)}"
    else:
        place = f"{len(edit.blocks)} blocks"
    if edit.transplant_from is not None:
        return f"{place} taken from seed {edit.transplant_from}"
    return f"{place} redrawn {num} times" if num > 1 else f"{place} redrawn"


def describe_image(recipe: Recipe, num_ws: int) -> str:
    """Which image it is, in small print."""
    name = recipe.network_name
    parts = [name if len(name) <= 60 else f"{name[:57]}...", f"seed {recipe.seed}"]
    if recipe.label is not None:
        parts.append(f"class {recipe.label}")
    if recipe.truncation != 1:
        parts.append(f"truncation {recipe.truncation:g}")
    if recipe.noise_mode != "const":
        parts.append(f"noise {recipe.noise_mode}")
    if recipe.edits:
        parts.append(f"after {len(recipe.edits)} earlier edit{'s' * (len(recipe.edits) > 1)}")
    first, last = recipe.variants[0].layers
    if last - first + 1 < num_ws:
        parts.append(f"layers {first}-{last} of 0-{num_ws - 1}")
    if recipe.variants[0].noise:
        parts.append("noise redrawn too")
    return " \u00b7 ".join(parts)
