"""How low a distortion do these images allow? The bound of benchmarks/bound.py, and what networks do.

    python benchmarks/distortion_bound.py --data=castles64.zip --blocks=4x4
    python benchmarks/distortion_bound.py --data=castles64.zip --network='lambda 0=a.pkl' \\
        --network='lambda 100=b.pkl' --point='lambda 300=0.00181,0.0314' --outdir=results/bound

What all blocks of an image share (the time of day) correlates them, and a grid of independent latents can draw that
only by distorting. The first table says how much, for a network whose variances along the principal components are
those of the images: the least distortion for each diversity inside the redrawn block. If that is more than a
lambda would leave, variety will go, or a global code is needed (--cfg=ssn-plus).

The second table compares networks. For the first components of the images (--components) it holds their variance in
the network's images as a share of that in the data, the largest share that distortion and diversity of the network
allow, and what moves the components: redrawn blocks, noise maps, the global code. What these three allow bounds the
variance from above (Efron and Stein). A --point is a network that is known by its distortion and diversity only.

    OUTDIR/distortion_bound.json    all numbers
    OUTDIR/distortion_bound.png     variance against distortion (needs matplotlib)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bound import Components, DistortionBound, distortion_bound, principal_components
from dnnlib.util import UserError, open_atomic
from ssn_plugin.block_grid import block_grid_of, first_block
from ssn_plugin.config import parse_block_grids
from ssn_plugin.distortion import block_mask, mean_inside_change, mean_outside_change
from ssn_plugin.edits.resample import keyed_normal
from ssn_plugin.measures.pairs import (
    FRESH_STREAM,
    LATENT_STREAM,
    draw_labels,
    draw_noise,
    measure_pairs,
    run_network,
)
from torch_utils.devices import choose_device
from training.cli import Command
from training.dataset import ImageFolderDataset
from training.images.generation import load_generator

BATCH = 64  # images at a time


def image_batches(path: str) -> Iterator[torch.Tensor]:
    """All images of a folder or zip, [N, C, H, W] in -1..1."""
    data = ImageFolderDataset(path)
    for start in range(0, len(data), BATCH):
        images = [data[i][0] for i in range(start, min(start + BATCH, len(data)))]
        yield torch.from_numpy(np.stack(images)).float() / 127.5 - 1


def measure_network(G: Any, components: Components, num: int, pairs: int) -> dict[str, float]:
    """Distortion, diversity, and the first `num` components: their variance, and the bounds of Efron and Stein for it.

    blocks, noise, global code: half the mean squared change of the components where each of them is redrawn, added up
    over the blocks.
    """
    grid = block_grid_of(G, "the network")

    def measure(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        resampled = block_mask(blocks, grid, *before.shape[2:])
        change = [mean_outside_change(before, after, resampled), mean_inside_change(before, after, resampled)]
        projected = [components.project(img)[:, :num] for img in (before, after)]
        return torch.cat([torch.stack(change, dim=1), *projected], dim=1)

    values = measure_pairs(G, pairs, measure).astype(np.float64)
    before, after = values[:, 2 : 2 + num], values[:, 2 + num :]
    noise, shared = other_changes(G, components, num, pairs)
    return dict(
        distortion=values[:, 0].mean(), diversity=values[:, 1].mean(), variance=before.var(axis=0).sum(),
        blocks=grid[0] * grid[1] * half_change(before, after), noise=noise, global_code=shared,
    )


@torch.no_grad()
def other_changes(G: Any, components: Components, num: int, count: int) -> tuple[float, float]:
    """Half the mean squared change of the first components with fresh noise maps, and with coarser grids redrawn."""
    device = next(G.parameters()).device
    coarser = first_block(G.block_grid) * G.block_z_dim
    rows: list[list[np.ndarray]] = [[], [], []]
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        z, fresh = (torch.cat([keyed_normal([1, G.z_dim], stream, 0, i) for i in numbers])
                    for stream in (LATENT_STREAM, FRESH_STREAM))
        c = draw_labels(G, numbers, 0, None)
        noise, other_noise = (draw_noise(G, [i + offset for i in numbers], 0, device) for offset in (0, count))
        redrawn = torch.cat([fresh[:, :coarser], z[:, coarser:]], dim=1)
        for kept, (latents, maps) in zip(rows, ((z, noise), (z, other_noise), (redrawn, noise)), strict=True):
            kept.append(components.project(run_network(G, latents, c, maps, device))[:, :num].cpu().numpy())
    before, with_noise, with_code = (np.concatenate(parts).astype(np.float64) for parts in rows)
    return half_change(before, with_noise), half_change(before, with_code)


def half_change(before: np.ndarray, after: np.ndarray) -> float:
    """Half the mean squared length of the change of components [N, K]."""
    return float(np.square(after - before).sum(axis=1).mean() / 2)


def parse_named(networks: Sequence[str], points: Sequence[str]) -> tuple[dict[str, str], dict[str, list[float]]]:
    """Files of the networks, and distortion and diversity of the points, by name."""
    named: dict[str, str] = {}
    for option, texts in (("network", networks), ("point", points)):
        for text in texts:
            name, _equals, value = (part.strip() for part in text.partition("="))
            if not (name and value):
                raise UserError(f"--{option} must be NAME=..., got {text!r}")
            if name in named:
                raise UserError(f"--{option} must have a name of its own, got {name} twice")
            named[name] = value
    names = list(named)
    return ({name: named[name] for name in names[: len(networks)]},
            {name: parse_numbers(named[name], "point", 2) for name in names[len(networks) :]})


def parse_numbers(text: str, option: str, count: int | None = None) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or count not in (None, len(numbers)) or not all(0 <= x < np.inf for x in numbers):
        raise UserError(f"--{option} must be {count or 'some'} numbers from 0 with commas between, got {text!r}")
    return numbers


def least_table(bound: DistortionBound, diversities: Sequence[float]) -> Iterator[str]:
    yield "| diversity | least distortion | asked for by the first | the first alone |"
    yield "| --- | --- | --- | --- |"
    first = DistortionBound(*(values[:1] for values in bound))
    for diversity in diversities:
        least, num = bound.least_distortion(diversity)
        yield f"| {diversity:g} | {least:.4f} | {num} | {first.least_distortion(diversity)[0]:.4f} |"


def network_table(rows: dict[str, dict[str, float]]) -> Iterator[str]:
    """Shares of the variance of the data; a dash where a network is known by two numbers only."""
    yield "| network | distortion | diversity | variance | at most, of blocks | from blocks | noise | global code |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, row in rows.items():
        shares = [f"{row[key]:.1%}" if key in row else "-" for key in
                  ("variance", "at_most", "blocks", "noise", "global_code")]
        yield f"| {name} | {row['distortion']:.3g} | {row['diversity']:.3g} | {' | '.join(shares)} |"


def draw(rows: dict[str, dict[str, float]], bound: DistortionBound, num: int, path: Path) -> bool:
    """Variance against distortion, and what no grid of blocks can have. False where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        click.echo("matplotlib is not installed: no figure is drawn (pip install matplotlib)", err=True)
        return False
    figure = Figure(figsize=(6.4, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, which would touch the windows and settings of the process
    axes = figure.add_subplot()
    found, diversity = ([row[key] for row in rows.values()] for key in ("distortion", "diversity"))
    top = 100 * max(1.2, *(1.1 * row.get("variance", 0) for row in rows.values()))
    distortion = np.geomspace(min(found) / 2, max(found) * 2, 200)
    most = [100 * bound.largest_variance(d, max(diversity))[num - 1] / bound.variance[num - 1] for d in distortion]
    axes.fill_between(distortion, most, max(top, *most), color="0.9", label="not with blocks alone")
    axes.axhline(100, color="gray", linewidth=0.8, linestyle="--", label="the images")
    for number, (name, row) in enumerate(rows.items()):
        known = "variance" in row
        axes.plot(row["distortion"], 100 * row["variance" if known else "at_most"], "o" if known else "v",
                  color=f"C{number % 10}", label=name if known else f"{name}, at most")
    axes.set(xscale="log", xlim=(distortion[0], distortion[-1]), ylim=(0, top), xlabel="distortion",
             ylabel="variance, % of that of the images")
    axes.set_title(f"First {num} principal components" if num > 1 else "First principal component", fontsize=10)
    axes.legend(fontsize=8)
    with open_atomic(path) as file:
        figure.savefig(file, format="png")
    return True


@click.command(cls=Command)
@click.option("--data", required=True, metavar="PATH", help="Training images: a folder or a zip")
@click.option("--blocks", default="4x4", show_default=True, metavar="RxC", help="Grid whose blocks are redrawn")
@click.option("--diversity", default="0.02,0.05,0.1,0.2", show_default=True, metavar="NUM,...",
              help="Mean squared changes inside a redrawn block")
@click.option("--network", "networks", multiple=True, metavar="NAME=PKL", help="SSN to measure; may be repeated")
@click.option("--point", "points", multiple=True, metavar="NAME=DISTORTION,DIVERSITY",
              help="SSN that was measured elsewhere; may be repeated")
@click.option("--components", "num", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Principal components that networks are compared in")
@click.option("--pairs", type=click.IntRange(min=2), default=2000, show_default=True, help="For each network")
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), help="Where to write  [default: nowhere]")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N  [default: cuda if there is one]")
def main(
    data: str, blocks: str, diversity: str, networks: Sequence[str], points: Sequence[str], num: int, pairs: int,
    outdir: Path | None, device: str | None,
) -> None:
    """Bound the distortion of independent blocks from below by what images have in common across blocks."""
    diversities = parse_numbers(diversity, "diversity")
    grid = parse_block_grids(blocks)[-1]
    files, known = parse_named(networks, points)
    generators = {name: load_generator(path, choose_device(device)) for name, path in files.items()}
    for name, G in generators.items():
        own = block_grid_of(G, name)
        if own != grid:
            raise UserError(f"--blocks must be the {own[0]}x{own[1]} of {name}, got {blocks}")

    components = principal_components(image_batches(data), grid)
    num = min(num, len(components.variances))
    bound = distortion_bound(components, grid)
    shares = components.variances[:3] / components.total
    click.echo(f"Variance per value: {components.total:.4f}, of it {', '.join(f'{share:.1%}' for share in shares)} "
               f"along the first principal components\n")
    click.echo("\n".join(least_table(bound, diversities)))

    rows = {name: measure_network(G, components, num, pairs) for name, G in generators.items()}
    rows |= {name: dict(distortion=values[0], diversity=values[1]) for name, values in known.items()}
    for row in rows.values():
        row["at_most"] = bound.largest_variance(row["distortion"], row["diversity"])[num - 1]
        for key in row.keys() & {"variance", "at_most", "blocks", "noise", "global_code"}:
            row[key] /= bound.variance[num - 1]
    if rows:
        click.echo(f"\nFirst {num} components, in shares of their variance in the images:\n")
        click.echo("\n".join(network_table(rows)))
    if outdir is not None:
        write_report(outdir, data, components, bound, diversities, rows, num)


def write_report(
    outdir: Path, data: str, components: Components, bound: DistortionBound, diversities: Sequence[float],
    rows: dict[str, dict[str, float]], num: int,
) -> None:
    """All numbers as JSON, and the figure where there are networks."""
    outdir.mkdir(parents=True, exist_ok=True)
    found = dict(
        data=Path(data).name, total_variance=components.total, variances=components.variances.tolist(),
        least_distortion={f"{value:g}": bound.least_distortion(value)[0] for value in diversities},
        components=num, networks=rows,
    )
    with open_atomic(outdir / "distortion_bound.json") as file:
        file.write((json.dumps(found, indent=2) + "\n").encode())
    click.echo(f"\n{outdir / 'distortion_bound.json'}")
    if rows and draw(rows, bound, num, outdir / "distortion_bound.png"):
        click.echo(outdir / "distortion_bound.png")


if __name__ == "__main__":
    main()
