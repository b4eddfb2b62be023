"""Droplets: do feature maps have a spot that outshines the rest? Four layers, trained alike and measured alike.

    python benchmarks/droplets.py --data=castles64.zip --outdir=results/droplets --kimg=10

Each layer of benchmarks/droplet_layers.py gets a small generator, trained from scratch on the same images. Feature maps
have a norm, over the channels, at every position. Heat maps show it, and the droplet score is the largest norm of an
image over its median, the mean of many images. Where a layer normalises, what it normalises is measured, too.

Finished layers are not trained again, and an unfinished one carries on: start the same command once more.

    OUTDIR/<layer>/                     run folder; scores.json and maps.npz once it is finished
    OUTDIR/results.json                 all scores, with settings, commit, hardware and times
    OUTDIR/results.md, heat-maps.png    the tables, and the norms of a few images (needs matplotlib)

Heat maps: Figure 4 of Hong et al. 2020 (arXiv:2006.05394). Droplets: Karras et al. 2020 (arXiv:1912.04958), section 2.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.droplet_layers import LAYERS, make_generator, synthesis_layers
from benchmarks.pareto import current_commit, describe_machine
from benchmarks.pareto_report import markdown_table, training_seconds
from dnnlib.util import UserError, open_atomic
from training.cli import Command, Interrupted
from training.images.generation import seed_to_z, to_uint8
from training.run import run_state
from training.run.construction import load_training_set
from training.training_loop import training_loop

ROOT = Path(__file__).resolve().parents[1]
LEAST_RESOLUTION = 16  # of the feature maps that are measured
BATCH = 16             # images measured at a time
BEFORE = ", before"    # ends the names of activations that are about to be normalised
TITLES = {"adain": "AdaIN", "spade": "SPADE", "modulated": "modulated", "spatial": "spatially modulated"}
TINY: dict[str, Any] = dict(kimg=0.016, images=4, channels=2, block_dim=4, batch=8, shown=1)

Norms = dict[str, np.ndarray]       # layer, or layer + BEFORE -> [N, H, W]
Scores = dict[str, dict[str, float]]  # likewise -> mean, error, largest


# Training


def train_options(layer: str, run_dir: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the training loop: StyleGAN2's loss and discriminator, without path length regularisation."""
    training_set = dict(class_name="training.dataset.ImageFolderDataset", path=settings["data"])
    resolution = load_training_set(training_set, verbose=False).img_resolution
    size = dict(channel_base=settings["channels"] * resolution, channel_max=2 * settings["channels"])
    adam = dict(class_name="torch.optim.Adam", lr=0.0025, betas=[0, 0.99], eps=1e-8)
    return dict(
        run_dir=str(run_dir),
        training_set_kwargs=training_set,
        G_kwargs=dict(class_name="benchmarks.droplet_layers.make_generator", layer=layer, synthesis_kwargs=size,
                      block_z_dim=settings["block_dim"], block_w_dim=settings["block_dim"]),
        D_kwargs=dict(class_name="training.networks.Discriminator", **size),
        G_opt_kwargs=adam, D_opt_kwargs=adam,
        loss_kwargs=dict(class_name="training.loss.StyleGAN2Loss", r1_gamma=1, pl_weight=0),
        G_reg_interval=None,  # there is nothing to regularise
        random_seed=settings["seed"], batch_size=settings["batch"], batch_gpu=settings["batch"], ema_rampup=0.05,
        total_kimg=settings["kimg"], kimg_per_tick=settings["kimg"] / 10, image_snapshot_ticks=10,
        network_snapshot_ticks=1, preview_size=(8, 4), resume_run=True, keep=1,
    )


def build(options: dict[str, Any]) -> torch.nn.Module:
    """The generator of these options as it is before training, for inference."""
    data = load_training_set(options["training_set_kwargs"], verbose=False)
    kwargs = {key: value for key, value in options["G_kwargs"].items() if key != "class_name"}
    torch.manual_seed(options["random_seed"])
    G = make_generator(c_dim=0, img_resolution=data.img_resolution, img_channels=data.num_channels, **kwargs)
    return G.eval().requires_grad_(False)


def load_average(G: Any, run_dir: Path) -> None:
    """Give the network the moving average that a run ended with."""
    saved = run_state.load(run_state.state_paths(str(run_dir))[0])
    own = dict(G.named_parameters()) | dict(G.named_buffers())
    run_state.copy_tensors(saved["networks"]["G_ema"], own, "G_ema.")


# Measurement


@contextmanager
def recorded_norms(G: torch.nn.Module) -> Iterator[dict[str, list[np.ndarray]]]:
    """While the block runs, every pass through G appends the norms of its feature maps, batch by batch."""
    norms: dict[str, list[np.ndarray]] = {}

    def record(name: str, x: torch.Tensor) -> None:
        norms.setdefault(name, []).append(x.float().norm(dim=1).cpu().numpy())

    handles = []
    for path, layer in synthesis_layers(G).items():
        if layer.resolution < LEAST_RESOLUTION:
            continue
        name = path.removeprefix("synthesis.")
        handles.append(layer.register_forward_hook(lambda _m, _args, out, name=name: record(name, out)))
        if hasattr(layer, "norm"):
            handles.append(layer.norm.register_forward_pre_hook(
                lambda _m, args, name=name + BEFORE: record(name, args[0])))
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def measure(G: Any, num: int) -> tuple[np.ndarray, Norms]:
    """Images uint8 [N, H, W, C] of the seeds from 0 on, without truncation, and the norms of their feature maps.

    Without noise: its own extremes, which a layer may weight heavily, are no droplets.
    """
    images = []
    with recorded_norms(G) as norms:
        for start in range(0, num, BATCH):
            z = torch.cat([seed_to_z(seed, G.z_dim) for seed in range(start, min(start + BATCH, num))])
            images.append(to_uint8(G(z, torch.zeros([len(z), 0]), noise_mode="none")))
    return np.concatenate(images), {name: np.concatenate(parts) for name, parts in norms.items()}


def droplet_scores(norms: np.ndarray) -> np.ndarray:
    """Largest over median norm of each image: [N, H, W] -> [N]. Near 1 where no position stands out."""
    flat = norms.reshape(len(norms), -1)
    return flat.max(axis=1) / np.maximum(np.median(flat, axis=1), 1e-12)


def summarise(norms: Norms) -> Scores:
    """Mean score of every layer with its standard error, and the score of the most extreme image."""
    scores = {name: droplet_scores(values.astype(np.float64)) for name, values in norms.items()}
    return {
        name: dict(mean=float(s.mean()), error=float(s.std() / max(len(s) - 1, 1) ** 0.5), largest=float(s.max()))
        for name, s in scores.items()
    }


def make_layer(layer: str, outdir: Path, settings: dict[str, Any]) -> None:
    """Train one generator as far as that is still to be done, and measure it."""
    run_dir = outdir / layer
    run_dir.mkdir(exist_ok=True)
    options = train_options(layer, run_dir, settings)
    G = build(options)
    _images, norms = measure(G, settings["images"])
    untrained = summarise(norms)
    if not training_loop(**options):
        raise Interrupted("Aborted")
    load_average(G, run_dir)
    images, norms = measure(G, settings["images"])
    shown = slice(settings["shown"])
    with open_atomic(run_dir / "maps.npz") as file:
        np.savez_compressed(file, images=images[shown], **{name: values[shown] for name, values in norms.items()})
    result = dict(
        layer=layer, grid=LAYERS[layer][1], parameters=sum(p.numel() for p in G.parameters()),
        seconds=training_seconds(run_dir / "stats.jsonl"), commit=current_commit(), machine=describe_machine(None),
        torch=torch.__version__, threads=torch.get_num_threads(), untrained=untrained, trained=summarise(norms),
    )
    write_json(result, run_dir / "scores.json")


# Report


def write_json(value: Any, path: Path) -> None:
    with open_atomic(path, "w") as file:
        json.dump(value, file, indent=2)


def columns(layers: list[dict[str, Any]], when: str) -> dict[str, Scores]:
    """What every generator's layers put out, then what is about to be normalised; names as in TITLES, or with BEFORE.

    when: trained or untrained.  The scores are named by the layer alone.
    """
    table = {}
    for suffix in ("", BEFORE):
        for entry in layers:
            scores = {name.removesuffix(BEFORE): score for name, score in entry[when].items()
                      if name.endswith(BEFORE) == bool(suffix)}
            if scores:
                table[entry["layer"] + suffix] = scores
    return table


def title(column: str) -> str:
    layer = column.removesuffix(BEFORE)
    return TITLES[layer] + (", before the normalisation" if column != layer else "")


def score_table(layers: list[dict[str, Any]], when: str) -> str:
    """Mean droplet scores as Markdown, a row per layer of the generator."""
    table = columns(layers, when)
    rows = ([name, *(f"{scores[name]['mean']:.2f} ± {scores[name]['error']:.2f}" for scores in table.values())]
            for name in next(iter(table.values())))
    return markdown_table(["layer", *map(title, table)], rows)


def report(results: dict[str, Any]) -> str:
    """results.md"""
    layers, settings = results["layers"], results["settings"]
    costs = markdown_table(
        ["layer", "grid", "parameters of G", "training, seconds", "commit"],
        ([TITLES[entry["layer"]], "x".join(map(str, entry["grid"])), f"{entry['parameters']:,}",
          f"{entry['seconds']:.0f}", entry["commit"]] for entry in layers))
    return "\n\n".join([
        f"# Droplet scores after {settings['kimg']:g} kimg",
        f"Largest over median norm of a feature map, mean of {settings['images']} images and its standard error.",
        score_table(layers, "trained"), "Before training:", score_table(layers, "untrained"), "Runs:", costs,
        f"{layers[0]['machine']}, torch {layers[0]['torch']}, {layers[0]['threads']} thread(s).", ""])


def draw_heat_maps(outdir: Path, layers: list[dict[str, Any]], path: Path) -> bool:
    """Images and the norms of the last layer of each resolution, black for 0. False where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        click.echo("matplotlib is not installed: no heat maps are drawn (pip install matplotlib)", err=True)
        return False
    rows = {column: heat_map_tiles(outdir, column, scores) for column, scores in columns(layers, "trained").items()}
    width = max(map(len, rows.values()))
    figure = Figure(figsize=(1.05 * width + 0.6, 1.3 * len(rows)), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    for row, (column, tiles) in enumerate(rows.items()):
        for number, (name, values) in enumerate(tiles):
            axes = figure.add_subplot(len(rows), width, row * width + number + 1)
            draw_tile(axes, name, values)
            if number == 0:
                axes.set_ylabel(textwrap.fill(title(column), width=14), fontsize=7)
    with open_atomic(path) as file:
        figure.savefig(file, format="png")
    return True


def heat_map_tiles(outdir: Path, column: str, scores: Scores) -> list[tuple[str, np.ndarray]]:
    """Every image that is shown, without a name, and then its heat maps, named by the layer."""
    layer = column.removesuffix(BEFORE)
    names = [name for name in scores if name.endswith("conv1")]
    with np.load(outdir / layer / "maps.npz") as maps:
        return [tile for i, image in enumerate(maps["images"]) for tile in
                [("", image), *((name, maps[name + column.removeprefix(layer)][i]) for name in names)]]


def draw_tile(axes: Any, name: str, values: np.ndarray) -> None:
    """An image [H, W, C], or the heat map of norms [H, W] with its score above."""
    if values.ndim == 3:
        axes.imshow(values.squeeze(), cmap="gray", interpolation="nearest")
    else:
        axes.imshow(values, cmap="inferno", vmin=0, interpolation="nearest")
        axes.set_title(f"{name.partition('.')[0][1:]}: {droplet_scores(values[None])[0]:.1f}", fontsize=7, pad=2)
    axes.set_xticks([])
    axes.set_yticks([])


def write_report(outdir: Path, settings: dict[str, Any]) -> None:
    """Everything about the layers that are finished."""
    paths = [outdir / layer / "scores.json" for layer in LAYERS]
    layers = [json.loads(path.read_text()) for path in paths if path.is_file()]
    results = dict(settings=settings, layers=layers)
    write_json(results, outdir / "results.json")
    with open_atomic(outdir / "results.md", "w", encoding="utf-8") as file:
        file.write(report(results))
    draw_heat_maps(outdir, layers, outdir / "heat-maps.png")


# Command


def claim(outdir: Path, settings: dict[str, Any]) -> None:
    """Make the folder and note what it is for. Raises ValueError if that was something else, or for other images."""
    path = outdir / "settings.json"
    if path.is_file():
        before = json.loads(path.read_text())
        different = [name for name in settings if before.get(name) != settings[name]]
        if different:
            raise UserError(f"{outdir} was made with other settings, choose another --outdir: "
                             f"{', '.join(f'{name} was {before.get(name)}' for name in different)}")
    data = load_training_set(dict(class_name="training.dataset.ImageFolderDataset", path=settings["data"]), False)
    if not isinstance(data.img_resolution, int) or data.img_resolution < LEAST_RESOLUTION:
        raise UserError(f"images must be square and at least {LEAST_RESOLUTION} pixels wide, those of "
                         f"{settings['data']} have shape {data.image_shape}")
    outdir.mkdir(parents=True, exist_ok=True)
    write_json(settings, path)


@click.command(cls=Command)
@click.option("--data", required=True, metavar="PATH", help="Training images: a folder or a zip")
@click.option("--outdir", required=True, metavar="DIR", help="Where everything goes; the same one resumes")
@click.option("--layer", "layers", type=click.Choice(list(LAYERS)), multiple=True, default=list(LAYERS),
              help="May be repeated  [default: all]")
@click.option("--kimg", type=click.FloatRange(min=0, min_open=True), default=10, show_default=True,
              help="Thousands of images for each layer")
@click.option("--channels", type=click.IntRange(min=1), default=8, show_default=True,
              help="At the resolution of the images; twice as many below")
@click.option("--block-dim", type=click.IntRange(min=1), default=32, show_default=True, help="Latent of a block")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images per step")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the training")
@click.option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="Images that are measured")
@click.option("--shown", type=click.IntRange(min=1), default=3, show_default=True, help="Images with heat maps")
@click.option("--tiny", is_flag=True, help="Networks and counts of a test: nonsense in seconds, every file made")
@click.pass_context
def main(ctx: click.Context, **settings: Any) -> None:
    """Compare the feature maps of four layers: AdaIN, SPADE, and modulation that is constant or spatial."""
    if settings.pop("tiny"):
        default = click.core.ParameterSource.DEFAULT
        settings |= {name: value for name, value in TINY.items() if ctx.get_parameter_source(name) is default}
    outdir, chosen = Path(settings.pop("outdir")), settings.pop("layers")
    settings["data"] = str(Path(settings["data"]).absolute())
    claim(outdir, settings)
    for layer in chosen:
        if (outdir / layer / "scores.json").is_file():
            click.echo(f"{TITLES[layer]} is finished")
            continue
        click.echo(f"Training with {TITLES[layer]} ...")
        make_layer(layer, outdir, settings)
        write_report(outdir, settings)
    write_report(outdir, settings)
    click.echo(f"Tables: {outdir / 'results.md'}")


if __name__ == "__main__":
    main()
