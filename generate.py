"""Generate images from a trained network, and redraw parts of them."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from training.cli import Command, network_option, trust_option
from training.images.image_commands import choose_film_format, class_option, device_option, progress_bar, usable_class

if TYPE_CHECKING:
    import torch

    from ssn_plugin.edits.recipe import Recipe
    from training.images.interpolation import Interpolation

PLACES = ("resample_block", "resample_mask")
SERIES = ("interpolate", "trunc_grid")
# Option -> options that contradict it or would have no effect beside it.
EXCLUDES = {
    "resample_block": ("resample_mask", "projected_w"),
    "resample_mask": ("projected_w",),
    "transplant_from": ("variants", "variant_seed", "resample_noise"),
    "recipe_file": ("seeds", "trunc", "class_idx", "noise_mode", "projected_w", *SERIES),
    "interpolate": ("trunc_grid", "projected_w", *PLACES),
    "trunc_grid": ("trunc", "projected_w", *PLACES),
}
# Option -> options of which it needs one.
NEEDS = {
    "variants": PLACES,
    "resample_layers": PLACES,
    "resample_noise": PLACES,
    "variant_seed": PLACES,
    "transplant_from": PLACES,
    "pick": ("recipe_file",),
    "space": ("interpolate",),
    "loop": ("interpolate",),
    "fps": ("interpolate",),
}
EPILOG = """\b
Examples:
  python generate.py --network=network-snapshot.pkl --seeds=0-15 --outdir=out
  python generate.py --network=network-snapshot.pkl --seeds=3 --resample-block=1,2 --outdir=out
"""


@click.command(cls=Command, epilog=EPILOG)
@network_option()
@click.option("--seeds", metavar="LIST", help="Image seeds, e.g. 1,5,9 or 0-7")
@click.option("--trunc", type=float, default=1, show_default=True, help="Truncation psi")
@class_option()
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True,
              help="Noise maps: those of the network, fresh ones, or none")
@click.option("--projected-w", metavar="FILE", help="Render the latents that projector.py saved, instead of seeds")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write the images")
@click.option("--interpolate", type=click.IntRange(1, 10**5), metavar="FRAMES",
              help="Instead of images make a film from seed to seed with so many frames each: MP4, or animated WebP "
                   "where there is no ffmpeg")
@click.option("--space", type=click.Choice(["w", "z"]), default="w", show_default=True,
              help="Move in a straight line through the styles, or on the sphere of the latents")
@click.option("--loop", is_flag=True, help="Return to the first seed at the end, for a film that is repeated")
@click.option("--fps", type=click.IntRange(1, 120), default=30, show_default=True, metavar="INT",
              help="Frames per second of the film")
@click.option("--trunc-grid", metavar="LIST",
              help="Instead of images make a sheet with a row per seed and a column per psi, e.g. 0,0.5,0.7,1")
@click.option("--resample-block", metavar="BLOCKS",
              help="Redraw these blocks of each image: ROW,COL or an index from the top left; several joined with '+' "
                   "(1,2+1,3 or 6+7); 'all'; or 'keep:1,2+1,3' for all but those. Blocks are those of the "
                   "finest grid; 1x1:0 is block 0 of grid 1x1")
@click.option("--resample-mask", metavar="PNG", help="Redraw where this picture of the image's size is white")
@click.option("--variants", type=click.IntRange(1, 999), default=8, show_default=True, metavar="INT",
              help="How many alternatives to draw")
@click.option("--resample-layers", metavar="LAYERS",
              help="Redraw only coarse, middle or fine layers, or A-B (coarse is 0-3, middle 4-7, fine 8 and up; "
                   "thirds in networks of 8 layers or fewer)")
@click.option("--resample-noise", is_flag=True, help="Redraw the noise maps at that place too")
@click.option("--variant-seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="INT",
              help="Skip so many variants, to see others: 8 gives v09, v10, ... They join those in --outdir")
@click.option("--transplant-from", type=click.IntRange(min=0), metavar="SEED",
              help="Take the latents from the image of this seed instead of drawing them")
@click.option("--recipe", "recipe_file", metavar="FILE", help="Make the images of this recipe again, or go on from it")
@click.option("--pick", type=click.IntRange(min=0), metavar="INT",
              help="Keep this variant of the recipe (0: the image before) and drop the others")
@device_option()
@trust_option()
@click.pass_context
def main(
    ctx: click.Context,
    network: str,
    seeds: str | None,
    trunc: float,
    class_idx: int | None,
    noise_mode: str,
    projected_w: str | None,
    outdir: str,
    interpolate: int | None,
    space: str,
    loop: bool,
    fps: int,
    trunc_grid: str | None,
    resample_block: str | None,
    resample_mask: str | None,
    variants: int,
    resample_layers: str | None,
    resample_noise: bool,
    variant_seed: int,
    transplant_from: int | None,
    recipe_file: str | None,
    pick: int | None,
    device: str | None,
    trust_pickle: bool,
) -> None:
    """Generate images from a trained network, and redraw parts of them.

    Writes seed0003.png for each seed; with --interpolate instead a film seed0003-seed0007.mp4 from the first seed to
    the last, with --trunc-grid a sheet seed0003-seed0007-trunc.png. With --resample-block or --resample-mask (networks
    trained with --cfg=ssn) also seed0003-v01.png and so on, a contact sheet, a map of the change, and
    seed0003-recipe.json. To keep variant 5 and redraw something else, go on from that file:
    --recipe=out/seed0003-recipe.json --pick=5 --resample-block=0,3. These files are called seed0003-edit1 and so on;
    where a name is taken by another edit of the same image, a number follows: seed0003-2.
    """
    check_options(ctx)
    # These import torch, which --help and wrong usage need not wait for.
    from torch_utils.devices import choose_device
    from training.images import generation, interpolation, truncation_grid

    # What can be refused without the network is refused before it is loaded, the rest before the first file.
    seed_list = [] if seeds is None else generation.parse_seeds(seeds)
    load = functools.partial(generation.load_generator, network, choose_device(device), trust_pickle)
    redraws = resample_block is not None or resample_mask is not None
    if projected_w is not None:
        w = generation.load_projected_w(projected_w)
        G = load()
        generation.check_projected_w(G, w, projected_w)
        noise = generation.load_projected_noise(G, projected_w)
        for path in generation.save_projected(G, w, noise, noise_mode, outdir):
            click.echo(path)
    elif interpolate is not None:
        way = interpolation.Interpolation(seed_list, interpolate, space, loop)
        click.echo(save_film(load, way, class_idx, trunc, noise_mode, fps, outdir))
    elif trunc_grid is not None:
        psis = truncation_grid.parse_psis(trunc_grid, len(seed_list))
        G = load()
        class_idx = usable_class(G, class_idx)
        click.echo(truncation_grid.save_truncation_grid(G, seed_list, psis, class_idx, noise_mode, outdir))
    elif not redraws and recipe_file is None:
        G = load()
        class_idx = usable_class(G, class_idx)
        for path in generation.save_seeds(G, seed_list, class_idx, trunc, noise_mode, outdir):
            click.echo(path)
    else:
        if not importlib.util.find_spec("ssn_plugin"):  # the host works without its plugin, apart from this
            raise click.UsageError("redrawing needs the package ssn_plugin beside this script")
        from ssn_plugin.edits import edit_options, resample

        recipes = [] if recipe_file is None else [open_recipe(recipe_file, pick, goes_on=redraws)]
        mask = None if resample_mask is None else edit_options.load_mask(resample_mask)
        request = edit_options.EditRequest(
            resample_block, mask, resample_layers, resample_noise, variants, variant_seed, transplant_from
        )
        G, name = load(), os.path.basename(network)
        if not recipes:
            class_idx = usable_class(G, class_idx)
            recipes = resample.start_recipes(G, name, seed_list, class_idx, trunc, noise_mode)
        if redraws:
            recipes = request.add_to(recipes, G, name)
        resample.check_recipe(recipes[0], G, name)  # the others differ in the seed alone
        paths = redraw(G, recipes, outdir)
        options = [f"--network={network}", f"--outdir={outdir}"]
        options += [f"--device={device}"] * (device is not None) + ["--trust-pickle"] * trust_pickle
        print_next_step(options, recipes[0], paths[0], G.block_grid[-1])


def check_options(ctx: click.Context) -> None:
    """Refuse combinations of options that contradict each other or have no effect."""
    flags = {param.name: param.opts[0] for param in ctx.command.params if param.name}
    given = [name for name in flags if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    for name in given:
        for other in EXCLUDES.get(name, ()):
            if other in given:
                raise click.UsageError(f"{flags[name]} cannot be combined with {flags[other]}")
        if name in NEEDS and not set(NEEDS[name]).intersection(given):
            raise click.UsageError(f"{flags[name]} needs {' or '.join(flags[other] for other in NEEDS[name])}")
    if not {"seeds", "projected_w", "recipe_file"}.intersection(given):
        raise click.UsageError("--seeds is required without --projected-w or --recipe")
    if {"seeds", "projected_w"}.issubset(given):
        click.echo("Warning: --seeds has no effect beside --projected-w", err=True)
    if not math.isfinite(ctx.params["trunc"]):
        raise click.UsageError(f"--trunc must be finite, got {ctx.params['trunc']}")


def save_film(
    load: Callable[[], torch.nn.Module],
    way: Interpolation,
    class_idx: int | None,
    trunc: float,
    noise_mode: str,
    fps: int,
    outdir: str,
) -> str:
    """Make the film of `--interpolate`; returns its path."""
    from training.images.interpolation import interpolation_frames, save_interpolation

    film_format = choose_film_format()
    G = load()
    frames = interpolation_frames(G, way, usable_class(G, class_idx), trunc, noise_mode)
    with progress_bar("Saving the film", way.num_frames) as bar:
        return save_interpolation(frames, way, fps, outdir, film_format, lambda: bar.update(1))


def open_recipe(path: str, pick: int | None, goes_on: bool) -> Recipe:
    """Read a recipe, reduced to the picked image. To go on from it, it must describe a single image."""
    from ssn_plugin.edits.recipe_files import read_recipe

    recipe = read_recipe(path)
    if pick is not None:
        return recipe.pick(pick)
    if goes_on and recipe.variants:
        raise click.UsageError(f"{path} holds {len(recipe.variants)} variants: name the one to go on from with --pick")
    return recipe


def redraw(G: torch.nn.Module, recipes: Sequence[Recipe], outdir: str) -> list[str]:
    """Make the images of the recipes; print the mean squared change (images in -1..1) of each variant.

    Returns what the paths of the files of each recipe start with.
    """
    from ssn_plugin.edits import resample, resample_report

    os.makedirs(outdir, exist_ok=True)
    paths = []
    for recipe in recipes:
        result = resample.resample(G, resample_report.with_earlier_variants(recipe, outdir))
        path = resample_report.save_resampling(result, outdir)
        paths.append(path)
        click.echo(f"{path}.png")
        for variant in result.variants:
            click.echo(f"{path}-{variant.name}.png  {variant.summary}")
        if result.variants:
            click.echo(f"Contact sheet: {path}-sheet.png")
    return paths


def print_next_step(options: Sequence[str], recipe: Recipe, path: str, block_grid: Sequence[int]) -> None:
    """Say how to go on with another block, as a command that can be pasted."""
    command = ["python", "generate.py", *options, f"--recipe={path}-recipe.json"]
    if recipe.variants:
        command.append(f"--pick={recipe.variants[0].number}")
    newest = recipe.variants or recipe.edits[-1:]
    redrawn = {block for edit in newest if edit.grid is None for block in edit.blocks}
    rows, cols = block_grid
    others = ((row, col) for row in range(rows) for col in range(cols) if (row, col) not in redrawn)
    row, col = next(others, (0, 0))  # any, where all were redrawn
    command.append(f"--resample-block={row},{col}")
    click.echo(f"To keep an image and go on: {shlex.join(command)}")


if __name__ == "__main__":
    main()
