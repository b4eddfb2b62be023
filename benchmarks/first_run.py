"""Compare training runs of SSNs: a table of distortion, diversity and locality, and a figure of their loss curves.

    python benchmarks/first_run.py --figure=docs/images/first-run-curves.png RUN_DIR RUN_DIR ...

The numbers belong to the newest snapshot of each run; the curves come from its stats.jsonl.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ssn_plugin.metrics import distortion_statistics  # noqa: E402
from training.cli import Command  # noqa: E402
from training.generation import load_generator  # noqa: E402

CURVES = {
    "Loss/G/loss": "generator loss",
    "Loss/D/loss": "discriminator loss",
    "Loss/ssn/distortion": "distortion",
    "Loss/ssn/diversity": "diversity",
}


def newest_snapshot(run_dir: Path) -> Path:
    snapshots = sorted(run_dir.glob("network-snapshot-*.pkl"))
    if not snapshots:
        raise ValueError(f"{run_dir} holds no network-snapshot-*.pkl")
    return snapshots[-1]


def distortion_weight(run_dir: Path) -> float:
    return json.loads((run_dir / "training_options.json").read_text())["loss_kwargs"]["distortion_weight"]


def read_ticks(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]


def print_table(run_dirs: list[Path], num_pairs: int, seed: int) -> None:
    click.echo(f"| lambda | distortion | diversity | locality | seconds per kimg |   ({num_pairs} pairs, seed {seed})")
    click.echo("|---|---|---|---|---|")
    for run_dir in run_dirs:
        G = load_generator(str(newest_snapshot(run_dir)), torch.device("cpu"))
        numbers = distortion_statistics(G, num_pairs=num_pairs, seed=seed)
        cells = [f"{e.value:.3g} ({e.low:.3g} to {e.high:.3g})" for e in
                 (numbers[name] for name in ("distortion", "diversity", "locality"))]
        last = read_ticks(run_dir)[-1]
        pace = last["Timing/total_sec"]["mean"] / last["Progress/kimg"]["mean"]
        click.echo(f"| {distortion_weight(run_dir):g} | {' | '.join(cells)} | {pace:.1f} |")


def draw_curves(run_dirs: list[Path], path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 5.5), sharex=True, layout="constrained")
    for number, run_dir in enumerate(run_dirs):
        ticks = read_ticks(run_dir)
        for axis, (name, title) in zip(axes.flat, CURVES.items(), strict=True):
            points = [(t["Progress/kimg"]["mean"], t[name]["mean"]) for t in ticks if name in t]
            if points:
                label = f"lambda {distortion_weight(run_dir):g}"
                axis.plot(*zip(*points, strict=True), color=f"C{number}", label=label)
            axis.set_title(title, fontsize=10)
            if name.startswith("Loss/ssn"):
                axis.set_yscale("log")
    for axis in axes[1]:
        axis.set_xlabel("thousands of images")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)


@click.command(cls=Command)
@click.argument("run_dirs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--figure", metavar="PNG", help="Draw the loss curves (needs matplotlib)")
@click.option("--num-pairs", type=click.IntRange(min=2), default=2000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(run_dirs: tuple[Path, ...], figure: str | None, num_pairs: int, seed: int) -> None:
    """Compare training runs of SSNs that differ in lambda."""
    if figure is not None:
        draw_curves(list(run_dirs), figure)
    print_table(list(run_dirs), num_pairs, seed)


if __name__ == "__main__":
    main()
