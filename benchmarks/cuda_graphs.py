"""Training steps with and without CUDA graphs, in turns, on a GPU.

    python benchmarks/cuda_graphs.py
    python benchmarks/cuda_graphs.py --resolutions=256 --batch=16 --channels=64 --channels-max=512 --half

A ratio is the median over cycles of 16 steps, lazy regularisation included. The limit is a GPU that never waits for
the host: the time of the graphs alone, without optimizer, moving average and the look at the gradients.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import LAZY_CYCLE, in_turns, ratio, seconds, training_step
from training.cli import Command

NAMES = ["StyleGAN2", "SSN, lambda 0", "SSN, lambda 100, interval 1"]


def per_cycle(steps: list[float]) -> list[float]:
    """Seconds of whole cycles of steps."""
    return [sum(steps[start : start + LAZY_CYCLE]) for start in range(0, len(steps), LAZY_CYCLE)]


def graphs_alone(state: Any, device: torch.device) -> float:
    """Seconds that the graphs of a step take on the average, where every phase has one."""
    intervals = {phase.name: phase.interval for phase in state.phases}
    total = 0.0
    for (phase, *_rest), capture in state.graphs.captures.items():
        repeats = [seconds(capture.graph.replay, device) for _ in range(10)]
        total += min(repeats) / intervals[phase]
    return total


@click.command(cls=Command)
@click.option("--resolutions", default="32,64,128", show_default=True, help="Image sizes in pixels")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images per step")
@click.option("--channels", type=click.IntRange(min=1), default=16, show_default=True, help="At full resolution")
@click.option("--channels-max", type=click.IntRange(min=1), default=64, show_default=True, help="Below")
@click.option("--half", is_flag=True, help="Half precision in the four highest resolutions, TF32 elsewhere")
@click.option("--cycles", type=click.IntRange(min=1), default=2, show_default=True, help="Of 16 steps")
def main(resolutions: str, batch: int, channels: int, channels_max: int, half: bool, cycles: int) -> None:
    """Print the milliseconds of a step with and without graphs, and their ratio."""
    if not torch.cuda.is_available():
        raise click.UsageError("CUDA graphs need a GPU that torch can use")
    device = torch.device("cuda")
    click.echo(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, batch {batch}, channels {channels} to "
               f"{channels_max}, {'half precision' if half else 'float32'}")
    click.echo("\n  res  training step                  without      with   ratio     graphs alone   img/s with")
    for size in map(int, resolutions.split(",")):
        width = dict(channel_base=channels * size, channel_max=channels_max)
        if half:
            width |= dict(num_fp16_res=4, conv_clamp=256)
        for name in NAMES:
            runs = {kind: training_step(name, size, batch, device, kind == "with", **width)
                    for kind in ("without", "with")}
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = half
            for _ in range(LAZY_CYCLE + 2):  # every phase, with and without the term, runs twice
                for run in runs.values():
                    run()
            times = {kind: per_cycle(steps) for kind, steps in in_turns(runs, LAZY_CYCLE * cycles, device).items()}
            without, graphed = (min(times[kind]) / LAZY_CYCLE for kind in ("without", "with"))
            alone = graphs_alone(runs["with"].args[0], device)
            click.echo(f"{size:5d}  {name:28s} {without * 1e3:7.1f} ms {graphed * 1e3:6.1f} ms "
                       f"{ratio(times['with'], times['without']):7.2f} {alone * 1e3:13.1f} ms {batch / graphed:12.0f}")


if __name__ == "__main__":
    main()
