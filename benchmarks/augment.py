"""What adaptive augmentation costs: time of the pipe per image, and its share of a StyleGAN2 training step.

    python benchmarks/augment.py                                          the networks of --cfg=auto
    python benchmarks/augment.py --channel-base=2048 --channel-max=64     as narrow as --cfg=ssn on a CPU

A step trains the generator and the discriminator once on a batch; every 4th also regularises the generator, and every
16th the discriminator. It sends three batches through the pipe: generated images, differentiated, for the generator;
generated and real images, as they are, for the discriminator. R1 differentiates one more batch twice.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training import augment, config, loss, networks
from training.cli import Command
from training.run import construction


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Shortest time of one call, after one to warm up; whatever else the machine does can only add to it."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def pipe_seconds(name: str, resolution: int, batch: int, strength: float, repeats: int) -> dict[str, float]:
    """Time of the pipe for one batch: alone, with its gradient, and with the gradient of that."""
    options: dict[str, Any] = config.AUGPIPES[name]
    pipe = augment.AugmentPipe(**options)
    pipe.p.fill_(strength)
    images = torch.randn([batch, 3, resolution, resolution])
    cotangent = torch.randn_like(images).requires_grad_()
    variable = images.clone().requires_grad_()

    def first_order():
        torch.autograd.grad(pipe(variable), variable, cotangent)

    def second_order():
        (gradient,) = torch.autograd.grad(pipe(variable), variable, cotangent, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), cotangent)

    return dict(
        forward=seconds(lambda: pipe(images), repeats),
        backward=seconds(first_order, repeats),
        double_backward=seconds(second_order, repeats),
    )


def step_seconds(resolution: int, batch: int, channel_base: int, channel_max: int, repeats: int) -> float:
    """Time of one training step without augmentation, regularisation included at its share."""
    channels = dict(channel_base=channel_base, channel_max=channel_max)
    G = networks.Generator(512, 0, 512, resolution, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=channels)
    D = networks.Discriminator(0, resolution, 3, **channels)
    stylegan2 = loss.StyleGAN2Loss(torch.device("cpu"), G.mapping, G.synthesis, D)
    images = torch.randn([batch, 3, resolution, resolution])
    z, c = torch.randn([batch, 512]), torch.zeros([batch, 0])

    def run(phase: str) -> None:
        G.requires_grad_(phase[0] == "G")
        D.requires_grad_(phase[0] == "D")
        stylegan2.accumulate_gradients(phase, images, c, z, c, sync=True, gain=1)

    shares = dict(Gmain=1, Dmain=1, Greg=1 / 4, Dreg=1 / 16)
    return sum(share * seconds(functools.partial(run, phase), repeats) for phase, share in shares.items())


@click.command(cls=Command)
@click.option("--resolution", "resolutions", type=int, multiple=True, default=[32, 64, 128], show_default=True)
@click.option("--channel-base", type=int, default=16384, show_default=True, help="Width of the networks")
@click.option("--channel-max", type=int, default=512, show_default=True, help="Limit of the width")
@click.option("--augpipe", type=click.Choice(list(config.AUGPIPES)), default="bgc", show_default=True)
@click.option("--p", "strength", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Strength")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images per batch")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Timed repetitions")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: as torch chooses]")
def main(resolutions, channel_base, channel_max, augpipe, strength, batch, repeats, threads):
    """Time the augmentation pipe on the CPU against a training step of StyleGAN2."""
    if threads:
        torch.set_num_threads(threads)
    construction.configure_torch(random_seed=0, cudnn_benchmark=True, allow_tf32=False)
    print(f"CPU, {torch.get_num_threads()} threads, float32, batch {batch}, channels {channel_base} / {channel_max}")
    print(f"Milliseconds per image, pipe {augpipe} at p = {strength}; step: without augmentation")
    print(("{:>8}" + "{:>11}" * 6).format("pixels", "forward", "+ 1st grad", "+ 2nd grad", "per step", "step", "share"))
    for resolution in resolutions:
        pipe = pipe_seconds(augpipe, resolution, batch, strength, 3 * repeats)
        cost = 2 * pipe["forward"] + pipe["backward"] + pipe["double_backward"] / 16
        step = step_seconds(resolution, batch, channel_base, channel_max, repeats)
        columns = "".join(f"{1000 * t / batch:>11.2f}" for t in (*pipe.values(), cost, step))
        print(f"{resolution:>8}{columns}{cost / step:>11.1%}")


if __name__ == "__main__":
    main()
