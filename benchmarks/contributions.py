"""Which resolutions make the picture? What each ToRGB layer contributes to the image, in the course of training.

    python benchmarks/contributions.py --run=training-runs/00000-castles-ssn --outdir=results/contributions

A generator of the architecture `skip` (StyleGAN2 or SSN) adds one RGB image per resolution, each of them up-sampled to
the final size. A contribution is the standard deviation of such an up-sampled image over all its values, the mean of
many images; the contributions of a snapshot are divided by their sum. Figure 8 of Karras et al. 2020 (arXiv:1912.04958)
shows that they move to finer resolutions as training goes on.

    OUTDIR/contributions.json    for each snapshot the shares and standard deviations by resolution
    OUTDIR/contributions.png     the shares, stacked, against thousands of images (needs matplotlib)
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dnnlib.util import UserError, open_atomic
from torch_utils.devices import choose_device
from torch_utils.ops import upfirdn2d
from training.cli import Command
from training.images.generation import class_to_label, device_of, load_generator, seed_to_z

BATCH = 16  # images measured at a time


def find_snapshots(run: Path) -> dict[int, Path]:
    """Network snapshots of a run's folder by thousands of images, in the order of training."""
    names = {path: re.fullmatch(r"network-snapshot-(\d+)\.pkl", path.name) for path in run.glob("network-snapshot-*")}
    snapshots = {int(match[1]): path for path, match in names.items() if match}
    if not snapshots:
        raise UserError(f"--run must be a folder with files network-snapshot-*.pkl, {run} holds none")
    return dict(sorted(snapshots.items()))


def skip_blocks(G: Any, name: str) -> dict[str, torch.nn.Module]:
    """Synthesis blocks by the size of their images, such as 8x8, coarse to fine; `name` is for the message.

    Raises ValueError for a generator without an RGB output at each resolution.
    """
    synthesis = getattr(G, "synthesis", None)
    blocks = [getattr(synthesis, f"b{res}") for res in getattr(synthesis, "block_resolutions", [])]
    if not blocks or not all(hasattr(block, "torgb") for block in blocks):
        architecture = getattr(blocks[0], "architecture", "unknown") if blocks else "unknown"
        raise UserError(f"{name}: the generator must have the architecture skip, with an RGB output at each "
                         f"resolution, it has {architecture}")
    return {size_name(block.resolution): block for block in blocks}


def size_name(resolution: int | list[int]) -> str:
    """Width x height of a side or of [H, W]."""
    height, width = [resolution, resolution] if isinstance(resolution, int) else resolution
    return f"{width}x{height}"


@contextmanager
def recorded_rgb(blocks: dict[str, torch.nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """While the block runs, holds what the latest pass added to the image at each size. [N, C, h, w] each"""
    rgb: dict[str, torch.Tensor] = {}
    handles = [
        block.torgb.register_forward_hook(lambda _module, _args, out, size=size: rgb.update({size: out.float()}))
        for size, block in blocks.items()
    ]
    try:
        yield rgb
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def contributions(
    G: Any, z: torch.Tensor, c: torch.Tensor, name: str = "network"
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Images of these latents, and what each resolution contributes to them at their final size, by size.

    The contributions add up to the image, since nothing but linear up-sampling follows a ToRGB layer.
    z: [N, z_dim].  c: [N, c_dim].  Returns images of shape [N, C, H, W].
    """
    blocks = skip_blocks(G, name)
    with recorded_rgb(blocks) as rgb:
        img = G(z, c, noise_mode="const", force_fp32=True)
    parts: dict[str, torch.Tensor] = {}
    for size, block in blocks.items():
        parts = {coarser: upfirdn2d.upsample2d(part, block.resample_filter) for coarser, part in parts.items()}
        parts[size] = rgb[size]
    return parts, img


def mean_deviations(G: Any, num: int, name: str = "network") -> dict[str, float]:
    """Standard deviation of the contributions of each resolution to an image, the mean over seeds 0 to num - 1."""
    sums: dict[str, float] = {}
    for start in range(0, num, BATCH):
        seeds = range(start, min(start + BATCH, num))
        z = torch.cat([seed_to_z(seed, G.z_dim) for seed in seeds])
        c = torch.cat([class_to_label(seed % max(G.c_dim, 1), G.c_dim) for seed in seeds])
        parts, _img = contributions(G, z.to(device_of(G)), c.to(device_of(G)), name)
        for size, part in parts.items():
            sums[size] = sums.get(size, 0) + float(part.flatten(1).std(dim=1, unbiased=False).sum())
    return {size: total / num for size, total in sums.items()}


def shares(deviations: dict[str, float]) -> dict[str, float]:
    """Parts of their sum, which add up to 1; all 0 where every deviation is."""
    total = sum(deviations.values())
    return {size: value / total if total > 0 else 0.0 for size, value in deviations.items()}


def measure_run(run: Path, num: int, device: torch.device) -> list[dict[str, Any]]:
    """Contributions in each snapshot of a run, in the order of training."""
    results = []
    for kimg, path in find_snapshots(run).items():
        deviations = mean_deviations(load_generator(str(path), device), num, path.name)
        results.append(dict(snapshot=path.name, kimg=kimg, share=shares(deviations), deviation=deviations))
        click.echo(f"{path.name}  " + "  ".join(f"{size} {share:.1%}" for size, share in shares(deviations).items()))
    return results


def draw(snapshots: list[dict[str, Any]], title: str, path: Path) -> bool:
    """The shares stacked against training progress, the coarsest at the bottom. False where matplotlib is missing."""
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        click.echo("matplotlib is not installed: no figure is drawn (pip install matplotlib)", err=True)
        return False
    sizes = list(snapshots[-1]["share"])
    kimg = [snapshot["kimg"] for snapshot in snapshots]
    values = [[100 * snapshot["share"][size] for snapshot in snapshots] for size in sizes]
    if len(kimg) == 1:  # a stripe, as a single point has no width
        kimg, values = [kimg[0], kimg[0] + 1], [[*row, *row] for row in values]
    figure = Figure(figsize=(6.4, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, which would touch the windows and settings of the process
    axes = figure.add_subplot()
    colors = [colormaps["viridis"](i / max(len(sizes) - 1, 1)) for i in range(len(sizes))]
    areas = axes.stackplot(kimg, values, labels=sizes, colors=colors)
    axes.set(xlim=(kimg[0], kimg[-1]), ylim=(0, 100), xlabel="thousands of images", ylabel="share in %")
    axes.set_title(title, fontsize=9)
    figure.legend(areas[::-1], sizes[::-1], loc="outside right center", title="resolution")  # in the order of the areas
    with open_atomic(path) as file:
        figure.savefig(file, format="png")
    return True


@click.command(cls=Command)
@click.option("--run", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of a training run")
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), help="Where to write  [default: --run]")
@click.option("--images", "num", type=click.IntRange(min=1), default=256, show_default=True,
              help="Images per snapshot, of the seeds from 0 on")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N  [default: cuda if there is one]")
def main(run: Path, outdir: Path | None, num: int, device: str | None) -> None:
    """Measure and draw what each resolution of a generator contributes to its images, snapshot by snapshot."""
    outdir, name = run if outdir is None else outdir, run.resolve().name
    where = choose_device(device)
    find_snapshots(run)  # before anything is made
    outdir.mkdir(parents=True, exist_ok=True)
    snapshots = measure_run(run, num, where)
    with open_atomic(outdir / "contributions.json") as file:
        file.write((json.dumps(dict(run=name, images=num, snapshots=snapshots), indent=2) + "\n").encode())
    click.echo(outdir / "contributions.json")
    title = f"Contribution of each resolution\n{textwrap.fill(name, 70)}"
    if draw(snapshots, title, outdir / "contributions.png"):
        click.echo(outdir / "contributions.png")


if __name__ == "__main__":
    main()
