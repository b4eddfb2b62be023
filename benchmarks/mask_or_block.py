"""When does a mask do better than a block? The same place redrawn both ways, on many images.

    python benchmarks/mask_or_block.py --network=demo:castles64 --images=40

Prints the mean squared change inside and outside the place (images in -1..1), for a random block of each image, a mask
with the block's outline, and that mask with a feather.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ssn_plugin.distortion import block_mask
from ssn_plugin.edits.edit_options import EditRequest, Mask
from ssn_plugin.edits.session import Session
from training.cli import Command

FEATHER = 4  # pixels


@click.command(cls=Command, help=__doc__)
@click.option("--network", required=True, metavar="PATH|URL|NAME", help="An SSN")
@click.option("--images", type=click.IntRange(min=1), default=40, show_default=True, help="How many")
def main(network: str, images: int) -> None:
    import torch

    session = Session.open(network)
    described = session.describe()
    rows, cols = described["grids"][-1]
    changes: dict[str, list[tuple[float, float]]] = {}
    for seed in range(images):
        state = session.start(seed=seed)
        before = session.render(state.id).astype(np.float64) / 127.5
        block = int(np.random.RandomState(seed).randint(rows * cols))
        inside = block_mask(torch.tensor([block]), (rows, cols), described["height"], described["width"])[0].numpy()
        mask = Mask("outline", inside.astype(np.uint8) * 255)
        requests = {
            "block": EditRequest(str(block)),
            "mask of its outline": EditRequest(mask=mask),
            f"mask, feather {FEATHER}": EditRequest(mask=mask, feather=FEATHER),
        }
        for name, request in requests.items():
            (variant,) = session.variants(state.id, request, count=1)
            change = (variant.image / 127.5 - before) ** 2
            changes.setdefault(name, []).append((float(change[inside].mean()), float(change[~inside].mean())))
    click.echo("| | inside | outside | leaks less than the block in |\n|---|---|---|---|")
    outside_of_blocks = np.array(changes["block"])[:, 1]
    for name, pairs in changes.items():
        values = np.array(pairs)
        fewer = int((values[:, 1] < outside_of_blocks).sum())
        click.echo(f"| {name} | {values[:, 0].mean():.4f} | {values[:, 1].mean():.5f} | {fewer} of {images} |")


if __name__ == "__main__":
    main()
