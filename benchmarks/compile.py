"""Main phases of a training with and without --compile, in turns, and how long compiling takes.

    python benchmarks/compile.py
    python benchmarks/compile.py --resolution=64 --channels=32

Phases are those of `train.py --cfg=ssn-plus` without augmentation, optimizer step included. A ratio is the median over
turns. Compiling takes minutes; without what an earlier call has left in Inductor's cache, if that is empty or
TORCHINDUCTOR_FORCE_DISABLE_CACHES=1.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import in_turns, ratio, seconds
from benchmarks.training import CPU, make_training, write_images
from training.cli import Command
from training.run.step import run_phase

PHASES = ("Gmain", "Dmain")


@click.command(cls=Command)
@click.option("--resolution", type=click.IntRange(min=8), default=32, show_default=True, help="Pixels along each side")
@click.option("--channels", type=click.IntRange(min=1), default=16, show_default=True, help="At full resolution")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images per step")
@click.option("--repeats", type=click.IntRange(min=1), default=15, show_default=True, help="Number of turns")
def main(resolution: int, channels: int, batch: int, repeats: int) -> None:
    """Print the milliseconds of both main phases with and without --compile, their ratio, and the time of compiling."""
    click.echo(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {resolution}x{resolution}, "
               f"batch {batch}, channels {channels}\n\nphase     without        with    ratio    first call with")
    with tempfile.TemporaryDirectory() as folder:
        path = write_images(Path(folder) / "data.zip", resolution)
        trainings = {
            kind: make_training(path, cfg="ssn-plus", batch=batch, aug="noaug", channels=channels, compile=is_compiled)
            for kind, is_compiled in [("without", False), ("with", True)]
        }
    real_img, real_c = torch.rand([batch, 3, resolution, resolution]) * 2 - 1, torch.zeros([batch, 0])
    for name in PHASES:
        runs = {}
        for kind, (state, data, options) in trainings.items():
            number = [phase.name for phase in state.phases].index(name)
            runs[kind] = functools.partial(run_phase, state, number, real_img, real_c, data, options)
        first = seconds(runs["with"], CPU)
        times = in_turns(runs, repeats, CPU)
        without, compiled = (statistics.median(times[kind]) for kind in ("without", "with"))
        quotient = ratio(times["with"], times["without"])
        click.echo(f"{name} {without * 1e3:9.1f} ms {compiled * 1e3:8.1f} ms {quotient:8.2f} {first:16.0f} s")


if __name__ == "__main__":
    main()
