"""Train a GAN: StyleGAN2 with adaptive augmentation, or a Spatially Stochastic Network with `--cfg=ssn`."""

from __future__ import annotations

import functools
import json
from typing import Any

import click

from training import config
from training.cli import Command, list_networks
from training.config import UserError, setup_training_loop_kwargs
from training.plugins import import_cfgs
from training.run.place import launched_place
from training.run.run_folders import make_run_dir, recorded_args

__all__ = ["UserError", "main", "make_run_dir", "setup_training_loop_kwargs"]

import_cfgs()  # before the options below ask for their names

EXAMPLES = """\b
Examples:
  python train.py --outdir=training-runs --data=castles.zip --cfg=ssn --blocks=4x4 --lambda=100
  python train.py --outdir=training-runs --data=castles.zip --cfg=auto --mirror=1 --dry-run
"""


class CommaSeparated(click.ParamType):
    """`a,b,c` -> ["a", "b", "c"]; `none` or nothing -> []."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        return [] if value.lower() in ("", "none") else value.split(",")


@click.command(cls=Command, epilog=EXAMPLES)
# General.
@click.option(
    "--outdir", required=True, metavar="DIR", help="Where to put the run's folder; with --continue, the folder itself"
)
@click.option(
    "--continue", "continue_run", is_flag=True,
    help=f"Carry on the run in --outdir from its newest state. Of other options it takes only "
         f"{', '.join(config.changeable_options())}",
)
@click.option(
    "--gpus", type=int, metavar="INT",
    help="Number of GPUs, or of CPU processes where there is none; 0 = the CPU, even where there is a GPU. "
         "Under torchrun: 0, or the number of processes  [default: 1; under torchrun, as many as it started]",
)
@click.option("--snap", type=int, metavar="INT", help="Save images and networks every so many ticks  [default: 50]")
@click.option("--tick", type=float, metavar="KIMG", help="Length of a tick in thousands of images  [default: 4]")
@click.option("--metrics", type=CommaSeparated(), help='Comma-separated, or "none"  [default: fid50k_full]')
@click.option("--keep", type=int, metavar="INT", help="Keep only so many newest networks  [default: all]")
@click.option("--keep-best", metavar="METRIC", help="Compute this metric, and keep the network with its best value")
@click.option("--log", type=CommaSeparated(), metavar="LIST", help="Report to wandb, too  [default: none]")
@click.option("--seed", type=int, metavar="INT", help="Random seed  [default: 0]")
@click.option("-n", "--dry-run", is_flag=True, help="Print the training options as JSON and stop")
# Data set.
@click.option("--data", metavar="PATH", help="Training images: a folder or a zip  [required, but not with --continue]")
@click.option("--cond", type=bool, metavar="BOOL", help="Condition on the labels in dataset.json  [default: no]")
@click.option("--subset", type=int, metavar="INT", help="Train on so many images only  [default: all]")
@click.option("--mirror", type=bool, metavar="BOOL", help="Add the mirror image of every image  [default: no]")
# Configuration.
@click.option("--cfg", type=click.Choice(config.cfg_names()), help="Base configuration  [default: auto]")
@click.option(
    "--g-arch", type=click.Choice(config.ARCHITECTURES),
    help="How the generator joins resolutions  [default: skip; with --cfg=ssn and --resume, that of the network]",
)
@click.option(
    "--d-arch", type=click.Choice(config.ARCHITECTURES),
    help="The same of the discriminator  [default: resnet; orig in cifar; with --cfg=ssn and --resume, as above]",
)
@click.option("--gamma", type=float, metavar="FLOAT", help="Weight of R1 regularisation  [default: from cfg]")
@click.option("--kimg", type=int, metavar="INT", help="Length of training in thousands of images  [default: from cfg]")
@click.option("--batch", type=int, metavar="INT", help="Images per step over all GPUs  [default: from cfg]")
@click.option(
    "--batch-gpu", type=int, metavar="INT",
    help="Images of a step that pass a GPU at once. The same --batch and --batch-gpu give the same result on any "
         "number of GPUs  [default: from cfg, or --batch by --gpus]",
)
@click.option(
    "--ema-kimg", type=float, metavar="KIMG",
    help="Half-life of the moving average of the generator, in thousands of images; a larger --batch needs a longer "
         "one  [default: from cfg]",
)
# Augmentation of the discriminator's images.
@click.option("--aug", type=click.Choice(config.AUGMENTATIONS), help="Augmentation strength  [default: ada]")
@click.option("--p", type=float, metavar="FLOAT", help="Augmentation probability, with --aug=fixed")
@click.option("--target", type=float, metavar="FLOAT", help="Target of --aug=ada  [default: 0.6]")
@click.option("--augpipe", type=click.Choice(list(config.AUGPIPES)), help="Augmentations to use  [default: bgc]")
# Transfer learning.
@click.option(
    "--resume", metavar="PKL", callback=list_networks, is_eager=True,
    help="Start from a network: path, URL, noresume, or a short name that --resume=help lists. Or latest: carry on the "
         "run of these options that has the newest state below --outdir; without a state there, start one  "
         "[default: noresume]",
)
@click.option(
    "--trust-pickle", is_flag=True, default=None, help="Run code that the --resume file carries; only if you trust it"
)
@click.option("--freezed", type=int, metavar="INT", help="Freeze so many discriminator layers  [default: 0]")
# Performance.
@click.option("--fp32", type=bool, metavar="BOOL", help="Full precision everywhere  [default: no]")
@click.option("--nhwc", type=bool, metavar="BOOL", help="Channels-last memory for half precision  [default: no]")
@click.option("--nobench", type=bool, metavar="BOOL", help="Switch cuDNN's benchmarking off  [default: no]")
@click.option("--allow-tf32", type=bool, metavar="BOOL", help="Let matrix products use TF32  [default: no]")
@click.option(
    "--cuda-graphs", type=bool, metavar="BOOL",
    help="Capture each phase as a CUDA graph and replay it; speeds up small networks on a GPU  [default: no]",
)
@click.option("--workers", type=int, metavar="INT", help="Data loader processes  [default: 3]")
def main(outdir: str, continue_run: bool, dry_run: bool, **options: Any) -> None:
    """Train a GAN on a folder or zip of images, all of one size.

    Writes network snapshots, sample images, statistics and the state to resume from to a new folder below --outdir.
    """
    place = launched_place()
    options["processes"] = place.num_processes if place is not None else None
    if continue_run:
        desc, args = outdir, config.change_run_settings(recorded_args(outdir), **options)
    else:
        desc, args = setup_training_loop_kwargs(**options)
    if dry_run:
        click.echo(json.dumps(args, indent=2))
        click.echo(config.summary(desc, args), err=True)  # apart from the JSON, which can then be piped
        click.echo(f"Dry run: nothing was written to {outdir}", err=True)
        return
    from training import launch  # imports torch, which --help and a mistyped option need not wait for

    if continue_run:
        prepare = prepare_again = functools.partial(launch.continued_run, args, outdir)
    elif options["resume"] == "latest":
        prepare = prepare_again = functools.partial(launch.latest_run, desc, args, options, outdir)
    else:
        prepare = functools.partial(launch.new_run, desc, args, outdir)
        prepare_again = functools.partial(launch.restarted_run, desc, args, options, outdir)
    launch.launch(prepare, prepare_again, place, args.num_gpus, on_cpu=args.get("device") == "cpu")


main.params.extend(config.extension_options().values())


if __name__ == "__main__":
    main()
