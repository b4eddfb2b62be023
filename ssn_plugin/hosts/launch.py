"""`train --cfg=ssn` in a host whose train.py takes no further cfgs.

Keeps that host's options and leaves its files alone: wraps `train.setup_training_loop_kwargs`, edits the tree of
options, and calls `training.training_loop.training_loop`, in one process for each GPU.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import re
from types import ModuleType
from typing import Any

import click

from ssn_plugin import config, from_stylegan2
from ssn_plugin.errors import UserError
from ssn_plugin.files import open_atomic
from ssn_plugin.hosts import host
from ssn_plugin.hosts.processes import check_number, run_processes

PRESETS = {"ssn": config.EMPTY, "ssn-plus": config.SSN_PLUS}  # by --cfg
EPILOG = """\b
Examples:
  python -m ssn_plugin train --outdir=training-runs --data=castles.zip --cfg=ssn --blocks=4x4 --lambda=100
  python -m ssn_plugin train --outdir=training-runs --data=castles.zip --cfg=auto --mirror=1 --dry-run
"""
TRANSFERRED = "transferred.pkl"  # in the run's folder: the SSN that a StyleGAN2 given with --resume became


def train_command() -> click.Command:
    """The train command of a host that does not take further cfgs, with `--cfg=ssn`."""
    import ssn_plugin.metrics  # noqa: F401  registers them: the host checks the names of --metrics
    import train

    return extended_command(train)


def training_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What the host's train.py makes of its options, by keyword: the arguments of the training loop.

    Raises ValueError for options that cannot be honoured.
    """
    adapter = host.require(*host.TRAIN_MODULES)
    import train

    if adapter.TAKES_CFGS:
        return train.setup_training_loop_kwargs(**options)[1]
    return plan(train, options, given={})[1]


def extended_command(train: ModuleType) -> click.Command:
    """The command of the host's train.py with further values of --cfg and with the options of an SSN."""
    commands = [value for value in vars(train).values() if isinstance(value, click.Command)]
    if not commands:
        raise UserError(f"{train.__file__} has no command whose options could be extended")
    foreign = script_options(commands[0])
    params = [copy.copy(param) for param in commands[0].params if param.name not in foreign]
    for param in params:
        if param.name == "cfg" and isinstance(param.type, click.Choice):
            param.type = click.Choice([*param.type.choices, *PRESETS])
    own = config.options()
    taken = {param.name for param in params}

    def callback(outdir: str, dry_run: bool = False, **options: Any) -> None:
        given = {str(option.name): options.pop(str(option.name)) for option in own}
        desc, args = plan(train, options, given)
        if dry_run:
            click.echo(json.dumps(args, indent=2))
            return
        start(desc, args, outdir)

    return click.Command(
        "train", callback=callback, params=[*params, *(option for option in own if option.name not in taken)],
        help="Train a GAN; with --cfg=ssn a Spatially Stochastic Network.", epilog=EPILOG,
    )


def script_options(command: click.Command) -> set[str]:
    """Options that the script honours itself, and does not hand on to `setup_training_loop_kwargs`.

    The reference host has none but the output folder and the dry run, which this file honours as well.
    """
    if command.callback is None:
        return set()
    parameters = inspect.signature(command.callback).parameters.values()
    return {param.name for param in parameters if param.kind != param.VAR_KEYWORD} - {"outdir", "dry_run"}


def plan(train: Any, options: dict[str, Any], given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name of the run and arguments of its training loop.

    options: those of the host, by keyword.  given: those of the plugin, None = not given.
    """
    cfg = options.get("cfg")
    foreign = [name for name, value in given.items() if value is not None]
    if foreign and cfg not in PRESETS:
        flags = {option.name: option.opts[0] for option in config.options()}
        raise UserError(f"{flags[foreign[0]]} can only be given with --cfg={' or '.join(PRESETS)}, got --cfg={cfg}")
    try:
        desc, args = train.setup_training_loop_kwargs(**{**options, "cfg": None if cfg in PRESETS else cfg})
    except train.UserError as err:
        raise UserError(str(err)) from err
    if cfg not in PRESETS:
        return desc, args
    if options.get("gamma") is None:
        args["loss_kwargs"]["r1_gamma"] = config.R1_GAMMA
    resume = args.get("resume_pkl")
    networks = None if resume is None else host.current().load_networks(resume, trust=args.get("trust_pickle", False))
    args, parts = config.apply_options(args, given, networks=networks, preset=PRESETS[cfg])
    # The data set's name may hold the same letters, but nothing that follows the cfg's does.
    before, _, after = desc.rpartition(f"auto{args['num_gpus']}")
    return before + "-".join([cfg, *parts]) + after, args


def start(desc: str, args: dict[str, Any], outdir: str) -> None:
    """Train in a new folder `<outdir>/<id>-<desc>`."""
    import dnnlib

    check_number(args["num_gpus"])
    args = dict(args, run_dir=make_run_dir(outdir, desc))
    with open_atomic(os.path.join(args["run_dir"], "training_options.json"), "w") as file:
        json.dump(args, file, indent=2)
    click.echo(json.dumps(args, indent=2))
    transferred, differences = transfer_before_start(args)
    with dnnlib.util.Logger(os.path.join(args["run_dir"], "log.txt"), file_mode="a", should_flush=True):
        print(f"Run folder: {args['run_dir']}")
        for line in differences:
            print(line)
    run_processes(train_process, args["num_gpus"], transferred)


def make_run_dir(outdir: str, desc: str) -> str:
    """Create `<outdir>/<id>-<desc>`, where id is one above the highest that starts a folder's name there."""
    os.makedirs(outdir, exist_ok=True)
    names = [entry.name for entry in os.scandir(outdir) if entry.is_dir()]
    highest = max((int(match[0]) for name in names if (match := re.match(r"\d+", name))), default=-1)
    run_dir = os.path.join(outdir, f"{highest + 1:05d}-{desc}")
    os.mkdir(run_dir)
    return run_dir


def transfer_before_start(args: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Replace a StyleGAN2 to start from by an SSN file in the run's folder, from which this host copies by name.

    Returns the arguments with that file and what differs, a line per tensor.
    """
    if not args.get("resume_pkl") or not args["G_kwargs"]["class_name"].startswith("ssn_plugin."):
        return args, []
    import dnnlib

    networks = host.current().load_networks(args["resume_pkl"], trust=args.get("trust_pickle", False))
    dataset = dnnlib.util.construct_class_by_name(**args["training_set_kwargs"])
    channels, height, width = dataset.image_shape
    size = height if height == width else [height, width]
    shape: dict[str, Any] = dict(c_dim=dataset.label_dim, img_resolution=size, img_channels=channels)
    dataset.close()
    G = dnnlib.util.construct_class_by_name(**args["G_kwargs"], **shape).requires_grad_(False)
    D = dnnlib.util.construct_class_by_name(**args["D_kwargs"], **shape).requires_grad_(False)
    run = dict(G=G, D=D, G_ema=copy.deepcopy(G))
    differences = from_stylegan2.take_over(networks, run)
    if differences is None:
        return args, []
    path = os.path.join(args["run_dir"], TRANSFERRED)
    host.current().save_networks({**networks, **run}, path)
    return dict(args, resume_pkl=path), [f"Transferred from {args['resume_pkl']} to {path}:", *differences]


def train_process(rank: int, args: dict[str, Any]) -> None:
    """The run in one process."""
    import dnnlib
    import ssn_plugin.metrics  # noqa: F401  registers them in this process
    from torch_utils import custom_ops
    from training import training_loop

    if rank != 0:
        custom_ops.verbosity = "none"
    with dnnlib.util.Logger(os.path.join(args["run_dir"], "log.txt"), file_mode="a", should_flush=True):
        training_loop.training_loop(rank=rank, **args)
