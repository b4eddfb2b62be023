"""What the metrics cost beside the networks that they run.

    python benchmarks/metrics.py                  32 pixels, random VGG16, the Frechet distance of 2048 features
    python benchmarks/metrics.py --resolution=64 --num=1024 --no-sqrtm

Prints, from one run on one machine: real images per second through data loading and detector, against the bare
detector on batches that lie ready; generated images per second through the metric's path, against generator and
detector alone; and the time of the Frechet distance by symmetric eigendecomposition and by a general matrix root.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metrics import detectors, metric_utils, sampling
from metrics.frechet_inception_distance import frechet_distance
from torch_utils.devices import choose_device
from training.cli import Command
from training.networks import Generator

URL = detectors.RANDOM_VGG16_URL
BATCH = 64       # images that the detector sees at a time
BATCH_GEN = 4    # images that the generator makes at a time


def shortest(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Shortest wall time of each function. They take turns, so that a change of load meets them all."""
    times: dict[str, float] = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def write_photos(path: Path, num: int, resolution: int) -> None:
    """A zip of smooth random images as `dataset_tool.py` writes them: PNG without compression."""
    rng = np.random.RandomState(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for i in range(num):
            img = PIL.Image.fromarray(rng.randint(0, 256, [8, 8, 3]).astype(np.uint8))
            buffer = io.BytesIO()
            img.resize((resolution, resolution), PIL.Image.Resampling.BICUBIC).save(buffer, "PNG", compress_level=0)
            archive.writestr(f"{i // 1000:05d}/img{i:08d}.png", buffer.getvalue())


def dataset_times(num: int, resolution: int, device: torch.device, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "photos.zip", num, resolution)
        opts = metric_utils.MetricOptions(
            dataset_kwargs=dict(class_name="training.dataset.ImageFolderDataset", path=f"{folder}/photos.zip"),
            device=device, cache=False)
        dataset = metric_utils.open_dataset(opts)
        batches = list(metric_utils.iterate_images(opts, dataset, num, BATCH))
        detector = metric_utils.get_feature_detector(URL, device)

        def bare() -> None:
            with torch.no_grad():
                for images in batches:
                    detector(images.to(device), return_features=True).cpu()

        def whole() -> None:
            metric_utils.compute_feature_stats_for_dataset(
                opts, URL, dict(return_features=True), batch_size=BATCH, capture_mean_cov=True)
        return shortest({"detector alone": bare, "loading and detector": whole}, rounds)


def generator_times(
    num: int, resolution: int, channel_base: int, channel_max: int, device: torch.device, rounds: int
) -> dict[str, float]:
    G: Any = Generator(
        z_dim=64, c_dim=0, w_dim=64, img_resolution=resolution, img_channels=3, mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(channel_base=channel_base, channel_max=channel_max))
    G = G.eval().requires_grad_(False).to(device)
    opts = metric_utils.MetricOptions(G=G, device=device)
    detector = metric_utils.get_feature_detector(URL, device)
    z = torch.randn([BATCH_GEN, G.z_dim], device=device)
    c = torch.zeros([BATCH_GEN, 0], device=device)

    @torch.no_grad()
    def alone() -> None:
        for _ in range(num // BATCH):
            images = [sampling.to_uint8(G(z=z, c=c)) for _ in range(BATCH // BATCH_GEN)]
            detector(torch.cat(images), return_features=True).cpu()

    def whole() -> None:
        metric_utils.compute_feature_stats_for_generator(
            opts, URL, dict(return_features=True), batch_size=BATCH, capture_mean_cov=True, max_items=num)
    return shortest({"generator and detector alone": alone, "the metric": whole}, rounds)


def frechet_times(num_features: int, with_sqrtm: bool) -> dict[str, float]:
    import scipy.linalg

    rng = np.random.RandomState(0)
    cov1, cov2 = (x.T @ x / len(x) for x in (rng.randn(num_features + 500, num_features) for _ in range(2)))
    zero = np.zeros(num_features)
    runs: dict[str, Callable[[], Any]] = {}
    runs["symmetric eigendecomposition"] = lambda: frechet_distance(zero, cov1, zero, cov2)
    if with_sqrtm:
        runs["scipy.linalg.sqrtm"] = lambda: scipy.linalg.sqrtm(cov1 @ cov2)
    return shortest(runs, rounds=1)


def print_rates(times: dict[str, float], num: int, target: float) -> None:
    """Images per second of the parts alone and of the whole, and their ratio."""
    (alone_name, alone), (whole_name, whole) = times.items()
    click.echo(f"{alone_name:<32}{num / alone:8.1f} images/s")
    click.echo(f"{whole_name:<32}{num / whole:8.1f} images/s   {alone / whole:.1%} of that (to reach: {target:.0%})")


@click.command(cls=Command)
@click.option("--resolution", type=click.IntRange(min=8), default=32, show_default=True, help="Of the images")
@click.option("--num", type=click.IntRange(min=BATCH), default=1024, show_default=True, help="Images per measurement")
@click.option("--features", type=click.IntRange(min=2), default=2048, show_default=True, help="Of the Frechet distance")
@click.option("--channel-base", default=2048, show_default=True, help="Width of the generator")
@click.option("--channel-max", default=64, show_default=True, help="Limit of its width")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Repetitions; the best counts")
@click.option("--sqrtm/--no-sqrtm", default=True, show_default=True, help="Time the general matrix root too")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch  [default: its own choice]")
def main(
    resolution: int, num: int, features: int, channel_base: int, channel_max: int, rounds: int, sqrtm: bool,
    threads: int | None,
) -> None:
    """Measure what the metrics cost beside the networks that they run."""
    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device()
    num -= num % BATCH
    click.echo(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {resolution} pixels\n")
    print_rates(dataset_times(num, resolution, device, rounds), num, target=0.95)
    click.echo()
    print_rates(generator_times(num, resolution, channel_base, channel_max, device, rounds), num, target=0.9)
    click.echo()
    for name, seconds in frechet_times(features, sqrtm).items():
        click.echo(f"Frechet distance of {features} features by {name:<30}{seconds:8.2f} s")


if __name__ == "__main__":
    main()
