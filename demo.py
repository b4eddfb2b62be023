"""The main job in a few minutes: redraw a block of what shipped networks draw, then teach one of them winter.

Runs in the checkout of this project (`make demo`), through the same functions as generate.py, dataset_tool.py and
train.py.
"""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

import click

from dnnlib.util import Logger
from training.cli import Command
from training.formats.network_names import demo_models


class Edit(NamedTuple):
    network: str
    seed: int     # of the image
    blocks: str   # to redraw


HAIR = Edit("demo:avatars64", 1, "0,1+0,2")   # as in the README
TOWER = Edit("demo:castles64", 4, "1,2")
NUM_CASTLES = 1500


@click.command(cls=Command)
@click.option("--outdir", default="demo", show_default=True, metavar="DIR", help="Where to put everything")
@click.option("--kimg", type=click.IntRange(min=1), default=8, show_default=True, help="Thousands of training images")
@click.option("--minutes", type=float, default=3, show_default=True, help="Stop training after so long at the latest")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the castles")
def main(outdir: str, kimg: int, minutes: float, seed: int) -> None:
    """Redraw blocks of generated images, then tune a network that draws castles until they stand in the snow.

    The networks are the demo models of this checkout.
    """
    start = time.time()
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    if HAIR.network in demo_models():
        redraw("Redrawing the hair of somebody who does not exist", HAIR, folder / "hair")
    before = redraw("Redrawing a tower of a castle", TOWER, folder / "tower")
    castles = draw_castles(folder, seed)
    snapshot = train_network(castles, folder, kimg, minutes)
    after = redraw("3. The same castle and tower, from the network that was just trained",
                   TOWER._replace(network=str(snapshot)), snapshot.parent / "images")
    click.echo(f"\nDone in {(time.time() - start) / 60:.1f} minutes. Compare {before} with {after}")


def announce(step: str, script: str, *options: str) -> None:
    """Say what happens next, and the command that does the same."""
    click.echo(f"\n{step}\n  {shlex.join(['python', script, *options])}")


def draw_castles(folder: Path, seed: int) -> Path:
    from training.data.dataset_conversion import ConversionOptions, convert_dataset

    castles = folder / f"winter64-seed{seed}.zip"
    announce(
        f"1. Drawing {NUM_CASTLES} castles in winter ...", "dataset_tool.py", "--source=castles:winter",
        f"--dest={castles}", "--resolution=64x64", f"--max-images={NUM_CASTLES}", f"--seed={seed}",
    )
    options = ConversionOptions(width=64, height=64, max_images=NUM_CASTLES, seed=seed)
    convert_dataset("castles:winter", str(castles), options)
    return castles


def train_network(castles: Path, folder: Path, kimg: int, minutes: float) -> Path:
    """Train for `kimg` thousand images or `minutes`, whichever comes first; returns the snapshot."""
    import train

    options: dict[str, Any] = dict(
        data=str(castles), cfg="ssn-plus", resume=TOWER.network, gpus=0, kimg=kimg, batch=8, tick=0.5, aug="noaug",
        metrics=[], distortion_interval=2, ema_kimg=0.5,
    )
    announce(
        f"2. Tuning {TOWER.network} on them, {minutes:g} minutes at most ...", "train.py", f"--outdir={folder}",
        f"--data={castles}", "--cfg=ssn-plus", f"--resume={TOWER.network}", "--gpus=0", f"--kimg={kimg}",
        "--batch=8", "--tick=0.5", "--aug=noaug", "--metrics=none", "--distortion-interval=2", "--ema-kimg=0.5",
    )
    desc, args = train.setup_training_loop_kwargs(**options)
    args.update(image_snapshot_ticks=None, network_snapshot_ticks=10**9)
    args.run_dir = train.make_run_dir(str(folder), desc)
    click.echo(f"  log: {args.run_dir}/log.txt")

    import torch

    from training.training_loop import training_loop

    torch.set_num_threads(1)  # networks as small as these gain nothing from a second one, and lose much to a busy core
    end = time.time() + 60 * minutes
    with LogFile(os.path.join(args.run_dir, "log.txt")):
        training_loop(**args, abort_fn=lambda: time.time() > end)
    return max(Path(args.run_dir).glob("network-snapshot-*.pkl"))


class LogFile(Logger):
    """Sends what is printed to a file only; the live progress line still finds the terminal behind it."""

    def __init__(self, file_name: str):
        super().__init__()
        self.file = open(file_name, "w")  # noqa: SIM115 - closed by close()

    def write(self, text: str | bytes) -> int:
        return self.file.write(text if isinstance(text, str) else text.decode(errors="replace"))

    def close(self) -> None:
        super().close()
        self.file.close()


def redraw(step: str, edit: Edit, images: Path) -> Path:
    """Write eight variants of an edit into the folder `images`; returns the contact sheet."""
    import generate

    arguments = [
        f"--network={edit.network}", f"--seeds={edit.seed}", f"--resample-block={edit.blocks}", f"--outdir={images}",
    ]
    announce(f"{step} ...", "generate.py", *arguments)
    generate.main(arguments, standalone_mode=False)
    return images / f"seed{edit.seed:04d}-sheet.png"


if __name__ == "__main__":
    main()
