"""The main job in a few minutes: draw castles, train a small SSN on them, redraw a block of a generated castle.

Runs in the checkout of this project (`make demo`), through the same functions as dataset_tool.py, train.py and
generate.py.
"""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any

import click

from dnnlib.util import Logger
from training.cli import Command
from training.formats.network_names import demo_models

DEMO_MODEL, DEMO_SEED, DEMO_BLOCK = "demo:castles64", 4, "1,2"  # as in the README
RESOLUTION = 32
NUM_CASTLES = 4000


@click.command(cls=Command)
@click.option("--outdir", default="demo", show_default=True, metavar="DIR", help="Where to put everything")
@click.option("--kimg", type=click.IntRange(min=1), default=16, show_default=True, help="Thousands of training images")
@click.option("--minutes", type=float, default=4, show_default=True, help="Stop training after so long at the latest")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the castles")
def main(outdir: str, kimg: int, minutes: float, seed: int) -> None:
    """Draw castles, train a small network on them, redraw a block of a generated castle.

    If this checkout has the demo model castles64, it redraws one of its blocks first.
    """
    start = time.time()
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    if DEMO_MODEL in demo_models():
        images = folder / "trained-for-longer"
        sheet = redraw_block("First, a network that was trained for longer", DEMO_MODEL, DEMO_SEED, DEMO_BLOCK, images)
        click.echo(f"  Look at {sheet} while the other one is trained")
    castles = draw_castles(folder, seed)
    snapshot = train_network(castles, folder, kimg, minutes)
    sheet = redraw_block("3. The network that was just trained", str(snapshot), 1, "1,1", snapshot.parent / "images")
    click.echo(f"\nDone in {(time.time() - start) / 60:.1f} minutes. Look at {sheet}")


def announce(step: str, script: str, *options: str) -> None:
    """Say what happens next, and the command that does the same."""
    click.echo(f"\n{step}\n  {shlex.join(['python', script, *options])}")


def draw_castles(folder: Path, seed: int) -> Path:
    from training.data.dataset_conversion import ConversionOptions, convert_dataset

    castles = folder / f"castles{RESOLUTION}-seed{seed}.zip"
    size = f"{RESOLUTION}x{RESOLUTION}"
    announce(
        f"1. Drawing {NUM_CASTLES} castles of {size} pixels ...", "dataset_tool.py", "--source=castles",
        f"--dest={castles}", f"--resolution={size}", f"--max-images={NUM_CASTLES}", f"--seed={seed}",
    )
    options = ConversionOptions(width=RESOLUTION, height=RESOLUTION, max_images=NUM_CASTLES, seed=seed)
    convert_dataset("castles", str(castles), options)
    return castles


def train_network(castles: Path, folder: Path, kimg: int, minutes: float) -> Path:
    """Train for `kimg` thousand images or `minutes`, whichever comes first; returns the snapshot."""
    import train

    options: dict[str, Any] = dict(
        data=str(castles), cfg="ssn", gpus=0, kimg=kimg, batch=16, tick=0.5, aug="noaug", metrics=[],
        distortion_weight=100, distortion_interval=2, block_dim=32,
    )
    announce(
        f"2. Training for {kimg},000 images, about two minutes ...", "train.py", f"--outdir={folder}",
        f"--data={castles}", "--cfg=ssn", "--gpus=0", f"--kimg={kimg}", "--batch=16", "--aug=noaug", "--metrics=none",
        "--lambda=100", "--distortion-interval=2", "--block-dim=32",
    )
    desc, args = train.setup_training_loop_kwargs(**options)
    hurry(args)
    args.run_dir = train.make_run_dir(str(folder), desc)
    click.echo(f"  log: {args.run_dir}/log.txt")

    import torch

    from training.training_loop import training_loop

    torch.set_num_threads(1)  # networks as small as these gain nothing from a second one, and lose much to a busy core
    end = time.time() + 60 * minutes
    with LogFile(os.path.join(args.run_dir, "log.txt")):
        training_loop(**args, abort_fn=lambda: time.time() > end)
    return max(Path(args.run_dir).glob("network-snapshot-*.pkl"))


def hurry(args: Any) -> None:
    """Half the channels, a higher learning rate and no path length term: a picture in minutes, not the best one."""
    for kwargs in (args.G_kwargs.synthesis_kwargs, args.D_kwargs):
        kwargs.update(channel_base=16 * RESOLUTION, channel_max=32)
    for kwargs in (args.G_opt_kwargs, args.D_opt_kwargs):
        kwargs.update(lr=0.004)
    args.loss_kwargs.update(pl_weight=0)
    args.update(ema_kimg=1, image_snapshot_ticks=None, network_snapshot_ticks=10**9)


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


def redraw_block(step: str, network: str, seed: int, block: str, images: Path) -> Path:
    """Eight variants of one block of the image of a seed; returns the contact sheet."""
    import generate

    arguments = [f"--network={network}", f"--seeds={seed}", f"--resample-block={block}", f"--outdir={images}"]
    announce(f"{step}: redrawing block ({block}) eight times ...", "generate.py", *arguments)
    generate.main(arguments, standalone_mode=False)
    return images / f"seed{seed:04d}-sheet.png"


if __name__ == "__main__":
    main()
