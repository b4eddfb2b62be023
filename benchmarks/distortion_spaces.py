"""Where should distortion be measured? Train SSNs that differ in --distortion-space, and measure all in every space.

    python benchmarks/distortion_spaces.py compare --data=castles32.zip --outdir=results/spaces --kimg=40
    python benchmarks/distortion_spaces.py measure --network=demo:castles64
    python benchmarks/distortion_spaces.py masks --network=demo:castles64
    python benchmarks/distortion_spaces.py probes --network=demo:castles64
    python benchmarks/distortion_spaces.py cost

compare trains one network for each space with train.py, with one --lambda times the weight of the space, and writes a
table and a sheet to judge by: rows of redraws of the same blocks. What is finished is not done again. measure has the
numbers of one network. masks shows what receptive fields that touch the redrawn block do to a distance of features.
probes compares how much each space minds noise, light, blur, and so on. cost prints the time of steps in ratios.

    OUTDIR/<space>/                  log and run folder
    OUTDIR/results.md, sheet.png     the comparison
"""

from __future__ import annotations

import functools
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import PIL.Image
import PIL.ImageDraw
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pareto import Workers, ends_on_sigterm, script
from benchmarks.pareto_report import finished_run, markdown_table, snapshots_of
from benchmarks.training import LAZY_CYCLE, in_turns, make_training, ratio, take_steps, write_images
from dnnlib.util import UserError, open_atomic
from metrics import efficientnet_lite0, metric_main, random_vgg16, st_lpips
from ssn_plugin import page
from ssn_plugin.block_grid import block_grid_of
from ssn_plugin.config import SPACES
from ssn_plugin.distortion import block_mask, mean_inside_change, mean_outside_change
from ssn_plugin.distortion_spaces import VGG_BLOCKS, Change, outside_change_in, unit_length
from ssn_plugin.measures.pairs import measure_pairs, synthesize_pairs
from ssn_plugin.pixels import to_uint8
from training.cli import Command
from training.images.generation import load_generator
from training.plugins import import_plugins

CPU = torch.device("cpu")
# Weight of the distortion in a space against that in pixels: their ratio in demo:castles64 (the command `measure`).
# That of LPIPS, whose file was not at hand, is a guess.
WEIGHTS = {
    "pixels": 1.0, "features": 0.33, "features-efficientnet": 0.063, "features-lpips": 0.33, "wasserstein": 2.4,
}
WITHOUT_FILE = [space for space in SPACES if space != "features-lpips"]
FIELDS = (5, 14, 40)   # pixels that the last activation of each block of VGG16 sees along a side


# Comparison


def train_command(space: str, settings: dict[str, Any]) -> list[str]:
    return [
        *script("train.py"), f"--outdir={settings['outdir'] / space}", f"--data={settings['data']}", "--cfg=ssn-plus",
        f"--distortion-space={space}", f"--lambda={WEIGHTS[space] * settings['lambda_']:g}",
        f"--kimg={settings['kimg']}", "--tick=1", f"--snap={settings['kimg']}", "--metrics=none", "--aug=noaug",
        "--gpus=0", f"--resume={settings['source'] or 'latest'}", *settings["train_options"],
    ]


def spaces_at_hand() -> list[str]:
    """Those that need no file, or whose package is installed."""
    return [space for space in WITHOUT_FILE
            if space != "features-efficientnet" or efficientnet_lite0.WEIGHTS.find() is not None]


def measure_of(space: str, grid: Sequence[int]) -> Change:
    return mean_outside_change if space == "pixels" else outside_change_in(space, grid, CPU)


def measure(G: Any, num: int) -> dict[str, float]:
    """Distortion in every space that needs no file, change inside the block, and distortion by ST-LPIPS."""
    grid = block_grid_of(G, "the network")
    spaces = spaces_at_hand()
    changes = {space: measure_of(space, grid) for space in spaces}

    def measure_all(before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        mask = block_mask(blocks, grid, *before.shape[2:])
        torch.manual_seed(0)   # of the directions
        values = [change(before, after, mask) for change in changes.values()]
        return torch.stack([*values, mean_inside_change(before, after, mask)], dim=1)

    means = measure_pairs(G, num, measure_all).mean(axis=0)
    import_plugins()
    scores = dict(zip([*spaces, "inside"], map(float, means), strict=True))
    if st_lpips.WEIGHTS.find() is not None and G.img_resolution >= st_lpips.MIN_SIDE:
        results = metric_main.calc_metric(f"ssn_stlpips{num}", G=G, device=CPU).results
        scores["ST-LPIPS outside"] = next(value for key, value in results.items() if key.endswith("outside"))
    return scores


def draw_sheet(networks: dict[str, Any], columns: int, path: Path) -> None:
    """A row for each network: an image and redraws of one block, for several blocks."""
    some = next(iter(networks.values()))
    grid = block_grid_of(some, "the network")
    side = 64 * max(1, -(-some.img_resolution // 64))
    size = (page.MARGIN * 2 + 2 * columns * (side + 6), page.MARGIN * 2 + len(networks) * (side + 26))
    canvas = PIL.Image.new("RGB", size, "white")
    draw = PIL.ImageDraw.Draw(canvas)
    for row, (space, G) in enumerate(networks.items()):
        blocks = torch.arange(columns) * 5 % (grid[0] * grid[1])
        before, after = synthesize_pairs(G, range(columns), blocks, 0, CPU)
        mask = block_mask(blocks, grid, *before.shape[2:])[:, None]
        outlined = torch.where(edge_of(mask), torch.ones_like(before), before)
        top = page.MARGIN + row * (side + 26)
        draw.text((page.MARGIN, top), f"trained with --distortion-space={space}", font=page.font(12), fill=page.INK)
        for i in range(columns):
            for k, img in enumerate((outlined[i], after[i])):
                pixels = to_uint8(F.interpolate(img[None], size=[side, side], mode="nearest"))[0]
                x = page.MARGIN + (2 * i + k) * (side + 6)
                canvas.paste(PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy()), (x, top + 18))
    canvas.save(path)


def edge_of(mask: torch.Tensor) -> torch.Tensor:
    """The pixels of a mask [N, 1, H, W] at its border."""
    inner = -F.max_pool2d(-mask.float(), 3, stride=1, padding=1)
    return mask & (inner == 0)


# What receptive fields do


@torch.no_grad()
def compare_masks(network: str, num: int) -> str:
    """Three ways to keep the redrawn block out of a distance of VGG16 features, layer by layer."""
    G = load_generator(network, CPU)
    grid = block_grid_of(G, "the network")
    blocks = torch.arange(num) % (grid[0] * grid[1])
    before, after = synthesize_pairs(G, range(num), blocks, 0, CPU)
    mask = block_mask(blocks, grid, *before.shape[2:])
    inside = torch.where(mask[:, None], after, before)   # nothing changed outside
    outside = torch.where(mask[:, None], before, after)  # nothing changed inside
    vgg = random_vgg16.RandomVGG16().eval()
    layers = [[unit_length(x) for x in vgg.maps((img + 1) * 127.5, VGG_BLOCKS)]
              for img in (before, after, inside, outside)]
    rows = []
    for i, field in enumerate(FIELDS):
        stride = 2**i
        share = F.avg_pool2d(F.pad(mask[:, None].float(), [field // 2] * 4), field, stride=stride)[:, 0]
        height, width = layers[0][i].shape[2:]
        touched = share[:, :height, :width]
        kept = (touched == 0).float()
        base = layers[0][i]
        change, leak, pasted = ((base - layers[k][i]).square().sum(dim=1) for k in (1, 2, 3))
        weighted = 1 - touched
        rows.append([
            f"{field}x{field}", f"{kept.mean():.0%}",
            f"{(leak * weighted).sum() / (change * weighted).sum():.1%}",
            f"{kept.flatten(1).any(dim=1).sum()} of {num}", f"{pasted.sum() / change.sum():.1%}",
        ])
    header = ["receptive field", "positions that touch no redrawn pixel", "weighted: share that comes from inside",
              "pairs with any position left", "pasted: distance against that with nothing masked"]
    return markdown_table(header, rows)


@torch.no_grad()
def probes(network: str, num: int, size: float = 0.002) -> str:
    """What each space minds: changes of one kind and of one mean square in pixels, against noise."""
    G = load_generator(network, CPU)
    grid = block_grid_of(G, "the network")
    blocks = torch.arange(num) % (grid[0] * grid[1])
    img, _ = synthesize_pairs(G, range(num), blocks, 0, CPU)
    mask = block_mask(blocks, grid, *img.shape[2:])
    torch.manual_seed(0)
    kinds = {
        "noise": img + torch.randn_like(img), "brighter": img + 1, "redder": img + torch.eye(3)[0][:, None, None],
        "blurred": F.avg_pool2d(F.pad(img, [1] * 4, mode="replicate"), 3, stride=1),
        "shifted by a pixel": img.roll(1, dims=3), "another picture shines through": img.roll(1, dims=0),
    }
    spaces = ["pixels", *spaces_at_hand()[1:]]
    rows, reference = [], None
    for kind, changed in kinds.items():
        change = changed - img
        change = change * (size / mean_outside_change(img, changed, mask)).sqrt()[:, None, None, None]
        values = [float(measure_of(space, grid)(img, img + change, mask).mean()) for space in spaces]
        reference = reference or values
        rows.append([kind, *(f"{value / noise:.2g}" for value, noise in zip(values, reference))])
    return markdown_table(["change", *spaces], rows)


# Cost


def cost(resolution: int, repeats: int) -> str:
    """CPU time of steps of ssn-plus with distortion in each space, against steps with pixels."""
    spaces = spaces_at_hand()
    with tempfile.TemporaryDirectory() as name:
        path = write_images(Path(name) / "data.zip", resolution)
        runs = {}
        for space in spaces:
            for interval in (1, 4):
                training = make_training(path, cfg="ssn-plus", batch=8, aug="noaug", distortion_space=space,
                                         distortion_interval=interval)
                runs[f"{space} {interval}"] = functools.partial(take_steps, training, LAZY_CYCLE // 4)
        times = in_turns(runs, repeats)
    rows = [[space, *(f"{ratio(times[f'{space} {interval}'], times[f'pixels {interval}']):.2f}" for interval in (1, 4))]
            for space in spaces]
    return markdown_table(["--distortion-space", "at every step", "--distortion-interval=4"], rows)


@click.group()
def main() -> None:
    """Distortion in pixels, in features, and of patches."""


@main.command("compare", cls=Command)
@click.option("--data", required=True, metavar="ZIP", help="Training images")
@click.option("--outdir", required=True, metavar="DIR", help="Where everything goes; the same one resumes")
@click.option("--kimg", type=click.IntRange(min=1), default=40, show_default=True, help="Budget of every network")
@click.option("--spaces", default="pixels,features,wasserstein", show_default=True, help="To train with")
@click.option("--lambda", "lambda_", type=float, default=100, show_default=True, help="Weight, in pixels")
@click.option("--source", metavar="PKL", help="Network that all start from  [default: from scratch]")
@click.option("--pairs", type=click.IntRange(min=2), default=500, show_default=True, help="For every number")
@click.option("--columns", type=click.IntRange(min=1), default=5, show_default=True, help="Pairs on the sheet")
@click.option("--train-options", default="", help="Further options of train.py")
def compare_command(spaces: str, pairs: int, columns: int, **settings: Any) -> None:
    """Train with each space and measure in all."""
    chosen = spaces.split(",")
    for space in chosen:
        if space not in SPACES:
            raise UserError(f"--spaces must be some of {', '.join(SPACES)}, got {space}")
    settings.update(data=str(Path(settings["data"]).absolute()), outdir=Path(settings["outdir"]).absolute(),
                    train_options=shlex.split(settings["train_options"]))
    networks: dict[str, Any] = {}
    rows = []
    with ends_on_sigterm(), Workers(threads=1) as workers:
        for space in chosen:
            folder = settings["outdir"] / space
            if finished_run(folder, settings["kimg"]) is None:
                workers.run(train_command(space, settings), folder / "train.log")
            run = finished_run(folder, settings["kimg"])
            if run is None:
                raise UserError(f"{folder} holds no snapshot of {settings['kimg']} kimg (see {folder / 'train.log'})")
            snapshots = snapshots_of(run)
            networks[space] = load_generator(str(snapshots[max(snapshots)]), CPU)
            scores = measure(networks[space], pairs)
            rows.append([space, *(f"{value:.3g}" for value in scores.values())])
            with open_atomic(settings["outdir"] / "results.md", "w", encoding="utf-8") as file:
                file.write(markdown_table(["trained with", *scores], rows) + "\n")
    draw_sheet(networks, columns, settings["outdir"] / "sheet.png")
    click.echo((settings["outdir"] / "results.md").read_text())


@main.command("masks", cls=Command)
@click.option("--network", required=True, metavar="PKL", help="An SSN of three channels")
@click.option("--pairs", type=click.IntRange(min=1), default=64, show_default=True)
def masks_command(network: str, pairs: int) -> None:
    """Exclude, weigh, or paste?"""
    click.echo(compare_masks(network, pairs))


@main.command("probes", cls=Command)
@click.option("--network", required=True, metavar="PKL", help="An SSN of three channels")
@click.option("--pairs", type=click.IntRange(min=2), default=32, show_default=True)
def probes_command(network: str, pairs: int) -> None:
    """What does each space mind?"""
    click.echo(probes(network, pairs))


@main.command("measure", cls=Command)
@click.option("--network", required=True, metavar="PKL", help="An SSN")
@click.option("--pairs", type=click.IntRange(min=2), default=64, show_default=True)
def measure_command(network: str, pairs: int) -> None:
    """The distortion of a network in every space."""
    scores = measure(load_generator(network, CPU), pairs)
    click.echo(markdown_table(list(scores), [[f"{value:.3g}" for value in scores.values()]]))


@main.command("cost", cls=Command)
@click.option("--resolution", type=int, default=32, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Turns")
def cost_command(resolution: int, repeats: int) -> None:
    """Time of steps in ratios, in turns in one process."""
    torch.set_num_threads(1)
    click.echo(cost(resolution, repeats))


if __name__ == "__main__":
    main()
