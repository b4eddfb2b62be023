"""Make a demo model out of a snapshot: a small network file `models/NAME.pkl` and its card `models/NAME.md`.

    python calc_metrics.py --network=SNAPSHOT --metrics=rfid5k_full,ssn_distortion1k --gpus=0
    python benchmarks/demo_model.py --network=SNAPSHOT --name=castles64 --title='Drawn castles, 64x64 pixels' \\
        --licence=Apache-2.0 --command='python dataset_tool.py ...' --command='python train.py ...'

Every number of the card comes from a file: the network, training_options.json and stats.jsonl of its run, and the
metric-*.jsonl that calc_metrics.py has written about these very weights.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dnnlib.util import UserError, format_time, hash_file, open_atomic
from metrics.content_hash import hash_state
from metrics.report import format_table, read_results
from ssn_plugin.files import save_png
from training.cli import Command
from training.formats import network_export, network_names
from training.formats.card import LIMITS, describe_networks
from training.images.generation import seed_to_z, to_uint8
from training.images.pictures import scale_up
from training.network_files import load_networks
from training.networks import side_lengths
from training.plugins import import_cfgs
from training.run.run_folders import recorded_args

MAX_BYTES = 6_000_000  # per model, so that a clone of the repository stays quick
MAX_TITLE = 80         # letters; `--network=help` shows it beside the name
SAMPLES = (10, 2)      # columns, rows
SETTINGS = {           # key of loss_kwargs -> how the card calls it
    "r1_gamma": "R1", "pl_weight": "path length", "distortion_weight": "distortion (lambda)",
    "distortion_interval": "steps from term to term", "diversity_weight": "diversity", "diversity_cap": "up to",
    "diversity_reward": "shape",
}


def strip(networks: Mapping[str, Any]) -> dict[str, Any]:
    """What a demo model keeps: the averaged generator, which stands in for the other one, and the discriminator.

    The path of the data set and the augmentation are of no use elsewhere; without its discriminator, the network could
    not be trained further.
    """
    return dict(G=networks["G_ema"], D=networks["D"], G_ema=networks["G_ema"])


def save_model(networks: Mapping[str, Any], path: Path) -> None:
    """Write the network file. Raises ValueError, and leaves an earlier one, if it is larger than MAX_BYTES."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder, path.name)
        network_export.save_networks(networks, new)
        if new.stat().st_size > MAX_BYTES:
            raise UserError(f"a demo model must have at most {MAX_BYTES:,} bytes, {path} would have "
                             f"{new.stat().st_size:,}")
        os.replace(new, path)


def results_of(G: Any, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The newest result of each metric in the folders that belongs to the weights of `G`.

    Raises ValueError if there is none.
    """
    weights = hash_state(G)
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(path for folder in folders for path in folder.glob("metric-*.jsonl")):
        for result in read_results(str(path)):
            older = found.get(result["metric"], {}).get("timestamp", 0)
            if result.get("provenance", {}).get("network") == weights and result.get("timestamp", 0) >= older:
                found[result["metric"]] = result
    if not found:
        raise UserError(f"{' and '.join(map(str, folders))}: no metric-*.jsonl has a result of this network; "
                         "calc_metrics.py --outdir=DIR makes them, --results=DIR names their folder")
    return [found[name] for name in sorted(found)]


def training_progress(run_dir: Path, kimg: int) -> dict[str, float]:
    """Statistics of the run by name, at the tick that saved the snapshot of `kimg`."""
    ticks = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    means = [{name: value["mean"] for name, value in tick.items() if isinstance(value, dict)} for tick in ticks]
    reached = [tick for tick in means if int(tick["Progress/kimg"]) == kimg]
    if not reached:
        raise UserError(f"{run_dir}/stats.jsonl has no tick at {kimg} kimg, where the snapshot was saved")
    return reached[-1]


def snapshot_kimg(snapshot: Path) -> int:
    """Thousands of training images, from the name that train.py gives its snapshots."""
    match = re.fullmatch(r"network-snapshot-(\d+)\.pkl", snapshot.name)
    if match is None:
        raise UserError(f"--network must be a network-snapshot-*.pkl in the folder of its run, got {snapshot}")
    return int(match[1])


def data_sentence(args: Any) -> str:
    data = args.training_set_kwargs
    mirrored = "and their mirror images" if data.get("xflip") else "without mirror images"
    labels = ", with labels" if data.get("use_labels") else ""
    height, width = side_lengths(data.resolution)
    return f"`{Path(data.path).name}`: {data.max_size:,} images of {width}x{height} pixels, {mirrored}{labels}."


def training_rows(args: Any, progress: Mapping[str, float], hardware: str | None) -> list[tuple[str, str]]:
    """How the network was trained, as rows of a table."""
    weights = {key: value for key, value in args.loss_kwargs.items() if value}
    if "diversity_weight" not in weights:  # then there is nothing to cap
        weights = {key: value for key, value in weights.items() if not key.startswith("diversity")}
    texts = {key: value if isinstance(value, str) else f"{value:g}" for key, value in weights.items()}
    loss = [f"{words} {texts[key]}" for key, words in SETTINGS.items() if key in texts]
    synthesis = args.G_kwargs.get("synthesis_kwargs", {})
    kimg, seconds = progress["Progress/kimg"], progress["Timing/total_sec"]
    rows = [
        ("Images seen", f"{kimg:.0f} thousand, {args.batch_size} at a time"),
        ("Time", f"{format_time(seconds)}, {seconds / kimg:.0f} s for a thousand images"),
        ("Weights of the loss terms", ", ".join(loss)),
        ("Learning rate", f"{args.G_opt_kwargs.lr:g} (G), {args.D_opt_kwargs.lr:g} (D)"),
        ("Moving average", f"half-life of {args.ema_kimg:g} thousand images"),
        ("Channels", f"{synthesis['channel_base']} by resolution, at most {synthesis['channel_max']}"),
        ("Augmentation", "adaptive" if args.get("ada_target") else "fixed" if args.get("augment_p") else "none"),
        ("Random seed", str(args.random_seed)),
    ]
    return rows[:2] + ([("Hardware", hardware)] if hardware else []) + rows[2:]


def origin_of_result(result: Mapping[str, Any]) -> str:
    """What a result depends on besides the network, in one line."""
    facts = result["provenance"]
    counts = [f"{facts[key]:,} {words}" for key, words in (
        ("num_generated", "generated images"), ("num_pairs", "pairs"), ("num_real", "real images")) if key in facts]
    torch = facts.get("versions", {}).get("torch")
    return ", ".join([f"- `{result['metric']}`: seed {facts['seed']}", *counts, f"on {facts['device']}",
                      *([f"torch {torch}"] if torch else [])])


def card_text(
    name: str, title: str, model: Path, networks: Mapping[str, Any], training: Sequence[tuple[str, str]],
    data: str, results: Sequence[Mapping[str, Any]], licence: str, commands: Sequence[str], limits: str | None,
    samples: str | None = None,
) -> str:
    """The card of a demo model, in Markdown. samples: path of their picture, from the card."""
    about = [
        *describe_networks(networks), ("Licence", licence),
        ("File", f"{model.stat().st_size:,} bytes, SHA-256 `{hash_file(model)}`"),
    ]
    block = " --resample-block=1,2" if hasattr(networks["G_ema"], "block_grid") else ""
    lines = [f"# {name}: {title}", "", *table(about), "## Use", ""]
    lines += code(f"python generate.py --network={network_names.DEMO_PREFIX}{name} --seeds=0-3{block} --outdir=out")
    lines += ["The file holds the averaged generator and the discriminator, unrounded (float32).",
              f"To train it further: `train.py --resume={network_names.DEMO_PREFIX}{name}`.", ""]
    if samples is not None:
        lines += ["## Samples", "", f"![Seeds 0 to {SAMPLES[0] * SAMPLES[1] - 1}]({samples})", "",
                  f"Seeds 0 to {SAMPLES[0] * SAMPLES[1] - 1}, not chosen, without truncation, twice as large.", ""]
    lines += ["## Data", "", data, "", "## Training", "", *table(training), *code(*commands)]
    lines += ["## Metrics", "", *code(*format_table([dict(result) for result in results]).splitlines())]
    lines += ["Brackets hold 95 % intervals; docs/metrics.md says what each number means.", ""]
    lines += [*map(origin_of_result, results), ""]
    lines += ["## Limits", "", " ".join([LIMITS, *([limits] if limits else [])]), ""]
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]


def code(*lines: str) -> list[str]:
    return [*(f"    {line}" for line in lines), ""]


@torch.no_grad()
def draw_samples(G: torch.nn.Module, path: Path) -> None:
    """The images of the first seeds side by side, twice as large."""
    columns, rows = SAMPLES
    c = torch.zeros([1, G.c_dim])
    images = [to_uint8(G(seed_to_z(seed, G.z_dim), c, noise_mode="const"))[0] for seed in range(columns * rows)]
    page = np.concatenate([np.concatenate(images[i : i + columns], axis=1) for i in range(0, len(images), columns)])
    save_png(scale_up(page, 2), path)


@click.command(cls=Command)
@click.option("--network", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="PKL",
              help="Snapshot, in the folder of its run")
@click.option("--name", required=True, metavar="NAME", help="demo:NAME is what the network will be called")
@click.option("--title", required=True, metavar="TEXT", help="What it shows, in a few words")
@click.option("--licence", required=True, metavar="TEXT", help="Of the network, which that of its data may restrict")
@click.option("--command", "commands", multiple=True, required=True, metavar="LINE",
              help="How data and network were made; may be repeated")
@click.option("--results", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
              help="Where metric-*.jsonl are; may be repeated  [default: the run's folder]")
@click.option("--hardware", metavar="TEXT", help="On what it was trained")
@click.option("--samples", type=click.Path(dir_okay=False, path_type=Path), metavar="PNG",
              help="Draw the first seeds there, and show them in the card")
@click.option("--limits", metavar="TEXT", help="What the network does badly, in a sentence")
def main(
    network: Path, name: str, title: str, licence: str, commands: tuple[str, ...], results: tuple[Path, ...],
    hardware: str | None, limits: str | None, samples: Path | None,
) -> None:
    """Make a demo model and its card out of a snapshot."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UserError(f"--name must consist of small letters, digits and hyphens, got {name}")
    if not title.isprintable() or len(title) > MAX_TITLE:
        raise UserError(f"--title must be a line of at most {MAX_TITLE} letters, got {title!r}")
    import_cfgs()  # whose classes the options of the run name
    run_dir = network.parent
    progress, args = training_progress(run_dir, snapshot_kimg(network)), recorded_args(str(run_dir))
    networks = strip(load_networks(str(network)))
    measured = results_of(networks["G_ema"], results or [run_dir])

    network_names.MODELS_DIR.mkdir(exist_ok=True)
    model = network_names.MODELS_DIR / f"{name}.pkl"
    save_model(networks, model)
    card = model.with_suffix(".md")
    if samples is not None:
        draw_samples(networks["G_ema"], samples)
    shown = None if samples is None else Path(os.path.relpath(samples, card.parent)).as_posix()
    with open_atomic(card, "w", encoding="utf-8") as file:
        file.write(card_text(
            name, title, model, networks, training_rows(args, progress, hardware), data_sentence(args), measured,
            licence, commands, limits, shown))
    click.echo(f"{model}  {model.stat().st_size:,} bytes\n{card}")


if __name__ == "__main__":
    main()
