"""Everything that wants measuring on a GPU, in one command of at most ten minutes.

    python benchmarks/gpu.py --out=gpu.json
    python benchmarks/gpu.py --out=gpu.json --minutes=3     # goes on where the last call stopped
    python benchmarks/gpu.py --out=tiny.json --tiny         # tiny networks, on any machine: does the script work?

Every measurement is written as soon as it is made, so that a call that is cut off loses one at most; what the file
already has is not measured again. The tests that need a GPU come first. Times are the fastest of several, in
milliseconds; peak memory is that of torch's allocator (nothing on a processor), in MiB, of everything alive.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import LAZY_CYCLE, seconds, training_step
from dnnlib.util import UserError, open_atomic
from ssn_plugin.networks import SSNGenerator
from torch_utils import graphed, half
from torch_utils.devices import choose_device
from training import networks
from training.cli import Command
from training.config import auto_spec

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("float32", "float16", "bfloat16")  # of the four highest resolutions; the last is for processors
NETWORKS = ("StyleGAN2", "SSN", "discriminator")
TRAININGS = ("StyleGAN2", "SSN, lambda 100, interval 1")
TEST_SHARE = 0.4                              # of the time: what the tests may take


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    resolutions: tuple[int, ...] = (64, 256, 1024)
    batches: tuple[int, ...] = (32, 16, 4)         # for each resolution
    channel_max: int = 512
    repeats: int = 10                              # of a forward pass
    steps: int = LAZY_CYCLE + 2                    # of a training, after as many to warm up: all phases run twice
    tests: str = "gpu"                             # which tests: a marker


TINY = Plan((8,), (2,), 8, repeats=1, steps=4, tests="")
Measure = Callable[[], dict[str, Any]]


def measurements(plan: Plan, device: torch.device, seconds_for_tests: float) -> Iterator[tuple[str, Measure]]:
    """Everything that can be measured on the device, by name, the smallest first."""
    if plan.tests:
        yield "tests", functools.partial(run_tests, plan.tests, seconds_for_tests)
    on_gpu = device.type == "cuda"
    formats = [name for name in FORMATS if name == "float32" or on_gpu == (name == "float16")]
    if not on_gpu and not half.has_bf16():
        formats.remove("bfloat16")
    for resolution, batch in zip(plan.resolutions, plan.batches, strict=True):
        for number_format in formats:
            for graphs in (False, True) if on_gpu else (False,):
                end = f"{resolution} px, {number_format}{', graphs' if graphs else ''}"
                case = (resolution, batch, number_format, graphs, device)
                for name in NETWORKS:
                    yield f"{name}, {end}", functools.partial(time_forward, plan, name, *case)
                for name in TRAININGS:
                    yield f"training {name}, {end}", functools.partial(time_training, plan, name, *case)


def run_tests(marker: str, limit: float) -> dict[str, Any]:
    """The tests of a marker, ended after `limit` seconds; what they printed last."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", marker, "-p", "no:cacheprovider", "tests"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as err:
        printed = err.stdout or b""  # bytes, whatever `text` says
        text = printed.decode(errors="replace") if isinstance(printed, bytes) else printed
        return dict(status="out of time", seconds=limit, end=text[-2000:])
    return dict(status="passed" if done.returncode == 0 else "failed", end=done.stdout[-4000:])


@torch.no_grad()
def time_forward(
    plan: Plan, name: str, resolution: int, batch: int, number_format: str, graphs: bool, device: torch.device
) -> dict[str, Any]:
    """Milliseconds of a pass in inference, with the channels of --cfg=auto."""
    half.use_bf16(number_format == "bfloat16", device)
    torch.manual_seed(0)
    net = make_network(plan, name, resolution, number_format).eval().requires_grad_(False).to(device)
    x = torch.randn([batch, *([3, resolution, resolution] if name == "discriminator" else [net.z_dim])], device=device)
    c = torch.zeros([batch, 0], device=device)
    cache = graphed.GraphCache(graphed.GpuCapture(), lambda _net: graphs)

    def run() -> Any:
        return cache.call(net, (x, c), {}, {})

    reset_peak(device)
    for _ in range(3):  # plain, captured, replayed
        run()
    times = [seconds(run, device) for _ in range(plan.repeats)]
    if graphs and not cache.graphs:
        return dict(status="not captured")
    return dict(status="measured", batch=batch, **summary(times), **peak(device))


def width_of(plan: Plan, resolution: int, number_format: str) -> dict[str, Any]:
    """The channels of --cfg=auto, and the format of the four highest resolutions."""
    width = dict(channel_base=int(auto_spec(resolution, 1).fmaps * 32768), channel_max=plan.channel_max)
    return width if number_format == "float32" else width | dict(num_fp16_res=4, conv_clamp=256)


def make_network(plan: Plan, name: str, resolution: int, number_format: str) -> Any:
    width = width_of(plan, resolution, number_format)
    if name == "discriminator":
        return networks.Discriminator(0, resolution, 3, **width)
    latent = min(plan.channel_max, 512)
    if name == "SSN":
        return SSNGenerator(latent // 4, 0, latent // 4, resolution, 3, synthesis_kwargs=width)
    return networks.Generator(latent, 0, latent, resolution, 3, synthesis_kwargs=width)


def time_training(
    plan: Plan, name: str, resolution: int, batch: int, number_format: str, graphs: bool, device: torch.device
) -> dict[str, Any]:
    """Milliseconds of a training step on the average, lazy regularisation included, and of each phase by itself."""
    half.use_bf16(number_format == "bfloat16", device)
    reset_peak(device)
    step = training_step(name, resolution, batch, device, graphs, **width_of(plan, resolution, number_format))
    phases: dict[str, list[float]] = {}
    for _ in range(plan.steps):
        step()
    times = []
    for _ in range(plan.steps):
        for phase in step.args[0].phases:
            phase.timer.take_milliseconds()  # what the warm-up left
        times.append(seconds(step, device))
        for phase in step.args[0].phases:
            phases.setdefault(phase.name, []).extend(phase.timer.take_milliseconds())
    fastest = {phase: round(min(found), 3) for phase, found in phases.items() if found}
    return dict(status="measured", batch=batch, mean_ms=round(statistics.mean(times) * 1e3, 3), phases_ms=fastest,
                **summary(times), **peak(device))


def summary(times: list[float]) -> dict[str, float]:
    return dict(fastest_ms=round(min(times) * 1e3, 3), median_ms=round(statistics.median(times) * 1e3, 3))


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> dict[str, float]:
    return dict(peak_mib=round(torch.cuda.max_memory_allocated() / 2**20, 1)) if device.type == "cuda" else {}


def attempt(measure: Measure) -> dict[str, Any]:
    """The measurement, or why there is none: one that does not fit in memory shall not end the others."""
    try:
        return measure()
    except (RuntimeError, ValueError) as err:
        return dict(status="failed", why=f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}"[:300])


def read(path: Path, machine: dict[str, str]) -> dict[str, Any]:
    """What an earlier call wrote. UserError if it is of another machine, or no such file."""
    if not path.exists():
        return dict(machine=machine, results={})
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        theirs, _results = found["machine"], found["results"]
    except (ValueError, KeyError, TypeError) as err:
        raise UserError(f"{path} holds no measurements of this script") from err
    if theirs != machine:
        raise UserError(f"{path} was measured on {theirs}, this is {machine}: choose another --out")
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    with open_atomic(str(path)) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def describe(device: torch.device, tiny: bool) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    return dict(device=name, torch=torch.__version__, plan="tiny" if tiny else "full")


@click.command(cls=Command)
@click.option("--out", default="gpu.json", show_default=True, metavar="FILE", help="Where the measurements are kept")
@click.option("--minutes", type=click.FloatRange(0.1, 60), default=9.5, show_default=True, help="Start none after that")
@click.option("--tiny", is_flag=True, help="Tiny networks, on a processor too: does the script work?")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N  [default: a GPU if there is one]")
def main(out: str, minutes: float, tiny: bool, device: str | None) -> None:
    """Measure networks and training steps on a GPU, and run the tests that need one."""
    start = time.monotonic()
    target = choose_device(device)
    if target.type != "cuda" and not tiny:
        raise click.UsageError("this needs a GPU that torch can use; --tiny runs anywhere")
    plan, path = TINY if tiny else Plan(), Path(out)
    content = read(path, describe(target, tiny))
    for name, measure in measurements(plan, target, TEST_SHARE * minutes * 60):
        if name in content["results"]:
            continue
        if time.monotonic() - start > minutes * 60:
            click.echo("Out of time: the same command goes on from here")
            return
        content["results"][name] = found = attempt(measure)
        write(path, content)
        click.echo(f"{name}: {found}")
    half.use_bf16(False, target)
    click.echo(f"All measurements are in {out}")


if __name__ == "__main__":
    main()
