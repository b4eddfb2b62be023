"""Compare training runs of SSNs: a table of distortion, diversity and locality, and a figure of their loss curves.

    python benchmarks/first_run.py --figure=docs/images/first-run-curves.png RUN_DIR RUN_DIR ...
    python benchmarks/first_run.py --labels='linear reward,logarithmic reward' RUN_DIR RUN_DIR

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
from training.images.generation import load_generator  # noqa: E402

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


def default_label(run_dir: Path) -> str:
    options = json.loads((run_dir / "training_options.json").read_text())
    return f"lambda {options['loss_kwargs']['distortion_weight']:g}"


def read_ticks(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]


def print_table(runs: dict[str, Path], num_pairs: int, seed: int) -> None:
    click.echo(f"| run | distortion | diversity | locality | seconds per kimg |   ({num_pairs} pairs, seed {seed})")
    click.echo("|---|---|---|---|---|")
    for label, run_dir in runs.items():
        G = load_generator(str(newest_snapshot(run_dir)), torch.device("cpu"))
        numbers = distortion_statistics(G, num_pairs=num_pairs, seed=seed)
        cells = [f"{e.value:.3g} ({e.low:.3g} to {e.high:.3g})" for e in
                 (numbers[name] for name in ("distortion", "diversity", "locality"))]
        last = read_ticks(run_dir)[-1]
        pace = last["Timing/total_sec"]["mean"] / last["Progress/kimg"]["mean"]
        click.echo(f"| {label} | {' | '.join(cells)} | {pace:.1f} |")


def draw_curves(runs: dict[str, Path], path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 5.5), sharex=True, layout="constrained")
    for number, (label, run_dir) in enumerate(runs.items()):
        ticks = read_ticks(run_dir)
        for axis, (name, title) in zip(axes.flat, CURVES.items(), strict=True):
            points = [(t["Progress/kimg"]["mean"], t[name]["mean"]) for t in ticks if name in t]
            if points:
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
@click.option("--labels", metavar="TEXT,...", help="What the runs are called, in their order  [default: their lambda]")
@click.option("--num-pairs", type=click.IntRange(min=2), default=2000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(run_dirs: tuple[Path, ...], figure: str | None, labels: str | None, num_pairs: int, seed: int) -> None:
    """Compare training runs of SSNs."""
    names = labels.split(",") if labels else [default_label(run_dir) for run_dir in run_dirs]
    if len(names) != len(run_dirs) or len(set(names)) != len(names):
        raise ValueError(f"--labels must name each of the {len(run_dirs)} runs differently, got {', '.join(names)}")
    runs = dict(zip(names, run_dirs, strict=True))
    if figure is not None:
        draw_curves(runs, figure)
    print_table(runs, num_pairs, seed)


if __name__ == "__main__":
    main()
