"""Train a GAN: StyleGAN2 with adaptive augmentation, or a Spatially Stochastic Network with `--cfg=ssn`."""

from __future__ import annotations

import json
from typing import Any

import click

from dnnlib import EasyDict
from training import config
from training.cli import Command, list_networks
from training.config import UserError, setup_training_loop_kwargs
from training.plugins import import_cfgs
from training.run.option_table import GroupedOption, click_options
from training.run.place import launched_place
from training.run.run_folders import make_run_dir, recorded_args
from training.run.train_options import GENERAL, TrainOptions, changeable_options

__all__ = ["UserError", "main", "make_run_dir", "setup_training_loop_kwargs"]

import_cfgs()  # before the options below ask for their names

EXAMPLES = """\b
Examples:
  python train.py --outdir=training-runs --data=castles.zip --cfg=ssn --blocks=4x4 --lambda=100
  python train.py --outdir=training-runs --data=castles.zip --cfg=auto --mirror=1 --dry-run
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.option(
    "--outdir", required=True, metavar="DIR", cls=GroupedOption, group=GENERAL,
    help="Where to put the run's folder; with --continue, the folder itself",
)
@click.option(
    "--continue", "continue_run", is_flag=True, cls=GroupedOption, group=GENERAL,
    help=f"Carry on the run in --outdir from its newest state. Of the other options, only "
         f"{', '.join(changeable_options())} may be given",
)
@click.option(
    "--trust-run", is_flag=True, cls=GroupedOption, group=GENERAL,
    help="With --continue: call whatever classes the options in the run's folder name; only if you trust it",
)
@click.option(
    "-n", "--dry-run", is_flag=True, cls=GroupedOption, group=GENERAL,
    help="Print the training options as JSON and stop",
)
def main(outdir: str, continue_run: bool, trust_run: bool, dry_run: bool, **options: Any) -> None:
    """Train a GAN on a folder or zip of images, all of one size.

    Writes network snapshots, sample images, statistics and the state to resume from to a new folder below --outdir.
    """
    place = launched_place()
    options["processes"] = place.num_processes if place is not None else None
    if trust_run and not continue_run:
        raise UserError("--trust-run can only be given with --continue")
    if continue_run:
        desc, args = outdir, config.change_run_settings(recorded_args(outdir, trust_run), **options)
    else:
        desc, args = setup_training_loop_kwargs(**options)
    if dry_run:
        click.echo(json.dumps(args, indent=2))
        click.echo(config.summary(desc, args), err=True)  # apart from the JSON, which can then be piped
        warn_of_cpu(options.get("cfg"), args)
        click.echo(f"Dry run: nothing was written to {outdir}", err=True)
        return
    from training import launch  # imports torch, which --help and a mistyped option need not wait for

    def prepare(is_restart: bool) -> EasyDict:
        if continue_run:
            return launch.continued_run(args, outdir)
        started = launch.started_run(desc, args, options, outdir, is_restart)
        warn_of_cpu(options.get("cfg"), args)
        return started

    launch.launch(prepare, place, args.num_gpus, on_cpu=args.get("device") == "cpu")


def warn_of_cpu(cfg: str | None, args: EasyDict) -> None:
    """Say so if networks for a GPU are about to be trained on a CPU."""
    warning = config.cpu_warning(cfg, args)
    if warning is not None:
        click.echo(f"Warning: {warning}", err=True)


main.params.extend(click_options(TrainOptions, resume=dict(callback=list_networks, is_eager=True)))
main.params.extend(config.extension_options().values())


if __name__ == "__main__":
    main()
