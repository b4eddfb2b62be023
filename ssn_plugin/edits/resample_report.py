"""Files that show what resampling did: images, contact sheet, map of the change, recipe.

They are named by the image and the number of earlier edits, `seed0003-v01.png` and `seed0003-edit1-v01.png`
(`proj-v01.png` for an image that was found for a picture), so that a chain of edits fits in one folder. Further
variants of an edit join those that the folder holds already. Another edit of the same image is numbered,
`seed0003-2-v01.png`: no call takes away what an earlier one has drawn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from ssn_plugin.block_grid import finest_grid
from ssn_plugin.edits.contact_sheet import draw_change_map, draw_contact_sheet
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.edits.recipe import Recipe
from ssn_plugin.edits.recipe_files import read_recipe, recipe_text, save_image, write_recipe
from ssn_plugin.edits.resample import Resampling, resample, to_uint8
from ssn_plugin.files import create_file, open_atomic, save_png
from ssn_plugin.page import scale_up


@dataclasses.dataclass(frozen=True)
class Look:
    """How the images are written."""

    scale: int = 1         # enlargement of the images
    smooth: bool = False   # by Lanczos' filter, instead of pixels as squares
    sheet: str = "png"     # or pdf

    def save(self, image: np.ndarray, path: str, recipe: Recipe) -> None:
        save_image(scale_up(image, self.scale, self.smooth), path, recipe)


def redraw(
    network: OpenNetwork, recipe: Recipe, outdir: str | os.PathLike, look: Look = Look()
) -> tuple[str, Resampling]:
    """Make and write the images of a recipe, with those variants of the same edit that the folder already holds.

    Returns what the paths of the files start with, and what was made.
    """
    with claimed(recipe, outdir) as (path, whole):
        result = resample(network.G, whole if recipe.variants else recipe)
        save_resampling(result, path, look, finest_grid(network.G.block_grid))
        # Another process may have added variants in the meantime.
        write_recipe(_joined_with_file(whole, path) or whole, f"{path}-recipe.json")
    return path, result


def summary_lines(path: str, result: Resampling, sheet: str = "png") -> list[str]:
    """What a command prints of the files: a line each, with the mean squared change (images in -1..1) of variants."""
    lines = [f"{path}.png", *(f"{path}-{variant.name}.png  {variant.summary}" for variant in result.variants)]
    leaking = [variant.name for variant in result.variants if variant.outside > variant.inside]
    if leaking:
        lines.append(f"Warning: {', '.join(leaking)} changed more outside than inside; --keep-exact keeps the outside")
    return lines + [f"Contact sheet: {path}-sheet.{sheet}"] if result.variants else lines


@contextlib.contextmanager
def claimed(recipe: Recipe, outdir: str | os.PathLike) -> Iterator[tuple[str, Recipe]]:
    """The first name that is free or holds the same edit, and the recipe joined with the one that lies there.

    A free name is taken at once, by writing the recipe: another process that edits the same image takes the next. If
    the block fails, the name is given back.
    """
    stem = os.path.join(outdir, stem_of(recipe) + (f"-edit{len(recipe.edits)}" if recipe.edits else ""))
    os.makedirs(outdir, exist_ok=True)
    whole, paths = None, itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    while whole is None:
        path = next(paths)
        is_new = create_file(f"{path}-recipe.json", recipe_text(recipe, outdir))
        whole = recipe if is_new else _joined_with_file(recipe, path)
    try:
        yield path, whole
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                os.unlink(f"{path}-recipe.json")
        raise


def _joined_with_file(recipe: Recipe, path: str) -> Recipe | None:
    """The recipe with the variants of the one that lies there; None if that is another edit, or no recipe at all."""
    try:
        return recipe.joined(read_recipe(f"{path}-recipe.json"))
    except (ValueError, OSError):  # not ours to overwrite
        return None


def stem_of(recipe: Recipe) -> str:
    """What the files of an image are called: `seed0003`, or `proj` where it was found for a picture."""
    return f"seed{recipe.seed:04d}" if recipe.found is None else "proj"


def save_resampling(
    result: Resampling, path: str, look: Look = Look(), block_grid: tuple[int, int] | None = None
) -> None:
    """Write the images, the contact sheet and the change map; `path` is what their paths start with.

    block_grid: rows and columns, for numbers along the original on the sheet.
    """
    recipe = result.recipe
    original = to_uint8(result.original)
    look.save(original, f"{path}.png", recipe.pick(0))
    for variant in result.variants:
        look.save(variant.image, f"{path}-{variant.name}.png", recipe.pick(variant.number))
    if result.variants:
        _save_sheet(draw_sheet(result, block_grid), f"{path}-sheet.{look.sheet}", recipe)
        change_map = draw_change_map(
            original, mean_change(result).numpy(), result.region.numpy(),
            title=f"Change: {describe_edit(recipe)}", subtitle=describe_image(recipe, result.num_ws),
            footer="Mean of |variant - original| over variants and channels; 1 is the whole image range.",
        )
        save_png(change_map, f"{path}-change.png")


def draw_sheet(result: Resampling, block_grid: tuple[int, int] | None = None) -> Image.Image:
    """The contact sheet: the image with the place outlined, beside it the variants, of which there must be some.

    block_grid: rows and columns, for numbers along the image.
    """
    has_outside = not result.region.all()
    return draw_contact_sheet(
        to_uint8(result.original), [variant.image for variant in result.variants], result.region.numpy(),
        title=describe_edit(result.recipe), subtitle=describe_image(result.recipe, result.num_ws),
        labels=[variant.name for variant in result.variants],
        notes=[f"{v.inside:.2g} / {v.outside:.2g}" if has_outside else f"{v.inside:.2g}" for v in result.variants],
        footer="Red: what was redrawn. Small numbers: mean squared change"
               f"{' inside / outside' if has_outside else ''}, images in -1..1.",
        block_grid=block_grid,
    )


def _save_sheet(sheet: Image.Image, path: str, recipe: Recipe) -> None:
    if path.endswith(".png"):
        save_image(sheet, path, recipe)
        return
    with open_atomic(path) as file:
        sheet.save(file, format="PDF", resolution=144, quality=95)


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
    if edit.from_start:
        return f"{place} brought back"
    if edit.transplant_from is not None:
        return f"{place} taken from seed {edit.transplant_from}"
    return f"{place} redrawn {num} times" if num > 1 else f"{place} redrawn"


def describe_image(recipe: Recipe, num_ws: int) -> str:
    """Which image it is, in small print."""
    name = recipe.network_name
    start = f"seed {recipe.seed}"
    if recipe.found is not None:
        start = f"found for {recipe.picture.name}" if recipe.picture else "found styles"
    parts = [name if len(name) <= 60 else f"{name[:57]}...", start]
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
