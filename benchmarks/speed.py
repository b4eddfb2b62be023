"""Speed and memory of the networks and of training steps, in one run on one machine.

    python benchmarks/speed.py
    python benchmarks/speed.py --resolutions=32 --batch=8 --repeats=20

Forward passes are quoted as multiples of the *convolution floor*: the bare convolutions that StyleGAN2's generator (or
the discriminator) needs, same shapes, same number format, each in the faster of the two memory layouts. Both
generators have the same channels and are compared with the same floor; what an SSN adds counts as overhead.
Training steps are quoted as multiples of a StyleGAN2 step with the same channels. Everything that is compared runs in
turns, and a ratio is the median of the ratios of the turns, so that a machine whose speed drifts does little harm; of
training each turn is a step, and a ratio that of a whole cycle of steps, lazy regularisation included.
"""

from __future__ import annotations

import copy
import functools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ssn_plugin.config import SSNConfig
from ssn_plugin.loss import DistortionLoss
from ssn_plugin.networks import SSNGenerator
from torch_utils.devices import choose_device
from training import networks
from training.cli import Command
from training.config import auto_spec
from training.loss import StyleGAN2Loss
from training.run.construction import configure_torch
from training.run.cuda_graphs import GraphedLoss
from training.run.run_options import StepOptions
from training.run.step import TrainingState, make_phases, train_step

LAZY_CYCLE = 16  # steps after which all lazy regularisation has run
TRAININGS: dict[str, dict[str, Any]] = {
    "StyleGAN2": {},
    "SSN, lambda 0": SSNConfig(distortion_weight=0).kwargs("loss"),
    "SSN, lambda 100, interval 1": SSNConfig(distortion_weight=100, distortion_interval=1).kwargs("loss"),
    "SSN, lambda 100, interval 4": SSNConfig(distortion_weight=100, distortion_interval=4).kwargs("loss"),
}


class RandomData:
    """Stands in for a data set, so that only the step is timed."""

    def __init__(self, batch: int, resolution: int, device: torch.device):
        self.img = torch.rand([batch, 3, resolution, resolution], device=device) * 2 - 1
        self.c = torch.zeros([batch, 0], device=device)

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.img, self.c

    def random_labels(self, num: int) -> torch.Tensor:
        return self.c[:num]


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every call, one after the other in each turn, after one turn to warm up."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    return times


def ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


# Forward passes


def generator_convolutions(G: Any, batch: int) -> list[Callable[[], torch.Tensor]]:
    """The bare convolutions of StyleGAN2's synthesis network."""
    calls = []
    for res in G.synthesis.block_resolutions:
        block = getattr(G.synthesis, f"b{res}")
        if hasattr(block, "conv0"):
            weight = block.conv0.weight.detach().transpose(0, 1).contiguous()
            calls.append(fastest_layout(functools.partial(F.conv_transpose2d, stride=2), batch, res // 2, weight, 0))
        calls.append(fastest_layout(functools.partial(F.conv2d, padding=1), batch, res, block.conv1.weight.detach()))
        calls.append(fastest_layout(F.conv2d, batch, res, block.torgb.weight.detach()))
    return calls


def discriminator_convolutions(D: Any, batch: int) -> list[Callable[[], torch.Tensor]]:
    """The bare convolutions of the residual discriminator."""
    calls = []
    for res in D.block_resolutions:
        block = getattr(D, f"b{res}")
        if hasattr(block, "fromrgb"):
            calls.append(fastest_layout(F.conv2d, batch, res, block.fromrgb.weight.detach()))
        calls.append(fastest_layout(functools.partial(F.conv2d, padding=1), batch, res, block.conv0.weight.detach()))
        strided = functools.partial(F.conv2d, stride=2)
        calls.append(fastest_layout(strided, batch, res + 1, block.conv1.weight.detach()))
        calls.append(fastest_layout(F.conv2d, batch, res // 2, block.skip.weight.detach()))
    calls.append(fastest_layout(functools.partial(F.conv2d, padding=1), batch, 4, D.b4.conv.weight.detach()))
    return calls


def fastest_layout(
    convolve: Callable[..., torch.Tensor], batch: int, resolution: int, weight: torch.Tensor, in_axis: int = 1
) -> Callable[[], torch.Tensor]:
    """A call of the convolution on random input, in the memory layout that takes less time."""
    x = torch.randn([batch, weight.shape[in_axis], resolution, resolution], device=weight.device)
    calls, times = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        call = functools.partial(convolve, x.to(memory_format=layout), weight.to(memory_format=layout))
        calls.append(call)
        call()
        times.append(min(seconds(call, weight.device) for _ in range(5)))
    return calls[times.index(min(times))]


def run_all(calls: list[Callable[[], torch.Tensor]]) -> None:
    for call in calls:
        call()


@torch.no_grad()
def benchmark_forward(resolution: int, batch: int, repeats: int, device: torch.device) -> None:
    """Print the time of a forward pass of each network, with the channels of --cfg=auto."""
    width = dict(channel_base=int(auto_spec(resolution, 1).fmaps * 32768), channel_max=512)
    torch.manual_seed(0)
    G = networks.Generator(512, 0, 512, resolution, 3, synthesis_kwargs=width).eval().to(device)
    S = SSNGenerator(512, 0, 512, resolution, 3, synthesis_kwargs=width).eval().to(device)
    D = networks.Discriminator(0, resolution, 3, **width).eval().to(device)
    z, grid_z = (torch.randn([batch, net.z_dim], device=device) for net in (G, S))
    img = torch.randn([batch, 3, resolution, resolution], device=device)
    times = in_turns(
        {
            "G floor": functools.partial(run_all, generator_convolutions(G, batch)),
            "StyleGAN2 generator": lambda: G(z, None),
            "SSN generator": lambda: S(grid_z, None),
            "D floor": functools.partial(run_all, discriminator_convolutions(D, batch)),
            "discriminator": lambda: D(img, None),
        },
        repeats, device,
    )
    for name, floor in [("StyleGAN2 generator", "G floor"), ("SSN generator", "G floor"), ("discriminator", "D floor")]:
        click.echo(
            f"{resolution:5d}  {name:28s} {min(times[name]) * 1e3:9.1f} ms {ratio(times[name], times[floor]):9.2f}"
        )


# Training steps


def training_step(
    name: str, resolution: int, batch: int, device: torch.device, cuda_graphs: bool = False, **synthesis_kwargs: Any
) -> functools.partial[None]:
    """A function that takes the next step of a training, with the channels of --cfg=ssn on a CPU, or others."""
    width = dict(channel_base=32 * resolution, channel_max=64) | synthesis_kwargs
    configure_torch(random_seed=0, cudnn_benchmark=True, allow_tf32=False)
    if name == "StyleGAN2":
        G: Any = networks.Generator(64, 0, 64, resolution, 3, synthesis_kwargs=width)
    else:
        G = SSNGenerator(64, 0, 64, resolution, 3, synthesis_kwargs=width)
    D = networks.Discriminator(0, resolution, 3, **width)
    for net in (G, D):
        net.train().requires_grad_(False).to(device)
    loss_class: Any = StyleGAN2Loss if name == "StyleGAN2" else DistortionLoss
    loss = loss_class(
        device=device, G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, r1_gamma=1, **TRAININGS[name]
    )
    adam = dict(class_name="torch.optim.Adam", lr=0.0025, betas=[0, 0.99], eps=1e-8)
    phases = make_phases(G, D, adam, adam, G_reg_interval=4, D_reg_interval=16, device=device)
    loss.draws_on_device = cuda_graphs
    graphs = GraphedLoss(loss, [G, D]) if cuda_graphs else None
    state = TrainingState(G, D, copy.deepcopy(G).eval(), None, loss, phases, None, graphs)
    data: Any = RandomData(batch, resolution, device)
    return functools.partial(train_step, state, data, StepOptions(batch_size=batch, batch_gpu=batch))


def peak_memory(name: str, resolution: int, batch: int, device: torch.device) -> float:
    """MiB that training takes at its peak: of the process on a CPU, of the allocator on a GPU."""
    step = training_step(name, resolution, batch, device)
    for _ in range(2):  # the first of a cycle has all phases and pairs; the second has the optimizers' state beside it
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage: its peak starts from that of the process that spawned this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    return float("nan")


def benchmark_training(resolution: int, batch: int, repeats: int, device: torch.device) -> None:
    """Print images per second, the ratio to StyleGAN2 and the peak memory of each kind of training step."""
    runs = {name: training_step(name, resolution, batch, device) for name in TRAININGS}
    steps = in_turns(runs, LAZY_CYCLE * repeats, device)
    starts = range(0, LAZY_CYCLE * repeats, LAZY_CYCLE)
    times = {name: [sum(steps[name][start : start + LAZY_CYCLE]) for start in starts] for name in TRAININGS}
    for name in TRAININGS:
        # A process of its own: the peak of a process never falls again.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory = pool.apply(peak_memory, (name, resolution, batch, device))
        rate = LAZY_CYCLE * batch / min(times[name])
        relative = ratio(times[name], times["StyleGAN2"])
        click.echo(f"{resolution:5d}  {name:28s} {rate:9.1f} img/s {relative:6.2f} {memory:9.0f} MiB")


@click.command(cls=Command)
@click.option("--resolutions", default="32,128,256", show_default=True, help="Image sizes in pixels")
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True, help="Images per pass and per step")
@click.option("--repeats", type=click.IntRange(min=1), default=9, show_default=True, help="Turns of forward passes")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N  [default: a GPU if there is one]")
def main(resolutions: str, batch: int, repeats: int, device: str | None) -> None:
    """Time forward passes and training steps."""
    sizes = [int(size) for size in resolutions.split(",")]
    target = choose_device(device)
    click.echo(f"torch {torch.__version__}, {target}, {torch.get_num_threads()} threads, float32, batch {batch}")
    click.echo("\n  res  forward pass                      fastest  x floor")
    for size in sizes:
        benchmark_forward(size, batch, repeats, target)
    click.echo("\n  res  training step                       speed  x StyleGAN2  peak memory")
    for size in sizes:
        benchmark_training(size, batch, max(repeats // 3, 1), target)


if __name__ == "__main__":
    main()
