"""Project an image into the latent space of a network: find the latents with which it makes that image."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
import types
from typing import TYPE_CHECKING, Any

import click

from training.cli import Command, network_option, trust_option, words_to_call
from training.images.image_commands import choose_film_format, class_option, device_option, progress_bar, usable_class

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ssn_plugin.edits.recipe import Picture
    from training.images.distances import Distance
    from training.images.projection import Projection
    from training.images.video import FilmFormat

EPILOG = """\b
Examples:
  python projector.py --network=network-snapshot.pkl --target=photo.png --outdir=out
  python projector.py --network=network-snapshot.pkl --target=photo.png --loss=mse --save-video=false --outdir=out
"""


@click.command(cls=Command, epilog=EPILOG)
@network_option()
@click.option("--target", required=True, metavar="FILE", help="Picture to project; its middle is cropped and resized")
@click.option("--crop", metavar="L,T,R,B", help="Look at this part of the picture: left, top, right, bottom in pixels")
@click.option("--center", metavar="X,Y[,WIDTH]",
              help="Look at the part around this point: of that width, or as wide as possible")
@click.option("--num-steps", type=click.IntRange(1, 10**5), default=1000, show_default=True, metavar="INT",
              help="Steps of the search")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=303, show_default=True, metavar="INT",
              help="Of everything random; the same seed gives the same result")
@click.option("--save-video", type=bool, default=True, show_default=True, metavar="BOOL",
              help="Save a film of the search: MP4, or animated WebP where there is no ffmpeg")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write the files")
@click.option("--loss", type=click.Choice(["auto", "lpips", "edges", "mse"]), default="auto", show_default=True,
              help="Compare images as VGG16 sees them, by pixels and edges, or by pixels; only the first needs a "
                   "detector file. auto: lpips, or edges where there is no such file")
@click.option("--detectors", metavar="DIR", help="Folder with the detector file, for machines without a network")
@click.option("--candidates", type=click.IntRange(0, 10**6), default=256, show_default=True, metavar="INT",
              help="Start from the best of this many samples, chosen block by block; 0: from the mean style")
@click.option("--w-plus", is_flag=True, help="Fit one style per layer: closer to the target, harder to edit")
@click.option("--fit-noise", type=bool, default=False, show_default=True, metavar="BOOL",
              help="Fit the noise maps, too; projected_w.npz then holds them, but other programs ignore them there")
@click.option("--stay", type=click.FloatRange(min=0), default=0, show_default=True, metavar="WEIGHT",
              help="Keep the styles near those that the network makes itself, which redraws need; try 0.001")
@click.option("--tune", is_flag=True,
              help="Tune the network to the picture, around what was found (Roich et al. 2021), for redraws of it")
@click.option("--tune-steps", type=click.IntRange(1, 10**5), default=300, show_default=True, metavar="INT",
              help="Steps of the tuning")
@class_option()
@device_option()
@trust_option()
def main(network: str, target: str, outdir: str, device: str | None, trust_pickle: bool, **options: Any) -> None:
    """Find the latents with which a network makes an image.

    Writes target.png (what was aimed at), proj.png (what was reached), projected_w.npz (for generate.py --projected-w)
    and proj.mp4 (how it got there). Works for StyleGAN2 and for the block grids of --cfg=ssn. These also get a
    proj-recipe.json: generate.py --recipe=proj-recipe.json --resample-block=1,2 redraws a part of the picture, and
    --paste-into=photo.png gives the change back to the picture at its full size.
    """
    opts = types.SimpleNamespace(**options)
    if opts.crop is not None and opts.center is not None:
        raise click.UsageError("--crop cannot be combined with --center")
    # These import torch, which --help and wrong usage need not wait for.
    from torch_utils.devices import choose_device
    from training.formats.network_names import resolve_network
    from training.images import generation, projection_files

    # What can be refused without the network is refused before it is loaded, the rest before the search.
    resolve_network(network)
    picture = projection_files.open_target(target)
    torch_device = choose_device(device)
    vgg16 = load_detector(opts.detectors, torch_device, opts.loss) if opts.loss in ("auto", "lpips") else None
    film_format = choose_film_format() if opts.save_video else None
    G = generation.load_generator(network, torch_device, trust_pickle)
    if opts.tune and not can_be_edited(G):
        raise click.UsageError("--tune is for networks whose images can be redrawn: train.py --cfg=ssn makes them")
    class_idx = usable_class(G, opts.class_text, network, trust_pickle)
    _channels, height, width = generation.image_shape(G)
    box = projection_files.choose_box(picture.size, (width, height), opts.crop, opts.center)
    pixels = projection_files.fit_to_network(picture, G, box)
    os.makedirs(outdir, exist_ok=True)
    click.echo(generation.save_png(pixels, os.path.join(outdir, "target.png")))

    img = projection_files.to_tensor(pixels, torch_device)
    label = generation.class_to_label(class_idx, G.c_dim).to(torch_device)
    found, deltas, made_by = search(G, img, choose_distance(img, vgg16, opts.loss), label, opts)
    for path in projection_files.save_image_and_latents(made_by, found, outdir):
        click.echo(path)
    if film_format is not None:
        save_film(made_by, found, pixels, outdir, film_format)
    if can_be_edited(G):
        from ssn_plugin.edits.recipe import Picture

        source = Picture(os.path.basename(target), *picture.size, box)
        path = save_recipe(G, network, found, deltas, class_idx, opts.seed, source, outdir)
        click.echo(path)
        command = [*words_to_call("generate"), f"--recipe={path}", "--resample-block=0,0"]
        click.echo(f"To redraw a part of it: {shlex.join(command)}")
    if not opts.tune:   # the file of latents knows nothing of a tuned network
        command = [*words_to_call("generate"), f"--network={network}", f"--projected-w={outdir}/projected_w.npz"]
        click.echo(f"To make the image again: {shlex.join([*command, f'--outdir={outdir}'])}")


def search(
    G: torch.nn.Module,
    img: torch.Tensor,        # [1, C, H, W] in -1..1
    distance: Distance,
    label: torch.Tensor,      # [1, c_dim]
    opts: Any,                # the options of the command
) -> tuple[Projection, dict[str, torch.Tensor] | None, torch.nn.Module]:
    """What was found, what tuning adds to parameters of G, and the network that makes the image."""
    from training.images import projection

    options = projection.ProjectionOptions(
        opts.num_steps, opts.candidates, opts.w_plus, opts.fit_noise, opts.seed, opts.stay)
    with progress_bar("Searching", opts.num_steps, "steps") as bar:
        found = projection.fit(G, img, distance, options, label, on_step=lambda value: bar.step(f"{value:.4g}"))
    warn_of_far_styles(G, found, label)
    click.echo(f"{distance.name}: {found.start_distance:.4g} at the start ({found.start}), {found.distance:.4g} now")
    if not opts.tune:
        return found, None, G
    from training.images import tuning

    with progress_bar("Tuning", opts.tune_steps, "steps") as bar:
        deltas, noise = tuning.tune(
            G, img, distance, found.ws[-1:].to(img.device), found.noise, label,
            tuning.TuningOptions(opts.tune_steps, seed=opts.seed), on_step=lambda value: bar.step(f"{value:.4g}"))
    found = dataclasses.replace(found, noise=noise)
    made_by = tuning.add_deltas(G, deltas)
    click.echo(f"{distance.name}: {projection.distance_of(made_by, found, distance):.4g} after tuning")
    return found, deltas, made_by


def can_be_edited(G: torch.nn.Module) -> bool:
    """Has the network a grid of blocks, and is the plugin there that redraws them?"""
    return hasattr(G, "block_grid") and importlib.util.find_spec("ssn_plugin") is not None


def choose_distance(img: torch.Tensor, vgg16: torch.nn.Module | None, loss: str) -> Distance:
    """What images are compared by with the target `[1, C, H, W]`."""
    from training.images import distances

    if vgg16 is not None:
        return distances.PerceptualDistance(img, vgg16)
    return distances.PixelDistance(img) if loss == "mse" else distances.EdgeDistance(img)


def warn_of_far_styles(G: torch.nn.Module, found: Projection, label: torch.Tensor) -> None:
    """Say so where the network would hardly ever make such styles: what is redrawn in them may not fit."""
    from training.images.style_prior import style_prior

    prior = style_prior(G, label)
    deviations = float(prior.deviations(found.ws[-1:].to(label.device)).square().mean().sqrt())
    if deviations > prior.usual:
        click.echo(f"Warning: the styles lie {deviations:.2g} standard deviations from the mean, 99 % of the network's "
                   f"own within {prior.usual:.2g}; redraws may look unnatural, --stay=0.001 keeps them nearer",
                   err=True)


def save_recipe(
    G: torch.nn.Module,
    network: str,
    found: Projection,
    deltas: dict[str, torch.Tensor] | None,
    class_idx: int | None,
    seed: int,
    picture: Picture,
    outdir: str,
) -> str:
    """Write `proj-recipe.json`, from which `generate.py` goes on; returns the path."""
    from ssn_plugin.edits.recipe_files import recipe_of_search, write_recipe

    recipe = recipe_of_search(G, network, seed, class_idx, found.ws[-1:], found.noise, deltas, picture)
    path = os.path.join(outdir, "proj-recipe.json")
    write_recipe(recipe, path)
    return path


def load_detector(folder: str | None, device: torch.device, loss: str) -> torch.nn.Module | None:
    """VGG16. Where it cannot be had, `auto` does without, and otherwise the error names the losses that do."""
    from metrics.detectors import set_detector_dir
    from training.images.distances import load_vgg16

    set_detector_dir(folder)
    try:
        return load_vgg16(device)
    except OSError as err:
        if loss == "lpips":
            raise OSError(f"{err}, or compare pixels with --loss=edges or --loss=mse") from err
        click.echo("Note: there is no detector file for LPIPS, so pixels and edges are compared, --loss=edges",
                   err=True)
        return None


def save_film(
    G: torch.nn.Module, found: Projection, target: np.ndarray, outdir: str, film_format: FilmFormat
) -> None:
    """Write the film. It is not worth losing the exit code of a long search that was saved already."""
    from training.images.projection_files import save_search_film

    try:
        with progress_bar("Saving the film", len(found.ws)) as bar:
            path = save_search_film(G, found, target, outdir, film_format, on_frame=bar.step)
        click.echo(path)
    except OSError as err:
        click.echo(f"Warning: no film was saved: {err}", err=True)


def __getattr__(name: str) -> Any:
    """`from projector import project` as in the host, without importing torch for the sake of --help."""
    if name == "project":
        from training.images.projection import project

        return project
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    main()
