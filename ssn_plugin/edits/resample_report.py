"""Files that show what resampling did: images, contact sheet, map of the change, recipe.

They are named by the image and the number of earlier edits, `seed0003-v01.png` and `seed0003-edit1-v01.png`, so that
a chain of edits fits in one folder. Further variants of an edit join those that the folder holds already. Another edit
of the same image is numbered, `seed0003-2-v01.png`: no call takes away what an earlier one has drawn.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import torch

from ssn_plugin.edits.contact_sheet import draw_change_map, draw_contact_sheet
from ssn_plugin.edits.recipe import Recipe
from ssn_plugin.edits.recipe_files import read_recipe, save_image, write_recipe
from ssn_plugin.edits.resample import Resampling, to_uint8
from ssn_plugin.files import save_png


def with_earlier_variants(recipe: Recipe, outdir: str | os.PathLike) -> Recipe:
    """The recipe with the variants of the same edit that the folder already holds, for one sheet of all of them."""
    if not recipe.variants:
        return recipe
    _path, joined = next(_places(recipe, outdir))
    return joined


def save_resampling(result: Resampling, outdir: str | os.PathLike) -> str:
    """Write the images, the contact sheet, the change map and the recipe; returns what their paths start with.

    A recipe that holds variants beyond those of the result stays as it is; so make the result of
    `with_earlier_variants`.
    """
    recipe = result.recipe
    path, joined = next(
        (path, joined) for path, joined in _places(recipe, outdir)
        if not recipe.variants or len(joined.variants) == len(recipe.variants)
    )
    original = to_uint8(result.original)
    variants = [variant.image for variant in result.variants]
    save_image(original, f"{path}.png", recipe.pick(0))
    for variant, image in zip(result.variants, variants, strict=True):
        save_image(image, f"{path}-{variant.name}.png", recipe.pick(variant.number))
    if variants:
        has_outside = not result.region.all()
        sheet = draw_contact_sheet(
            original, variants, result.region.numpy(),
            title=describe_edit(recipe), subtitle=describe_image(recipe, result.num_ws),
            labels=[variant.name for variant in result.variants],
            notes=[f"{v.inside:.2g} / {v.outside:.2g}" if has_outside else f"{v.inside:.2g}" for v in result.variants],
            footer="Red: what was redrawn. Small numbers: mean squared change"
                   f"{' inside / outside' if has_outside else ''}, images in -1..1.",
        )
        save_image(sheet, f"{path}-sheet.png", recipe)
        change_map = draw_change_map(
            original, mean_change(result).numpy(), result.region.numpy(),
            title=f"Change: {describe_edit(recipe)}", subtitle=describe_image(recipe, result.num_ws),
            footer="Mean of |variant - original| over variants and channels; 1 is the whole image range.",
        )
        save_png(change_map, f"{path}-change.png")
    write_recipe(joined, f"{path}-recipe.json")
    return path


def _places(recipe: Recipe, outdir: str | os.PathLike) -> Iterator[tuple[str, Recipe]]:
    """What the paths of the files may start with, best first, and the recipe joined with the one that lies there."""
    stem = os.path.join(outdir, f"seed{recipe.seed:04d}" + (f"-edit{len(recipe.edits)}" if recipe.edits else ""))
    for number in itertools.count(1):
        path = stem if number == 1 else f"{stem}-{number}"
        joined: Recipe | None = recipe
        if os.path.lexists(f"{path}-recipe.json"):
            try:
                joined = recipe.joined(read_recipe(f"{path}-recipe.json"))
            except (ValueError, OSError):  # not ours to overwrite
                continue
        if joined is not None:
            yield path, joined


def mean_change(result: Resampling) -> torch.Tensor:
    """Mean absolute change over variants and channels of what can be seen; 1 is the whole image range. [H, W]"""
    before = result.original.clamp(-1, 1)
    return torch.stack([(v.img.clamp(-1, 1) - before).abs() for v in result.variants]).mean(dim=[0, 1]) / 2


def describe_edit(recipe: Recipe) -> str:
    """What the variants have in common: `Block (1, 2) redrawn 8 times`."""
    edit, num = recipe.variants[0], len(recipe.variants)
    if edit.mask is not None:
        place = "Masked region"
    elif len(edit.blocks) <= 4:
        place = f"Block{'s' * (len(edit.blocks) > 1)} {', '.join(str(block) for block in edit.blocks)}"
    else:
        place = f"{len(edit.blocks)} blocks"
    if edit.grid == (1, 1):
        place = "Global code"
    elif edit.grid is not None:
        place += f" of the {edit.grid[0]}x{edit.grid[1]} grid"
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
