"""Train a GAN: StyleGAN2 with adaptive augmentation, or a Spatially Stochastic Network with `--cfg=ssn`."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import click

import dnnlib
from dnnlib import EasyDict
from training import config
from training.cli import Command
from training.config import UserError, setup_training_loop_kwargs
from training.plugins import import_cfgs

__all__ = ["UserError", "launch", "main", "setup_training_loop_kwargs"]

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
@click.option("--outdir", required=True, metavar="DIR", help="Where to put the run's folder")
@click.option(
    "--gpus", type=int, metavar="INT",
    help="Number of GPUs; 0 = use the CPU  [default: 1, or the CPU where there is no GPU]",
)
@click.option("--snap", type=int, metavar="INT", help="Save images and networks every so many ticks  [default: 50]")
@click.option("--tick", type=float, metavar="KIMG", help="Length of a tick in thousands of images  [default: 4]")
@click.option("--metrics", type=CommaSeparated(), help='Comma-separated, or "none"  [default: fid50k_full]')
@click.option("--seed", type=int, metavar="INT", help="Random seed  [default: 0]")
@click.option("-n", "--dry-run", is_flag=True, help="Print the training options as JSON and stop")
# Data set.
@click.option("--data", required=True, metavar="PATH", help="Training images: a folder or a zip")
@click.option("--cond", type=bool, metavar="BOOL", help="Condition on the labels in dataset.json  [default: no]")
@click.option("--subset", type=int, metavar="INT", help="Train on so many images only  [default: all]")
@click.option("--mirror", type=bool, metavar="BOOL", help="Add the mirror image of every image  [default: no]")
# Configuration.
@click.option("--cfg", type=click.Choice(config.cfg_names()), help="Base configuration  [default: auto]")
@click.option("--gamma", type=float, metavar="FLOAT", help="Weight of R1 regularisation  [default: from cfg]")
@click.option("--kimg", type=int, metavar="INT", help="Length of training in thousands of images  [default: from cfg]")
@click.option("--batch", type=int, metavar="INT", help="Images per step over all GPUs  [default: from cfg]")
# Augmentation of the discriminator's images.
@click.option("--aug", type=click.Choice(config.AUGMENTATIONS), help="Augmentation strength  [default: ada]")
@click.option("--p", type=float, metavar="FLOAT", help="Augmentation probability, with --aug=fixed")
@click.option("--target", type=float, metavar="FLOAT", help="Target of --aug=ada  [default: 0.6]")
@click.option("--augpipe", type=click.Choice(list(config.AUGPIPES)), help="Augmentations to use  [default: bgc]")
# Transfer learning.
@click.option(
    "--resume", metavar="PKL",
    help=f"Start from a network: path, URL, noresume or {', '.join(config.RESUME_FILES)}  [default: noresume]",
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
@click.option("--workers", type=int, metavar="INT", help="Data loader processes  [default: 3]")
def main(outdir: str, dry_run: bool, **options: Any) -> None:
    """Train a GAN on a folder or zip of square images.

    Writes network snapshots, sample images and statistics to a new folder below --outdir.
    """
    desc, args = setup_training_loop_kwargs(**options)
    if dry_run:
        click.echo(json.dumps(args, indent=2))
        click.echo(summary(desc, args), err=True)  # apart from the JSON, which can then be piped
        click.echo(f"Dry run: nothing was written to {outdir}", err=True)
        return
    launch(desc, args, outdir)


main.params.extend(config.extension_options().values())


def summary(desc: str, args: EasyDict) -> str:
    """One line that says what will be trained on what."""
    data = args.training_set_kwargs
    on_cpu = config.training_device(args.get("device") == "cpu") == "cpu"
    where = "the CPU" if on_cpu else f"{args.num_gpus} GPU{'s' * (args.num_gpus > 1)}"
    mirrored = " and their mirror images" if data.xflip else ""
    return (
        f"{desc}: {args.total_kimg} kimg from {data.max_size} images{mirrored} of "
        f"{data.resolution}x{data.resolution} in {data.path}, batch {args.batch_size}, on {where}"
    )


def launch(desc: str, args: EasyDict, outdir: str) -> None:
    """Train in a new run folder below `outdir`. What can be checked is checked before that folder exists."""
    if args.num_gpus > 1:
        raise UserError(f"--gpus must be 0 or 1 in this version, which trains in one process, got {args.num_gpus}")
    resume = args.get("resume_pkl")
    if resume and not dnnlib.util.is_url(resume, allow_file_urls=True) and not os.path.isfile(resume):
        known = ", ".join(config.RESUME_FILES)
        raise UserError(f"--resume must be an existing file, a URL, noresume or one of {known}, got {resume}")
    if os.path.exists(outdir) and not os.path.isdir(outdir):
        raise UserError(f"--outdir must be a folder, got {outdir}")
    from training import construction, training_loop  # these import torch, which --help need not wait for

    construction.load_metrics(args.metrics, rank=0)  # fetches the files that metrics need
    args.run_dir = make_run_dir(outdir, desc)
    with dnnlib.util.open_atomic(os.path.join(args.run_dir, "training_options.json"), "w") as file:
        json.dump(args, file, indent=2)
    with dnnlib.util.Logger(os.path.join(args.run_dir, "log.txt"), file_mode="a", should_flush=True):
        print(json.dumps(args, indent=2))
        print(summary(desc, args))
        print(f"Run folder: {args.run_dir}")
        training_loop.training_loop(**args)


def make_run_dir(outdir: str, desc: str) -> str:
    """Create `<outdir>/<id>-<desc>`, where id is one above the highest that starts a name there."""
    os.makedirs(outdir, exist_ok=True)
    while True:
        ids = [int(m[0]) for name in os.listdir(outdir) if (m := re.match(r"\d+", name))]
        run_dir = os.path.join(outdir, f"{max(ids, default=-1) + 1:05d}-{desc}")
        try:
            os.mkdir(run_dir)
        except FileExistsError:  # another run that starts now was faster
            continue
        return run_dir


if __name__ == "__main__":
    main()
