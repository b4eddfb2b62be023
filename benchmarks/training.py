"""What surrounds the training steps: reading data, saving the state, augmenting, sharing work between processes.

    python benchmarks/training.py                        all four tables, on the CPU, twenty minutes
    python benchmarks/training.py --only=snapshot

Steps are those of `train.py --cfg=ssn` on one core unless another --cfg is given. Where nothing waits for a disk or for
another process, times are those of computing, which other programs on the machine add little to. What is compared runs
in turns, and a ratio is the median of the ratios of the turns.
"""

from __future__ import annotations

import functools
import io
import json
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training import training_loop
from training.cli import Command
from training.config import setup_training_loop_kwargs
from training.plugins import import_plugins
from training.run import batches, construction, processes, run_state
from training.run.batches import TrainingData
from training.run.place import Place
from training.run.run_options import RunOptions, StepOptions
from training.run.snapshot import network_snapshot
from training.run.step import TrainingState, train_step

CPU = torch.device("cpu")
LAZY_CYCLE = 16  # steps after which all lazy regularisation has run
NUM_IMAGES = 500


def write_images(path: Path, resolution: int) -> Path:
    """A zip of PNG files as detailed as photos: noise at several scales."""
    rnd = np.random.RandomState(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(NUM_IMAGES if resolution <= 64 else 20):
            pixels = np.zeros([resolution, resolution, 3], dtype=np.uint8)
            for side in (4, 16, resolution):
                noise = PIL.Image.fromarray(rnd.randint(80, size=[side, side, 3], dtype=np.uint8))
                pixels += np.asarray(noise.resize([resolution, resolution], PIL.Image.Resampling.BICUBIC))
            buffer = io.BytesIO()
            PIL.Image.fromarray(pixels).save(buffer, format="PNG")
            archive.writestr(f"{i:05d}.png", buffer.getvalue())
    return path


def make_training(
    path: Path, place: Place = Place(), data_kwargs: Mapping[str, Any] | None = None, **options: Any  # noqa: B008
) -> tuple[TrainingState, TrainingData, StepOptions]:
    """What the training loop of train.py would build from these options, by keyword."""
    import_plugins()
    _, args = setup_training_loop_kwargs(data=str(path), gpus=0, metrics=[], processes=place.num_processes, **options)
    training_set = construction.load_training_set(args.training_set_kwargs, verbose=False)
    construction.configure_torch(random_seed=0, cudnn_benchmark=True, allow_tf32=False)
    run_options = RunOptions(**args, rank=place.rank)
    state, step_options = construction.make_state(run_options, training_set, CPU), run_options.step
    data = TrainingData(training_set, step_options.local_batch, CPU, place.rank, place.num_processes)
    return state, data, step_options


def take_steps(training: tuple[TrainingState, TrainingData, StepOptions], num: int = LAZY_CYCLE) -> None:
    for _ in range(num):
        train_step(*training)


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Duration of a call by a clock, by default that on the wall."""
    start = clock()
    run()
    return clock() - start


def in_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of computing of every call, one after the other in each turn, after one turn to warm up."""
    for run in runs.values():
        run()
    turns = [{name: seconds(run, time.process_time) for name, run in runs.items()} for _ in range(repeats)]
    return {name: [turn[name] for turn in turns] for name in runs}


def ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def benchmark_data(folder: Path, cfg: str, repeats: int) -> None:
    """Images per second at 32 pixels: read from memory, decoded each time, and taken by the steps."""
    path = write_images(folder / "data32.zip", 32)
    training = make_training(path, cfg=cfg, batch=16)
    readers = {"in memory": training[1]}
    batches.MEMORY_LIMIT = 0
    readers["decoded as drawn"] = make_training(path, cfg=cfg, batch=16)[1]
    runs: dict[str, Callable[[], object]] = {"steps": functools.partial(take_steps, training)}
    for name, data in readers.items():
        runs[name] = functools.partial(lambda data: [data.next_batch() for _ in range(LAZY_CYCLE)], data)
    times = in_turns(runs, repeats)
    click.echo("\nReading 32x32 pixels          images/s   x steps (at least 20)")
    for name in runs:
        speed = LAZY_CYCLE * 16 / min(times[name])
        click.echo(f"  {name:26s} {speed:9.0f} {ratio(times['steps'], times[name]):9.0f}")


def benchmark_snapshot(folder: Path, repeats: int) -> None:
    """How long training waits for a snapshot of --cfg=auto at 256 pixels, and how long that is written."""
    state, data, options = make_training(write_images(folder / "data256.zip", 256), cfg="auto", batch=1)
    take_steps((state, data, options), num=1)  # fills the optimizers
    copies, writes, size = [], [], 0
    for _ in range(repeats):
        start = time.perf_counter()
        networks = network_snapshot(state.G, state.D, state.G_ema, state.augment_pipe, {})
        saved = dict(run_state.capture(state, networks), best=None)
        copies.append(time.perf_counter() - start)
        path = str(folder / "network-snapshot-000000.pkl")
        writes.append(seconds(functools.partial(training_loop.write_snapshot, networks, path, saved, None)))
        size = sum(file.stat().st_size for file in folder.glob("*-000000.*"))
    click.echo("\nSnapshot with full state at 256x256, --cfg=auto            seconds (at most 2)")
    click.echo(f"  copied while training waits                             {min(copies):9.2f} to {max(copies):.2f}")
    click.echo(f"  written while training goes on, {size / 2**20:5.0f} MiB              {min(writes):9.2f} to "
               f"{max(writes):.2f}")


def benchmark_augmentation(folder: Path, cfg: str, repeats: int) -> None:
    """Time of steps with the default augmentation at p = 0.5, against steps without."""
    click.echo(f"\nSteps of --cfg={cfg}, pixels   without      bgc   cost (at most 20 %)")
    for resolution in (32, 64, 128):
        path = write_images(folder / f"data{resolution}.zip", resolution)
        plain = make_training(path, cfg=cfg, batch=4, aug="noaug")
        augmented = make_training(path, cfg=cfg, batch=4, aug="fixed", p=0.5)
        runs = {"without": functools.partial(take_steps, plain), "bgc": functools.partial(take_steps, augmented)}
        times = in_turns(runs, repeats)
        milliseconds = [min(times[name]) / LAZY_CYCLE * 1000 for name in runs]
        cost = ratio(times["bgc"], times["without"]) - 1
        click.echo(f"  {resolution:24d} {milliseconds[0]:8.0f} {milliseconds[1]:8.0f} ms {cost:9.1%}")


def share_steps(place: Place, argument: tuple[Path, str, Path]) -> None:
    """The job of one of several processes: steps with a batch of 16; the first one writes down how long they took."""
    path, cfg, result = argument
    torch.set_num_threads(1)
    training = make_training(path, place, cfg=cfg, batch=16, batch_gpu=8)
    take_steps(training)
    processes.anywhere(False)
    computed = time.process_time()
    taken = seconds(functools.partial(take_steps, training))
    if place.rank == 0:
        result.write_text(json.dumps([taken, time.process_time() - computed]))


def benchmark_processes(folder: Path, cfg: str, repeats: int) -> None:
    """Speed of one process on one core against that of two on two, which share the same batch.

    Compared are the fastest turns, and in the last column the times for which a process was computing, which show the
    work that sharing adds also where other programs take their share of the cores.
    """
    path = write_images(folder / "data32.zip", 32)

    def run(num: int) -> list[float]:
        processes.start(share_steps, num, (path, cfg, folder / "seconds.json"), on_cpu=True)
        return json.loads((folder / "seconds.json").read_text())

    turns = [(run(1), run(2)) for _ in range(repeats)]
    click.echo("\nProcesses, one core each, 32x32      images/s   x one (at least 1.6)   x one by computing time")
    for i, name in enumerate(["one", "two"]):
        fastest = [min(turn[k][0] for turn in turns) for k in range(2)]
        computed = ratio([one[1] for one, _ in turns], [turn[i][1] for turn in turns])
        speed = LAZY_CYCLE * 16 / fastest[i]
        click.echo(f"  {name:32s} {speed:9.1f} {fastest[0] / fastest[i]:9.2f} {computed:35.2f}")


@click.command(cls=Command)
@click.option("--only", type=click.Choice(["data", "snapshot", "augmentation", "processes"]), help="One table only")
@click.option("--cfg", default="ssn", show_default=True, help="Configuration whose steps are timed")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Turns")
def main(only: str | None, cfg: str, repeats: int) -> None:
    """Time what surrounds the training steps, on the CPU."""
    torch.set_num_threads(1)
    click.echo(f"torch {torch.__version__}, one thread for each process, float32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only in (None, "data"):
            benchmark_data(folder, cfg, repeats)
        if only in (None, "snapshot"):
            benchmark_snapshot(folder, repeats)
        if only in (None, "augmentation"):
            benchmark_augmentation(folder, cfg, repeats)
        if only in (None, "processes"):
            benchmark_processes(folder, cfg, repeats)


if __name__ == "__main__":
    main()
