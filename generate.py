"""Generate images from a trained network, and redraw parts of them."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from training.cli import Command, network_option, trust_option, words_to_call
from training.images.image_commands import (
    choose_film_format,
    class_option,
    device_option,
    parse_label,
    progress_bar,
    trunc_option,
    usable_classes,
)

if TYPE_CHECKING:
    import torch

    from ssn_plugin.edits.recipe import Recipe

PLACES = ("resample_block", "resample_masks")
SERIES = ("interpolate", "trunc_grid")
# Option -> options that contradict it or would have no effect beside it.
EXCLUDES = {
    "resample_block": ("resample_masks", "projected_w"),
    "resample_masks": ("projected_w",),
    "undo": ("drop",),
    "label": ("class_text", "projected_w", "recipe_file", *PLACES),
    "transplant_from": ("variants", "variant_seed", "resample_noise"),
    "recipe_file": ("seeds", "trunc", "class_text", "noise_mode", "projected_w", *SERIES),
    "interpolate": ("trunc_grid", "projected_w", "scale", *PLACES),
    "trunc_grid": ("trunc", "projected_w", "scale", *PLACES),
    "scale": ("projected_w",),
    "half": ("recipe_file", *PLACES),  # a recipe gives the same pixels again
}
# Option -> options of which it needs one.
NEEDS = {
    "variants": PLACES,
    "resample_layers": PLACES,
    "resample_noise": PLACES,
    "variant_seed": PLACES,
    "transplant_from": PLACES,
    "feather": PLACES,
    "keep_exact": PLACES,
    "sheet": PLACES,
    "pick": ("recipe_file",),
    "undo": ("recipe_file",),
    "drop": ("recipe_file",),
    "paste_into": ("recipe_file",),
    "scale_filter": ("scale",),
    "space": ("interpolate",),
    "loop": ("interpolate",),
    "fps": ("interpolate",),
}
EPILOG = """\b
Examples:
  python generate.py --network=network-snapshot.pkl --seeds=0-15 --outdir=out
  python generate.py --network=network-snapshot.pkl --seeds=3 --resample-block=1,2 --outdir=out
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command, as their help explains them."""

    network: str  # empty, like outdir, where the recipe shall say it
    outdir: str
    seeds: str | None
    trunc: float
    class_text: str | None
    label: str | None
    noise_mode: str
    projected_w: str | None
    interpolate: int | None
    space: str
    loop: bool
    fps: int
    trunc_grid: str | None
    resample_block: str | None
    resample_masks: tuple[str, ...]
    variants: int
    resample_layers: str | None
    resample_noise: bool
    variant_seed: int
    transplant_from: int | None
    feather: int
    keep_exact: bool
    recipe_file: str | None
    pick: int | None
    undo: bool
    drop: int | None
    paste_into: str | None
    scale: int
    scale_filter: str
    sheet: str
    device: str | None
    half: bool
    trust_pickle: bool

    @property
    def redraws(self) -> bool:
        """Is something new drawn?"""
        return self.resample_block not in (None, "help") or bool(self.resample_masks)

    @property
    def is_smooth(self) -> bool:
        return self.scale_filter == "lanczos"

    def labels_for(self, G: torch.nn.Module) -> list[tuple[str, int | tuple[float, ...] | None]]:
        """What to generate: the end of the file names, and a class, or a label vector, or None for neither."""
        assert self.network is not None  # by check_options
        if self.label is not None:
            return [("", parse_label(self.label, G.c_dim))]
        classes = usable_classes(G, self.class_text, self.network, self.trust_pickle)
        if classes is None or len(classes) == 1:
            return [("", None if classes is None else classes[0])]
        return [(f"-class{number:02d}", number) for number in classes]

    def label_for(self, G: torch.nn.Module) -> int | tuple[float, ...] | None:
        """The same where only one class can be generated."""
        (_, label), *others = self.labels_for(G)
        if others:
            raise click.UsageError(f"--class must be one class here, got {self.class_text}")
        return label

    def load(self) -> torch.nn.Module:
        """The network's averaged generator, on the device."""
        from torch_utils import half
        from torch_utils.devices import choose_device
        from training.images.generation import load_generator

        device = choose_device(self.device)
        obstacle = half.use_bf16(self.half and device.type == "cpu", device)
        if obstacle is not None:
            click.echo(obstacle, err=True)
        return load_generator(self.network, device, self.trust_pickle, in_half=self.half and obstacle is None)


@click.command(cls=Command, epilog=EPILOG)
@network_option(required=False)
@click.option("--seeds", metavar="LIST", help="Image seeds, e.g. 1,5,9 or 0-7")
@trunc_option()
@class_option("; several as 0,2,5-7 or 'all'")
@click.option("--label", metavar="VECTOR", help="Label of a network that was trained on vectors, as 0,0.5,1")
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True,
              help="Noise maps: those of the network, fresh ones, or none")
@click.option("--projected-w", metavar="FILE", help="Render the latents that projector.py saved, instead of seeds")
@click.option("--outdir", metavar="DIR", help="Where to write the images  [default: the folder of the recipe]")
@click.option("--interpolate", type=click.IntRange(1, 10**5), metavar="FRAMES",
              help="Instead of images make a film from seed to seed with this many frames for each step: MP4, or "
                   "animated WebP where there is no ffmpeg")
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
                   "finest grid; 1x1:0 is block 0 of grid 1x1. 'help' writes a picture of the blocks")
@click.option("--resample-mask", "resample_masks", multiple=True, metavar="PNG",
              help="Redraw what is painted in this picture, which has the proportions of the image: any colour on "
                   "transparent or black. May be given several times")
@click.option("--feather", type=click.IntRange(0, 512), default=0, show_default=True, metavar="PIXELS",
              help="Mix old and new over this many pixels around the place")
@click.option("--keep-exact", is_flag=True, help="Leave every pixel beyond the place and its feather exactly as it was")
@click.option("--variants", type=click.IntRange(1, 999), default=8, show_default=True, metavar="INT",
              help="How many alternatives to draw")
@click.option("--resample-layers", metavar="LAYERS",
              help="Redraw only coarse, middle or fine layers, or A-B (coarse is 0-3, middle 4-7, fine 8 and up; "
                   "thirds in networks of 8 layers or fewer)")
@click.option("--resample-noise", is_flag=True, help="Redraw the noise maps at that place too")
@click.option("--variant-seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="INT",
              help="Skip this many variants, to see others: 8 gives v09, v10, ... They join those in --outdir")
@click.option("--transplant-from", type=click.IntRange(min=0), metavar="SEED",
              help="Take the latents from the image of this seed instead of drawing them")
@click.option("--recipe", "recipe_file", metavar="FILE",
              help="Make the images of this recipe again, or go on from it: a JSON file, or a PNG made from one")
@click.option("--pick", type=click.IntRange(min=0), metavar="INT",
              help="Keep this variant of the recipe (0: the image before) and drop the others")
@click.option("--undo", is_flag=True, help="Take back the last edit of the recipe")
@click.option("--drop", type=click.IntRange(min=1), metavar="INT",
              help="Take out this edit of the recipe, counted from 1; the others stay what they are")
@click.option("--paste-into", metavar="PHOTO",
              help="Add what the edits changed to the photograph that the recipe was made for, at its full size")
@click.option("--scale", type=click.IntRange(1, 64), default=1, show_default=True, metavar="INT",
              help="Write the images this many times as large")
@click.option("--scale-filter", type=click.Choice(["nearest", "lanczos"]), default="nearest", show_default=True,
              help="Enlarge to squares, or smoothly")
@click.option("--sheet", type=click.Choice(["png", "pdf"]), default="png", show_default=True,
              help="Format of the contact sheet")
@device_option()
@click.option("--half", is_flag=True,
              help="Compute the highest four resolutions in half precision: float16 on a GPU, bfloat16 on a CPU with "
                   "AMX or AVX512-BF16. The pixels differ a little")
@trust_option()
@click.pass_context
def main(ctx: click.Context, **options: Any) -> None:
    """Generate images from a trained network, and redraw parts of them.

    Writes seed0003.png for each seed (seed0003-class02.png where there are several classes); with --interpolate
    instead a film seed0003-seed0007.mp4 from the first seed to the last, with --trunc-grid a sheet
    seed0003-seed0007-trunc.png. With --resample-block or --resample-mask (networks trained with --cfg=ssn) also
    seed0003-v01.png and so on, a contact sheet, a map of the change, and seed0003-recipe.json. To keep variant 5
    and redraw something else, go on from that file: --recipe=out/seed0003-recipe.json --pick=5
    --resample-block=0,3. The recipe knows its network. These files are called seed0003-edit1 and so on; where a
    name is taken by another edit of the same image, a number follows: seed0003-2.
    """
    check_options(ctx)
    o = Options(**options | {name: options[name] or "" for name in ("network", "outdir")})
    if o.projected_w is not None:
        lines = render_projected(o)
    elif o.interpolate is not None:
        lines = render_film(o)
    elif o.trunc_grid is not None:
        lines = render_truncation_grid(o)
    elif not o.redraws and o.resample_block is None and o.recipe_file is None:
        lines = render_seeds(o)
    else:
        lines = redraw(o)
    for line in lines:
        click.echo(line)


# What can be refused without the network is refused before it is loaded, the rest before the first file. The functions
# import on their own what needs torch: --help and wrong usage need not wait for it.


def render_seeds(o: Options) -> Iterator[str]:
    """An image for each seed; yields the paths as they are done."""
    from training.images import generation
    from training.images.pictures import scale_up

    seeds = generation.parse_seeds(o.seeds or "")
    G = o.load()
    finish = functools.partial(scale_up, factor=o.scale, smooth=o.is_smooth)
    assert o.network is not None and o.outdir is not None
    for suffix, label in o.labels_for(G):
        text_of = None if isinstance(label, tuple) else recipe_texts(G, o, label)
        yield from generation.save_seeds(
            G, seeds, label, o.trunc, o.noise_mode, o.outdir, finish, text_of, suffix)


def recipe_texts(G: torch.nn.Module, o: Options, class_idx: int | None) -> Callable[[int], dict[str, str]] | None:
    """What the image of a seed carries in its file: how to make it again. None where it could not be edited."""
    if o.half or not (hasattr(G, "block_grid") and importlib.util.find_spec("ssn_plugin")):
        return None
    from ssn_plugin.edits.recipe_files import png_text
    from ssn_plugin.edits.resample import start_recipes

    name = os.path.basename(o.network)
    first, = start_recipes(G, name, [0], class_idx, o.trunc, o.noise_mode)
    return lambda seed: png_text(dataclasses.replace(first, seed=seed, network_path=o.network))


def render_projected(o: Options) -> Iterator[str]:
    """The images of `--projected-w`."""
    from training.images import generation

    assert o.projected_w is not None
    w = generation.load_projected_w(o.projected_w)
    G = o.load()
    generation.check_projected_w(G, w, o.projected_w)
    noise = generation.load_projected_noise(G, o.projected_w)
    yield from generation.save_projected(G, w, noise, o.noise_mode, o.outdir)


def render_film(o: Options) -> Iterator[str]:
    """The film of `--interpolate`."""
    from training.images import generation, interpolation

    assert o.interpolate is not None
    path = interpolation.Interpolation(generation.parse_seeds(o.seeds or ""), o.interpolate, o.space, o.loop)
    film_format = choose_film_format()
    G = o.load()
    frames = interpolation.interpolation_frames(G, path, o.label_for(G), o.trunc, o.noise_mode)
    with progress_bar("Saving the film", path.num_frames) as bar:
        saved = interpolation.save_interpolation(frames, path, o.fps, o.outdir, film_format, bar.step)
    yield saved


def render_truncation_grid(o: Options) -> Iterator[str]:
    """The sheet of `--trunc-grid`."""
    from training.images import generation, truncation_grid

    seeds = generation.parse_seeds(o.seeds or "")
    psis = truncation_grid.parse_psis(o.trunc_grid or "", len(seeds))
    G = o.load()
    class_idx = o.label_for(G)
    yield truncation_grid.save_truncation_grid(G, seeds, psis, class_idx, o.noise_mode, o.outdir)


def redraw(o: Options) -> Iterator[str]:
    """Images of recipes, new or read, and their variants; at the end a command that goes on from there."""
    if not importlib.util.find_spec("ssn_plugin"):  # the host works without its plugin, apart from this
        raise click.UsageError("redrawing needs the package ssn_plugin beside this script")
    from ssn_plugin.edits import edit_command, edit_options, recipe_files, resample, resample_report
    from ssn_plugin.edits.open_network import OpenNetwork
    from training.images import generation, projection_files

    seeds = [] if o.seeds is None else generation.parse_seeds(o.seeds)
    recipes = []
    if o.recipe_file is not None:
        recipes = [recipe_files.open_recipe(o.recipe_file, o.pick, o.redraws, o.undo, o.drop)]
        o = dataclasses.replace(
            o, network=o.network or edit_command.remembered_network(recipes[0], o.recipe_file),
            outdir=o.outdir or os.path.dirname(o.recipe_file) or ".")
    masks = [edit_options.load_mask(path) for path in o.resample_masks]
    request = edit_options.EditRequest(
        o.resample_block, edit_options.join_masks(masks), o.resample_layers, o.resample_noise, o.variants,
        o.variant_seed, o.transplant_from, o.feather, o.keep_exact)
    photo = None if o.paste_into is None else projection_files.open_photograph(o.paste_into)
    if photo is not None:
        edit_command.check_photograph(recipes[0], photo, o.recipe_file or "")

    network = OpenNetwork.load(o.network, o.device, o.trust_pickle)
    if recipes:
        network = network.tuned_for(recipes[0])
    else:
        class_idx = o.label_for(network.G)
        assert not isinstance(class_idx, tuple)  # by EXCLUDES
        recipes = resample.start_recipes(
            network.G, network.name, seeds, class_idx, o.trunc, o.noise_mode, network.sha256)
    recipes = [dataclasses.replace(recipe, network_path=o.network) for recipe in recipes]
    if o.redraws:
        recipes = request.add_to(recipes, network.G, network.name)
    network.check(recipes[0])  # the others differ in the seed alone
    yield from (f"{mask.path}: {mask.painted:.1%} of the image is painted, which is redrawn" for mask in masks)
    if o.resample_block == "help":
        yield from (edit_command.save_block_grid(network, recipe, o.outdir) for recipe in recipes)
        return
    paths = []
    for recipe in recipes:
        look = resample_report.Look(o.scale, o.is_smooth, o.sheet)
        path, result = resample_report.redraw(network, recipe, o.outdir, look)
        paths.append(path)
        yield from resample_report.summary_lines(path, result, o.sheet)
        if photo is not None:
            yield from edit_command.save_photographs(network, result, photo, path)
    yield next_step(o, recipes[0], paths[0], network.G.block_grid[-1])


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
    for name in ("network", "outdir"):  # a recipe knows both
        if name not in given and "recipe_file" not in given:
            raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == name))
    if not {"seeds", "projected_w", "recipe_file"}.intersection(given):
        raise click.UsageError("--seeds is required without --projected-w or --recipe")
    if {"seeds", "projected_w"}.issubset(given):
        click.echo("Warning: --seeds has no effect beside --projected-w", err=True)


def next_step(o: Options, recipe: Recipe, path: str, block_grid: Sequence[int]) -> str:
    """How to go on with another block, as a command that can be pasted."""
    command = [*words_to_call("generate"), f"--network={o.network}", f"--outdir={o.outdir}"]
    command += [f"--device={o.device}"] * (o.device is not None) + ["--trust-pickle"] * o.trust_pickle
    command.append(f"--recipe={path}-recipe.json")
    if recipe.variants:
        command.append(f"--pick={recipe.variants[0].number}")
    newest = recipe.variants or recipe.edits[-1:]
    redrawn = {block for edit in newest if edit.grid is None for block in edit.blocks}
    rows, cols = block_grid
    others = ((row, col) for row in range(rows) for col in range(cols) if (row, col) not in redrawn)
    row, col = next(others, (0, 0))  # any, where all were redrawn
    command.append(f"--resample-block={row},{col}")
    return f"To keep an image and go on: {shlex.join(command)}"


if __name__ == "__main__":
    main()
