"""The ladder of StyleGAN2's Table 1 with its ancestors: train every rung on the same images, and compare.

    python benchmarks/ladder.py --data=castles64.zip --outdir=results/ladder --kimg=400 --grow-kimg=50
    python benchmarks/ladder.py --data=castles32.zip --outdir=results/ladder --kimg=12 --grow-kimg=1.5 --channels=16 \\
        --channels-max=64 --images=500 --train-options='--batch=16 --gamma=0.1 --ema-kimg=1'

Rungs are trained by train.py one after the other. What is finished is not done again: start the same command once more
after an interruption, or with a larger --kimg. F has twice the channels of the others, as in the paper.

    OUTDIR/<cfg>/                    log, run folder, and what was measured: scores.json, usage.json
    OUTDIR/results.md, usage.png     Table 1 and Figure 8 of Karras et al. 2020 (arXiv:1912.04958), as far as possible

Quality is rfid, kid_lite, and precision and recall in the features of EfficientNet-Lite0; path lengths are in W, at
their ends, by ST-LPIPS (both of the extra [features]). The paper's columns need detectors that may not be at hand.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pareto import Workers, current_commit, describe_machine, ends_on_sigterm, script
from benchmarks.pareto_report import finished_run, markdown_table, snapshots_of, training_seconds
from dnnlib.util import UserError, open_atomic
from metrics import (
    detectors,
    efficientnet_lite0,
    metric_main,
    metric_utils,
    perceptual_path_length,
    precision_recall,
    sampling,
    shared_features,
    st_lpips,
)
from training.cli import Command
from training.images.generation import load_generator
from training.lineage.growing import enlarge, reduce

RUNGS = {
    "progan": "Progressive GAN", "msggan": "MSG-GAN", "stylegan": "A  StyleGAN", "stylegan2-b": "B  + demodulation",
    "stylegan2-c": "C  + lazy regularisation", "stylegan2-d": "D  + path length",
    "stylegan2-e": "E  no growing, new G, D", "stylegan2-f": "F  + large networks",
}
GROWING = ("progan", "stylegan", "stylegan2-b", "stylegan2-c", "stylegan2-d")
SKIP = ("stylegan2-e", "stylegan2-f")
BATCH = 50        # images measured at a time
NEIGHBOURS = 3    # of precision and recall
COLUMNS = {"rfid": "rfid", "kid_lite": "kid_lite x 1000", "ppl": "path length", "precision": "precision",
           "recall": "recall", "minutes": "minutes"}


# Training


def train_command(cfg: str, settings: dict[str, Any]) -> list[str]:
    """Start the run of a rung, or carry it on."""
    wider = 2 if cfg == "stylegan2-f" else 1
    grow = [f"--grow-kimg={settings['grow_kimg']:g}"] if cfg in GROWING else []
    return [
        *script("train.py"), f"--outdir={settings['outdir'] / cfg}", f"--data={settings['data']}", f"--cfg={cfg}",
        *grow, f"--grow-channels={wider * settings['channels']}",
        f"--grow-channels-max={wider * settings['channels_max']}",
        f"--kimg={settings['kimg']}", "--tick=1", f"--snap={max(settings['kimg'] // settings['snapshots'], 1)}",
        "--metrics=none", "--resume=latest", f"--gpus={settings['gpus']}", "--aug=noaug", *settings["train_options"],
    ]


# Measurement


def measure(network: Path, data: str, num: int) -> dict[str, float]:
    """Scores of a snapshot, from `num` generated images."""
    G = load_generator(str(network), torch.device("cpu"))
    kwargs: dict[str, Any] = dict(
        G=G, dataset_kwargs=dict(class_name="training.dataset.ImageFolderDataset", path=data),
        device=torch.device("cpu"), seed=0)
    scores: dict[str, float] = {}
    with shared_features.sharing():
        scores["rfid"] = next(iter(metric_main.calc_metric(f"rfid{num}_full", **kwargs).results.values()))
        if efficientnet_lite0.WEIGHTS.find() is not None:
            results = metric_main.calc_metric(f"kid_lite{num}_full", **kwargs).results
            scores["kid_lite"] = 1000 * next(iter(results.values()))
            scores["precision"], scores["recall"] = coverage(metric_utils.MetricOptions(**kwargs), num)
    if st_lpips.WEIGHTS.find() is not None and G.img_resolution >= st_lpips.MIN_SIDE:
        scores["ppl"] = path_length(G, num)
    return scores


def coverage(opts: metric_utils.MetricOptions, num: int) -> tuple[float, float]:
    """Precision and recall (Kynkaanniemi et al. 2019) in features of EfficientNet-Lite0, of `num` images each."""
    how: dict[str, Any] = dict(opts=opts, detector_url=detectors.EFFICIENTNET_URL,
                               detector_kwargs=dict(return_features=True), capture_all=True)
    real = metric_utils.compute_feature_stats_for_dataset(**how, max_items=None).get_all_torch()
    gen = metric_utils.compute_feature_stats_for_generator(**how, max_items=num).get_all_torch()
    return precision_recall.precision_recall(real[:num].float(), gen.float(), NEIGHBOURS)


@torch.no_grad()
def path_length(G: Any, num: int) -> float:
    """PPL in W at the ends of paths, with ST-LPIPS as the perceptual distance."""
    sampler = perceptual_path_length.PPLSampler(
        G=G, G_kwargs={}, epsilon=1e-4, space="w", sampling="end", crop=False, vgg16=st_lpips.load(),
        items=iter(range(num))).eval().requires_grad_(False)
    distances = [sampler(torch.zeros([min(BATCH, num - start), 0])) for start in range(0, num, BATCH)]
    return perceptual_path_length.trimmed_mean(torch.cat(distances).numpy())


@torch.no_grad()
def usage(network: Path, num: int) -> dict[str, dict[str, float]]:
    """How much each resolution contributes to the images: shares of standard deviations, which sum to one.

    bands: of what averaging to half the resolution takes away, which every network has. outputs: of the RGB outputs of
    a network with skip connections, as the paper's Figure 8.
    """
    G = load_generator(str(network), torch.device("cpu"))
    outputs: dict[str, list[torch.Tensor]] = {}
    for name, module in G.synthesis.named_modules():
        if name.endswith(".torgb"):
            module.register_forward_hook(
                lambda _m, _args, out, name=name: outputs.setdefault(name[1:-6], []).append(out))
    images = [sampling.generate_images(G, range(start, min(start + BATCH, num)), 0, torch.device("cpu"))
              for start in range(0, num, BATCH)]
    shares = dict(bands=normalise(bands(torch.cat(images))))
    if outputs:
        shares["outputs"] = normalise({level: float(torch.cat(parts).std()) for level, parts in outputs.items()})
    return shares


def bands(img: torch.Tensor) -> dict[str, float]:
    """Standard deviation of the detail that each resolution from 4 on adds to the one before. [N, C, H, W]"""
    sides = [2**i for i in range(2, img.shape[2].bit_length())]
    levels = [enlarge(reduce(img, [side, side]), list(img.shape[2:])) for side in sides]
    details = [levels[0], *(fine - coarse for fine, coarse in zip(levels[1:], levels))]
    return {str(side): float(detail.std()) for side, detail in zip(sides, details)}


def normalise(values: dict[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total for name, value in values.items()}


def make_rung(cfg: str, settings: dict[str, Any], workers: Workers) -> None:
    """Train and measure what is missing."""
    folder = settings["outdir"] / cfg
    if finished_run(folder, settings["kimg"]) is None:
        workers.run(train_command(cfg, settings), folder / "train.log")
    run = finished_run(folder, settings["kimg"])
    if run is None:
        raise UserError(f"{folder} holds no snapshot of {settings['kimg']} kimg (see {folder / 'train.log'})")
    snapshots = snapshots_of(run)
    newest = snapshots[max(snapshots)]
    key = dict(network=newest.name, images=settings["images"])
    if not is_made(folder / "scores.json", key):
        scores = dict(measure(newest, settings["data"], settings["images"]),
                      minutes=(training_seconds(run / "stats.jsonl") or 0) / 60)
        write_json(folder / "scores.json", dict(key, scores=scores))
    if not is_made(folder / "usage.json", key):
        shares = {kimg: usage(network, min(settings["images"], 200)) for kimg, network in snapshots.items()}
        write_json(folder / "usage.json", dict(key, usage=shares))


def is_made(path: Path, key: dict[str, Any]) -> bool:
    return path.is_file() and key.items() <= json.loads(path.read_text()).items()


def write_json(path: Path, value: Any) -> None:
    with open_atomic(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)


# Report


def write_report(outdir: Path) -> None:
    """results.md and usage.png, of the rungs that are finished."""
    done = [cfg for cfg in RUNGS if (outdir / cfg / "scores.json").is_file()]
    scores = {cfg: json.loads((outdir / cfg / "scores.json").read_text())["scores"] for cfg in done}
    columns = [column for column in COLUMNS if any(column in values for values in scores.values())]
    rows = [[RUNGS[cfg], *(f"{scores[cfg].get(column, float('nan')):.3g}" for column in columns)] for cfg in done]
    settings = json.loads((outdir / "settings.json").read_text())
    with open_atomic(outdir / "results.md", "w", encoding="utf-8") as file:
        file.write(markdown_table(["config", *(COLUMNS[column] for column in columns)], rows) + "\n\n"
                   f"{settings['kimg']} kimg, {settings['images']} images for each score, {settings['machine']}, "
                   f"commit {settings['commit']}.\n")
    shown = {cfg: json.loads((outdir / cfg / "usage.json").read_text())["usage"]
             for cfg in done if (outdir / cfg / "usage.json").is_file()}
    if shown:
        draw_usage(shown, outdir / "usage.png")


def draw_usage(shown: dict[str, Any], path: Path) -> None:
    """Areas of the shares against the training time, a panel for each rung and kind."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    panels = [(cfg, "bands") for cfg in shown] + [(cfg, "outputs") for cfg in SKIP if cfg in shown]
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.4 * rows + 0.4), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False))
    for ax in axes[len(panels):]:
        ax.set_visible(False)
    for ax, (cfg, kind) in zip(axes, panels):
        kimg = [int(at) for at in shown[cfg]]
        sides = list(next(iter(shown[cfg].values()))[kind])
        shares = [[100 * snapshot[kind][side] for snapshot in shown[cfg].values()] for side in sides]
        ax.stackplot(kimg, shares, labels=[f"{side}x{side}" for side in sides])
        ax.set_title(f"{cfg}: {'RGB outputs' if kind == 'outputs' else 'detail of the images'}", fontsize=8)
        ax.set_ylim(0, 100)
        ax.margins(x=0)
        ax.tick_params(labelsize=7)
    figure.supxlabel("thousands of images", fontsize=8)
    figure.supylabel("share of the standard deviation, %", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=5, fontsize=7)
    figure.savefig(path, dpi=110)


def claim(settings: dict[str, Any]) -> None:
    """Write settings.json. ValueError if the folder was made with others; a larger budget carries it on."""
    path = settings["outdir"] / "settings.json"
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    made = dict(plain, commit=current_commit(), machine=describe_machine(settings["gpus"]))
    if path.is_file():
        before = json.loads(path.read_text())
        for name, value in plain.items():
            if before[name] != value and name not in ("outdir", "kimg"):
                raise UserError(f"{path.parent} was made with other settings, choose another --outdir: "
                                f"{name} was {before[name]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, made)


@click.command(cls=Command)
@click.option("--data", required=True, metavar="ZIP", help="Training images, square")
@click.option("--outdir", required=True, metavar="DIR", help="Where everything goes; the same one resumes")
@click.option("--kimg", type=click.IntRange(min=1), default=400, show_default=True, help="Images of every rung")
@click.option("--grow-kimg", type=float, default=50, show_default=True, help="As of train.py, for rungs that grow")
@click.option("--channels", type=click.IntRange(min=1), default=32, show_default=True, help="At full resolution")
@click.option("--channels-max", type=click.IntRange(min=1), default=256, show_default=True, help="At low ones")
@click.option("--images", type=click.IntRange(min=20), default=2000, show_default=True, help="Generated for each score")
@click.option("--snapshots", type=click.IntRange(min=1), default=8, show_default=True, help="For the usage figure")
@click.option("--train-options", default="", help="Further options of train.py for all rungs")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="Of train.py; 0 = the CPU")
@click.option("--only", metavar="CFG,...", help=f"Some of {', '.join(RUNGS)}  [default: all]")
def main(only: str | None, **settings: Any) -> None:
    """Compare Progressive GAN, MSG-GAN and configs A to F on one data set."""
    cfgs = only.split(",") if only else list(RUNGS)
    for cfg in cfgs:
        if cfg not in RUNGS:
            raise UserError(f"--only must be some of {', '.join(RUNGS)}, got {cfg}")
    settings.update(data=str(Path(settings["data"]).absolute()), outdir=Path(settings["outdir"]).absolute(),
                    train_options=shlex.split(settings["train_options"]))
    if not Path(settings["data"]).exists():
        raise UserError(f"--data does not exist: {settings['data']}")
    claim(settings)
    with ends_on_sigterm(), Workers(threads=1) as workers:
        for cfg in cfgs:
            make_rung(cfg, settings, workers)
            write_report(settings["outdir"])
            click.echo(f"{cfg} is finished")
    click.echo((settings["outdir"] / "results.md").read_text())


if __name__ == "__main__":
    main()
