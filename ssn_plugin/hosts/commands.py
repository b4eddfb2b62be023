"""`generate` and `metrics` for hosts whose own scripts know nothing of the plugin.

They have the options that such scripts have, and those of the plugin. This project's own host brings both commands.
"""

from __future__ import annotations

import math
import os
import re
import types
from typing import TYPE_CHECKING, Any

import click

from ssn_plugin.errors import UserError
from ssn_plugin.hosts import host

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**32 - 1    # numpy's RandomState takes no more
MAX_IMAGES = 1_000_000  # per run; a longer list is a slip of the keyboard
DATASET_CLASS = "training.dataset.ImageFolderDataset"

network_option = click.option("--network", required=True, metavar="PATH|URL", help="Network file: path or URL")
trust_option = click.option(
    "--trust-pickle", is_flag=True, help="Run code that the network file carries; only for files you trust"
)


@click.command("generate", epilog="""\b
Examples:
  python -m ssn_plugin generate --network=ssn.pkl --seeds=3 --resample-block=1,2 --outdir=out
  python -m ssn_plugin generate --network=ssn.pkl --seeds=0-7 --trunc=0.7 --outdir=out
""")
@network_option
@click.option("--seeds", metavar="LIST", help="Image seeds, e.g. 1,5,9 or 0-7")
@click.option("--trunc", type=float, default=1, show_default=True, help="Truncation psi")
@click.option("--class", "class_idx", type=click.IntRange(min=0), metavar="INT", help="Class of a conditional network")
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True,
              help="Noise maps: those of the network, fresh ones, or none")
@click.option("--outdir", required=True, metavar="DIR", help="Where to write the images")
@click.option("--resample-block", metavar="BLOCKS",
              help="Redraw these blocks: 1,2 or 6 or 1,2+1,3 or all or keep:1,2; 1x1:0 names another grid")
@click.option("--resample-mask", metavar="PNG", help="Redraw where this picture of the image's size is white")
@click.option("--variants", type=click.IntRange(1, 999), default=8, show_default=True, metavar="INT",
              help="How many alternatives to draw")
@click.option("--resample-layers", metavar="LAYERS", help="Redraw only coarse, middle or fine layers, or A-B")
@click.option("--resample-noise", is_flag=True, help="Redraw the noise maps at that place too")
@click.option("--variant-seed", type=click.IntRange(0, MAX_SEED - 999), default=0, show_default=True, metavar="INT",
              help="Skip this many variants, to see others")
@click.option("--transplant-from", type=click.IntRange(0, MAX_SEED), metavar="SEED",
              help="Take the latents from the image of this seed instead of drawing them")
@click.option("--recipe", "recipe_file", metavar="FILE", help="Make the images of this recipe again, or go on from it")
@click.option("--pick", type=click.IntRange(min=0), metavar="INT", help="Keep this variant of the recipe, 0 = none")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N  [default: a GPU if there is one]")
@trust_option
def generate(network: str, outdir: str, device: str | None, trust_pickle: bool, **options: Any) -> None:
    """Generate images, and redraw parts of them; an edit recipe beside each image replays it."""
    opts = types.SimpleNamespace(**options)
    _check_combination(opts)
    seed_list = [] if opts.seeds is None else parse_seeds(opts.seeds)
    adapter = host.require()
    from ssn_plugin.edits import edit_options, recipe_files, resample, resample_report
    from ssn_plugin.edits.open_network import OpenNetwork

    redraws = opts.resample_block is not None or opts.resample_mask is not None
    recipes = []
    if opts.recipe_file is not None:
        recipes = [recipe_files.open_recipe(opts.recipe_file, opts.pick, goes_on=redraws)]
    mask = None if opts.resample_mask is None else edit_options.load_mask(opts.resample_mask)
    where = _pick_device(device)
    G = adapter.load_networks(network, trust=trust_pickle)["G_ema"].eval().requires_grad_(False).to(where)
    name = os.path.basename(network)
    if G.c_dim and opts.class_idx is None and not recipes:
        raise click.UsageError(f"the network is conditional: choose one of its classes with --class=0..{G.c_dim - 1}")
    opened = OpenNetwork.of(G, name, network)
    if not recipes:
        recipes = resample.start_recipes(
            G, name, seed_list, opts.class_idx, opts.trunc, opts.noise_mode, opened.sha256)
    if redraws:
        request = edit_options.EditRequest(
            opts.resample_block, mask, opts.resample_layers, opts.resample_noise, opts.variants, opts.variant_seed,
            opts.transplant_from,
        )
        recipes = request.add_to(recipes, G, name)
    opened.check(recipes[0])  # the others differ in the seed alone
    for recipe in recipes:
        for line in resample_report.summary_lines(*resample_report.redraw(opened, recipe, outdir)):
            click.echo(line)


def _check_combination(opts: Any) -> None:
    """Refuse options of `generate` that contradict each other."""
    if (opts.seeds is None) == (opts.recipe_file is None):
        raise click.UsageError("give either --seeds or --recipe")
    if opts.pick is not None and opts.recipe_file is None:
        raise click.UsageError("--pick needs --recipe")
    if opts.resample_block is not None and opts.resample_mask is not None:
        raise click.UsageError("--resample-block cannot be combined with --resample-mask")
    if not math.isfinite(opts.trunc):
        raise click.UsageError(f"--trunc must be finite, got {opts.trunc}")


def _pick_device(name: str | None) -> torch.device:
    """The named device, or the first CUDA GPU, or the CPU where there is none."""
    import torch

    num_gpus = torch.cuda.device_count()
    allowed = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{i}" for i in range(num_gpus))]
    if name is not None and name not in allowed:
        raise UserError(f"--device must be one of {', '.join(allowed)} on this machine, got {name}")
    return torch.device(name or ("cuda" if num_gpus else "cpu"))


def parse_seeds(text: str) -> list[int]:
    """`3`, `1,5,9` or `0-7` (inclusive), or a mixture, -> seeds in the given order, repetitions dropped."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,20})(?:\s*-\s*(\d{1,20}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MAX_SEED:
            raise UserError(f"seeds must look like 3 or 1,5,9 or 0-7 and lie within 0..{MAX_SEED}, got {text!r}")
        if last - first + len(seeds) >= MAX_IMAGES:
            raise UserError(f"seeds {text!r} are more than {MAX_IMAGES} images")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


@click.command("metrics", epilog="""\b
Examples:
  python -m ssn_plugin metrics --network=ssn.pkl --metrics=ssn_distortion1k,ssn_leak1k
  python -m ssn_plugin metrics --network=ssn.pkl --metrics=fid50k_full --data=castles.zip
""")
@network_option
@click.option("--metrics", default="ssn_distortion1k", show_default=True, metavar="LIST",
              help="Names, comma-separated; those of the host and the plugin's ssn_*")
@click.option("--data", metavar="PATH", help="Images to compare with  [default: those of the training]")
@click.option("--mirror", type=bool, metavar="BOOL", help="Add mirrored real images  [default: as in training]")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True, metavar="INT", help="Processes")
@click.option("--verbose", type=bool, default=True, show_default=True, metavar="BOOL", help="Show progress")
@trust_option
def metrics(
    network: str, metrics: str, data: str | None, mirror: bool | None, gpus: int, verbose: bool, trust_pickle: bool
) -> None:
    """Measure a network, and append the results beside it if it lies in the folder of a training run."""
    host.require(*host.METRICS_MODULES)
    import ssn_plugin.metrics  # noqa: F401  registers them
    from metrics import metric_main
    from ssn_plugin.hosts.processes import run_processes

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    for name in names or [metrics]:
        if not metric_main.is_valid_metric(name):
            raise UserError(f"metric must be one of {', '.join(metric_main.list_valid_metrics())}, got {name}")
    if data is not None and not os.path.exists(data):
        raise UserError(f"data set {data} does not exist")
    run_processes(measure, gpus, dict(
        network=network, names=names, data=data, mirror=mirror, num_gpus=gpus, verbose=verbose, trust=trust_pickle,
    ))  # fmt: skip


def measure(rank: int, job: dict[str, Any]) -> None:
    """Compute the metrics of the job in one of its processes."""
    import ssn_plugin.metrics  # noqa: F401  registers them in this process
    from metrics import metric_main, metric_utils
    from ssn_plugin.hosts.processes import device_of

    networks = host.current().load_networks(job["network"], trust=job["trust"])
    device = device_of(rank)
    G = networks["G_ema"].eval().requires_grad_(False).to(device)
    dataset_kwargs = choose_dataset(G, networks.get("training_set_kwargs") or {}, job)
    folder = os.path.dirname(os.path.abspath(job["network"]))
    run_dir = folder if os.path.isfile(os.path.join(folder, "training_options.json")) else None
    for name in job["names"]:
        result = metric_main.calc_metric(
            metric=name, G=G, dataset_kwargs=dataset_kwargs, num_gpus=job["num_gpus"], rank=rank, device=device,
            progress=metric_utils.ProgressMonitor(verbose=job["verbose"] and rank == 0),
        )
        if rank == 0:
            metric_main.report_metric(result, run_dir=run_dir, snapshot_pkl=job["network"])


def choose_dataset(G: Any, trained_on: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Options of the data set to compare with; empty if none is known, which some metrics do without."""
    kwargs = dict(trained_on) if job["data"] is None else dict(class_name=DATASET_CLASS, path=job["data"])
    if not kwargs:
        return {}
    if kwargs.get("class_name") != DATASET_CLASS and not job["trust"]:  # the name is called, with arguments at hand
        raise UserError(f"the network file asks for the data set class {kwargs.get('class_name')}: name the data with "
                        "--data, or allow the class with --trust-pickle")
    kwargs.update(resolution=G.img_resolution, use_labels=G.c_dim != 0)
    if job["mirror"] is not None:
        kwargs["xflip"] = job["mirror"]
    return kwargs
