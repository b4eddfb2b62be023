"""Project an image into the latent space of a network: find the latents with which it makes that image."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from training.cli import Command, network_option, trust_option, words_to_call
from training.images.image_commands import choose_film_format, class_option, device_option, progress_bar, usable_class

if TYPE_CHECKING:
    import numpy as np
    import torch

    from training.images.projection import Distance, Projection
    from training.images.video import FilmFormat

EPILOG = """\b
Examples:
  python projector.py --network=network-snapshot.pkl --target=photo.png --outdir=out
  python projector.py --network=network-snapshot.pkl --target=photo.png --loss=mse --save-video=false --outdir=out
"""


@click.command(cls=Command, epilog=EPILOG)
@network_option()
@click.option("--target", required=True, metavar="FILE", help="Picture to project; its middle is cropped and resized")
@click.option("--num-steps", type=click.IntRange(1, 10**5), default=1000, show_default=True, metavar="INT",
              help="Steps of the search")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=303, show_default=True, metavar="INT",
              help="Of everything random; the same seed gives the same result")
@click.option("--save-video", type=bool, default=True, show_default=True, metavar="BOOL",
              help="Save a film of the search: MP4, or animated WebP where there is no ffmpeg")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write the files")
@click.option("--loss", type=click.Choice(["lpips", "mse"]), default="lpips", show_default=True,
              help="Compare images as VGG16 sees them, or pixel by pixel, which needs no detector file")
@click.option("--detectors", metavar="DIR", help="Folder with the detector file, for machines without a network")
@click.option("--candidates", type=click.IntRange(0, 10**6), default=256, show_default=True, metavar="INT",
              help="Start from the best of so many samples, chosen for every block of a grid; 0: from the mean style")
@click.option("--w-plus", is_flag=True, help="Fit one style per layer: closer to the target, harder to edit")
@click.option("--fit-noise", type=bool, default=False, show_default=True, metavar="BOOL",
              help="Fit the noise maps, too; projected_w.npz then holds them, but other programs ignore them there")
@class_option()
@device_option()
@trust_option()
def main(
    network: str,
    target: str,
    num_steps: int,
    seed: int,
    save_video: bool,
    outdir: str,
    loss: str,
    detectors: str | None,
    candidates: int,
    w_plus: bool,
    fit_noise: bool,
    class_idx: int | None,
    device: str | None,
    trust_pickle: bool,
) -> None:
    """Find the latents with which a network makes an image.

    Writes target.png (what was aimed at), proj.png (what was reached), projected_w.npz (for generate.py --projected-w)
    and proj.mp4 (how it got there). Works for StyleGAN2 and for the block grids of --cfg=ssn.
    """
    # These import torch, which --help and wrong usage need not wait for.
    from torch_utils.devices import choose_device
    from training.formats.network_names import resolve_network
    from training.images import generation, projection, projection_files

    # What can be refused without the network is refused before it is loaded, the rest before the search.
    resolve_network(network)
    picture = projection_files.open_target(target)
    options = projection.ProjectionOptions(num_steps, candidates, w_plus, fit_noise, seed)
    torch_device = choose_device(device)
    vgg16 = load_detector(detectors, torch_device) if loss == "lpips" else None
    film_format = choose_film_format() if save_video else None
    G = generation.load_generator(network, torch_device, trust_pickle)
    label = generation.class_to_label(usable_class(G, class_idx), G.c_dim).to(torch_device)
    pixels = projection_files.fit_to_network(picture, G)
    os.makedirs(outdir, exist_ok=True)
    click.echo(generation.save_png(pixels, os.path.join(outdir, "target.png")))

    img = projection_files.to_tensor(pixels, torch_device)
    distance: Distance = projection.PixelDistance(img) if vgg16 is None else projection.PerceptualDistance(img, vgg16)
    with progress_bar("Searching", num_steps, "steps") as bar:
        found = projection.fit(G, img, distance, options, label, on_step=lambda value: bar.step(f"{value:.4g}"))
    for path in projection_files.save_image_and_latents(G, found, outdir):
        click.echo(path)
    click.echo(f"{distance.name}: {found.start_distance:.4g} at the start ({found.start}), {found.distance:.4g} now")
    if film_format is not None:
        save_film(G, found, pixels, outdir, film_format)
    command = [*words_to_call("generate"), f"--network={network}", f"--projected-w={outdir}/projected_w.npz"]
    click.echo(f"To make the image again: {shlex.join([*command, f'--outdir={outdir}'])}")


def load_detector(folder: str | None, device: torch.device) -> torch.nn.Module:
    """VGG16. Where it cannot be had, the error also names the loss that does without."""
    from metrics.detectors import set_detector_dir
    from training.images.projection import load_vgg16

    set_detector_dir(folder)
    try:
        return load_vgg16(device)
    except OSError as err:
        raise OSError(f"{err}, or compare pixels with --loss=mse") from err


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
