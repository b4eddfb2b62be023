"""Mix the styles of generated images."""

from __future__ import annotations

import click

from training.cli import Command, network_option, trust_option
from training.images.image_commands import class_option, device_option, trunc_option, usable_class

EPILOG = """\b
Examples:
  python style_mixing.py --network=network-snapshot.pkl --rows=85,100,75 --cols=55,821 --outdir=out
  python style_mixing.py --network=network-snapshot.pkl --rows=0-3 --cols=4-7 --styles=0-1 --trunc=0.7 --outdir=out
"""


@click.command(cls=Command, epilog=EPILOG)
@network_option()
@click.option("--rows", required=True, metavar="LIST", help="Seeds of the rows, e.g. 1,5,9 or 0-7")
@click.option("--cols", required=True, metavar="LIST", help="Seeds of the columns")
@click.option("--styles", metavar="LIST",
              help="Layers that take their style from the column  [default: the coarser half, but "
                   "at most 0-6]")
@trunc_option()
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True,
              help="Noise maps: those of the network, fresh ones for each row, or none")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write the images")
@class_option()
@device_option()
@trust_option()
def main(
    network: str,
    rows: str,
    cols: str,
    styles: str | None,
    trunc: float,
    noise_mode: str,
    outdir: str,
    class_text: str | None,
    device: str | None,
    trust_pickle: bool,
) -> None:
    """Generate images that take some of their styles from one seed and the rest from another.

    Writes 85-85.png for each seed, 85-55.png for row 85 and column 55, and all of them together as grid.png.
    """
    # These import torch, which --help and wrong usage need not wait for.
    from torch_utils.devices import choose_device
    from training.images import generation, style_mixing

    row_seeds, col_seeds = generation.parse_seeds(rows), generation.parse_seeds(cols)
    layers = None if styles is None else style_mixing.parse_styles(styles)
    G = generation.load_generator(network, choose_device(device), trust_pickle)
    class_idx = usable_class(G, class_text, network, trust_pickle)
    layers = style_mixing.default_styles(G.num_ws) if layers is None else layers
    style_mixing.check_styles(G, layers)
    style_mixing.check_grid(G, row_seeds, col_seeds)
    paths = style_mixing.save_mixtures(G, row_seeds, col_seeds, layers, class_idx, trunc, noise_mode, outdir)
    for path in paths:
        click.echo(path)


if __name__ == "__main__":
    main()
