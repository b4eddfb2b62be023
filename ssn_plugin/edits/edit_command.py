"""What `generate.py` does around its redraws: finds the network of a recipe, names the blocks, fills photographs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from PIL import Image

from ssn_plugin.block_grid import finest_grid
from ssn_plugin.edits.contact_sheet import draw_block_grid
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.edits.paste import box_in, paste_change, paste_weight
from ssn_plugin.edits.recipe import Recipe
from ssn_plugin.edits.resample import Resampling, render_recipe, to_uint8
from ssn_plugin.edits.resample_report import stem_of
from ssn_plugin.errors import UserError
from ssn_plugin.files import save_png


def remembered_network(recipe: Recipe, path: str) -> str:
    """The network that a recipe names. ValueError where it does not, or where nothing is left of it."""
    network = recipe.network_path
    if network is None:
        raise UserError(f"{path} does not say where its network {recipe.network_name} is: name it with --network")
    if not network.startswith("demo:") and not os.path.isfile(network):
        raise UserError(f"the network {network} of {path} is not there: name it with --network")
    return network


def save_block_grid(network: OpenNetwork, recipe: Recipe, outdir: str) -> str:
    """Write a picture of the image with the names of its blocks; returns the path."""
    rows, cols = finest_grid(network.G.block_grid)
    image = to_uint8(render_recipe(network.G, recipe).img)
    others = [f"{r}x{c}" for r, c in network.G.block_grid[:-1]]
    footer = "Redraw one with --resample-block=1,2, several with --resample-block=1,2+1,3."
    if others:
        footer += f" What all share: --resample-block={others[0]}:0."
    page = draw_block_grid(image, (rows, cols), f"Blocks of the {rows}x{cols} grid", network.name, footer)
    os.makedirs(outdir, exist_ok=True)
    path = os.path.join(outdir, f"{stem_of(recipe)}-blocks.png")
    save_png(page, path)
    return path


def save_photographs(
    network: OpenNetwork, result: Resampling, photo: Image.Image, path: str
) -> Iterator[str]:
    """Write the photograph with the edits of the recipe, and with each variant; yields the paths.

    path: what the paths of the images start with.
    """
    recipe = result.recipe
    assert recipe.picture is not None
    before = render_recipe(network.G, dataclasses.replace(recipe, edits=(), variants=())).img
    images = [(f"{path}-photo.png", recipe.pick(0), result.original)] if recipe.edits else []
    images += [(f"{path}-{v.name}-photo.png", recipe.pick(v.number), v.img) for v in result.variants]
    for target, made, img in images:
        pasted = paste_change(photo, recipe.picture, before, img, paste_weight(network.G, made))
        save_png(pasted, target)
        yield target


def check_photograph(recipe: Recipe, photo: Image.Image, path: str) -> None:
    """ValueError unless the recipe says where its image lies in this photograph."""
    if recipe.picture is None:
        raise UserError(f"{path} was not made for a picture; projector.py makes such recipes")
    box_in(photo, recipe.picture)
