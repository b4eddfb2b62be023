"""Options of train.py -> keyword arguments of `training.training_loop.training_loop`.

`setup_training_loop_kwargs` is the one function that turns options into the tree of arguments. The options stand in
`training.run.train_options`, the cfgs in `training.run.cfgs`, where a plugin adds its own with `register_cfg`.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import dnnlib
from dnnlib import EasyDict
from dnnlib.util import UserError
from training.data.image_size import check_image_size
from training.formats.network_names import resolve_short_name
from training.run import cfgs
from training.run.cfgs import (
    AUGPIPES,
    CFG_TABLE,
    CfgExtension,
    CfgSpec,
    auto_spec,
    cfg_names,
    extension_options,
    register_cfg,
    take_over,
)
from training.run.option_table import options_of
from training.run.train_options import TrainOptions, changeable_options, flag, read_options, run_name

__all__ = [
    "AUGPIPES", "CFG_TABLE", "CfgExtension", "CfgSpec", "TrainOptions", "UserError", "auto_spec", "cfg_names",
    "change_run_settings", "extension_options", "register_cfg", "setup_training_loop_kwargs", "summary", "take_over",
    "training_device",
]  # fmt: skip


PROJECTED_LR = 0.0002  # of the heads, whose layers are not scaled at run time as StyleGAN2's are


def training_device(prefer_cpu: bool) -> str:
    """Where training will run: "cuda" if there is a GPU and it is wanted, else "cpu"."""
    from torch_utils.devices import choose_device  # torch takes seconds, which --help and mistyped options do without

    return choose_device(on_cpu=prefer_cpu).type


def setup_training_loop_kwargs(**options: Any) -> tuple[str, EasyDict]:
    """Turn the options of train.py, by keyword, into the name of a run and the arguments of its training loop.

    An option that is missing or None takes its default. Opens the data set to learn its size and resolution.
    Raises UserError, one line, for an option that cannot be honoured.
    """
    extra_options = {name: options.pop(name, None) for name in extension_options()}
    opts = read_options(options)
    check_extra_options(opts.cfg, extra_options)

    args = EasyDict()
    data_name = add_training_set(args, opts)
    add_networks(args, cfg_spec(opts, args.training_set_kwargs.resolution))
    if opts.cfg == "cifar":
        args.loss_kwargs.update(pl_weight=0, style_mixing_prob=0)
        args.D_kwargs.architecture = "orig"
    if opts.batch is not None:
        args.batch_gpu = opts.batch // opts.num_gpus
    put_values(args, opts, names=[name for name in options_of(opts) if getattr(opts, name) is not None])
    set_processes(args, opts)
    set_reports(args, opts)
    add_augmentation(args, opts)
    add_transfer(args, opts)
    set_performance(args, opts)
    check_batch_split(args)
    cfg_parts: list[str] = []
    extension = cfgs.extension(opts.cfg)
    if extension is not None:
        try:
            args, cfg_parts = extension.edit(args, extra_options, training_device(opts.gpus == 0))
        except ValueError as err:
            raise UserError(str(err)) from err
    if opts.gan_loss is not None:
        used = args.loss_kwargs.get("adversarial")
        require(used == opts.gan_loss, "gan-loss", f"cannot be given with --cfg={opts.cfg}, whose loss is its own",
                opts.gan_loss)
    if opts.projected:
        use_projected_discriminator(args, opts)
    return run_name(opts, data_name, cfg_parts), args


def check_extra_options(cfg: str, extra_options: dict[str, Any]) -> None:
    """Refuse an extension's option beside a cfg that does not know it."""
    for name, value in extra_options.items():
        owners = cfgs.owners(name)
        if value is not None and cfg not in owners:
            raise UserError(f"{flag(name)} can only be given with --cfg={'|'.join(owners)}, got --cfg={cfg}")


def cfg_spec(opts: TrainOptions, resolution: int | list[int]) -> CfgSpec:
    """Rectangles [H, W] get the settings of the squares that are nearest in area and a power of two."""
    from training.networks import nominal_side  # imports torch

    if opts.cfg == "auto":
        return auto_spec(nominal_side(resolution), opts.num_gpus)
    extension = cfgs.extension(opts.cfg)
    if extension is not None:
        return extension.spec(nominal_side(resolution), opts.num_gpus, training_device(opts.gpus == 0))
    return CFG_TABLE[opts.cfg]


def put_values(args: EasyDict, opts: TrainOptions, names: list[str]) -> None:
    """Give the arguments that take the value of an option as it is those of the named options."""
    for name in names:
        for path in options_of(opts)[name].arguments:
            *parents, last = path.split(".")
            tree = args
            for parent in parents:
                tree = tree[parent]
            tree[last] = getattr(opts, name)


def require(condition: bool, option: str, rule: str, value: object) -> None:
    if not condition:
        raise UserError(f"--{option} {rule}, got {value}")


def add_training_set(args: EasyDict, opts: TrainOptions) -> str:
    """Describe the data set and its loader. Returns the name of the data set."""
    kwargs = EasyDict(class_name="training.dataset.ImageFolderDataset", path=opts.data, use_labels=opts.cond)
    try:
        with contextlib.closing(dnnlib.util.construct_class_by_name(**kwargs)) as dataset:
            name, count, (channels, height, width) = dataset.name, len(dataset), dataset.image_shape
            has_labels = dataset.has_labels
        check_image_size(width, height, str(opts.data))
    except (OSError, ValueError) as err:
        raise UserError(f"--data: {err}") from err
    side = min(width, height)
    require(side >= 8, "data", "must hold images of at least 8 pixels along each side", f"{width}x{height}")
    require(channels in (1, 3, 4), "data", "must hold gray, RGB or RGBA images", f"{channels} channels in {opts.data}")
    filters = opts.aug != "noaug" and "imgfilter" in AUGPIPES[opts.augpipe]
    require(not filters or side > 21, "augpipe", "filters images of more than 21 pixels only", opts.augpipe)
    require(has_labels or not opts.cond, "cond", "needs labels in dataset.json", f"none in {opts.data}")

    resolution = width if width == height else [height, width]
    kwargs.update(resolution=resolution, max_size=count, xflip=opts.mirror)
    if opts.subset is not None:
        require(opts.subset <= count, "subset", f"must be at most the {count} images of {opts.data}", opts.subset)
        if opts.subset < count:
            kwargs.update(max_size=opts.subset, random_seed=opts.seed)
    args.training_set_kwargs = kwargs
    args.data_loader_kwargs = EasyDict(pin_memory=True, num_workers=opts.workers, prefetch_factor=2)
    return name


def add_networks(args: EasyDict, spec: CfgSpec) -> None:
    """Networks, optimisers, loss and schedule of a cfg."""
    size = dict(
        channel_base=int(spec.fmaps * 32768),
        channel_max=spec.channel_max,
        num_fp16_res=spec.num_fp16_res,
        conv_clamp=spec.conv_clamp,
    )
    args.G_kwargs = EasyDict(
        class_name="training.networks.Generator",
        z_dim=512,
        w_dim=512,
        mapping_kwargs=EasyDict(num_layers=spec.mapping_layers),
        synthesis_kwargs=EasyDict(size),
    )
    args.D_kwargs = EasyDict(
        class_name="training.networks.Discriminator",
        **size,
        block_kwargs=EasyDict(),
        mapping_kwargs=EasyDict(),
        epilogue_kwargs=EasyDict(mbstd_group_size=spec.mbstd),
    )
    for name in ["G_opt_kwargs", "D_opt_kwargs"]:
        # Floats throughout: newer versions of Adam refuse an integer beside a float.
        args[name] = EasyDict(class_name="torch.optim.Adam", lr=spec.lr, betas=[0.0, 0.99], eps=1e-8)
    args.loss_kwargs = EasyDict(class_name="training.loss.StyleGAN2Loss", r1_gamma=spec.gamma)
    args.total_kimg = spec.kimg
    args.batch_size = spec.batch
    args.batch_gpu = spec.batch // spec.ref_gpus  # on fewer GPUs than that, gradients accumulate over rounds
    args.ema_kimg = spec.ema_kimg
    args.ema_rampup = spec.ema_rampup


def set_processes(args: EasyDict, opts: TrainOptions) -> None:
    """How many processes take part in a run, and where."""
    args.num_gpus = opts.num_gpus
    if opts.gpus == 0:
        args.device = "cpu"


def set_reports(args: EasyDict, opts: TrainOptions) -> None:
    """What is measured at every snapshot, and who is told of the statistics."""
    if "metrics" in opts.given or "metrics" not in args:
        args.metrics = list(opts.metrics)
    if opts.keep_best is not None and opts.keep_best not in args.metrics:
        args.metrics.append(opts.keep_best)
    if opts.log:
        args.trackers = list(opts.log)


def check_batch_split(args: EasyDict) -> None:
    """Refuse a batch that the minibatch standard deviation of the discriminator cannot divide into groups."""
    share, group = args.batch_gpu, args.D_kwargs.epilogue_kwargs.mbstd_group_size
    rule = f"must give every GPU at most {group} images or a multiple of {group} (minibatch standard deviation)"
    require(share % min(group, share) == 0, "batch", rule, f"{share} per GPU")


def add_augmentation(args: EasyDict, opts: TrainOptions) -> None:
    """Which augmentations the discriminator's images go through, and whether their strength adapts."""
    if opts.aug == "ada":
        args.ada_target = opts.target
    if opts.aug != "noaug":
        args.augment_kwargs = EasyDict(class_name="training.augment.AugmentPipe", **AUGPIPES[opts.augpipe])


def add_transfer(args: EasyDict, opts: TrainOptions) -> None:
    """The network that a run starts from."""
    if opts.resume not in ("noresume", "latest"):
        args.resume_pkl = resolve_short_name(opts.resume) or opts.resume
        args.ada_kimg = 100     # a trained network needs p sooner
        args.ema_rampup = None  # and its moving average need not warm up
    if opts.resume_partial:
        require("resume_pkl" in args, "resume-partial", "needs a network given with --resume", opts.resume)
        args.resume_partial = True
    set_trust(args, opts)


def set_trust(args: EasyDict, opts: TrainOptions) -> None:
    """Whether the network that a run starts from may run code. Only the command line says so, never a file."""
    if opts.trust_pickle:
        require("resume_pkl" in args, "trust-pickle", "needs a network given with --resume", opts.resume)
        args.trust_pickle = True


def set_performance(args: EasyDict, opts: TrainOptions) -> None:
    """What changes the speed of a run and the rounding of its numbers."""
    synthesis_kwargs, D_kwargs = args.G_kwargs.synthesis_kwargs, args.D_kwargs
    if opts.fp32:
        for kwargs in [synthesis_kwargs, D_kwargs]:
            kwargs.update(num_fp16_res=0, conv_clamp=None)
    if opts.bf16:
        args.bf16 = True
        for kwargs in [synthesis_kwargs, D_kwargs]:  # a cfg may leave half precision out on a CPU
            kwargs.update(num_fp16_res=CfgSpec.num_fp16_res, conv_clamp=CfgSpec.conv_clamp)
    if opts.nhwc:
        synthesis_kwargs.fp16_channels_last = D_kwargs.block_kwargs.fp16_channels_last = True
    if opts.nobench:
        args.cudnn_benchmark = False
    if opts.allow_tf32:
        args.allow_tf32 = True
    if opts.cuda_graphs:
        args.cuda_graphs = True
    set_recomputation(args, opts)
    set_compile(args, opts)


def set_recomputation(args: EasyDict, opts: TrainOptions) -> None:
    """Whether activations are computed again for the backward pass. A graph could not draw the same noise again."""
    if opts.checkpoint_activations:
        require(not args.get("cuda_graphs"), "checkpoint-activations", "cannot be given with --cuda-graphs", "both")
        args.checkpoint_activations = True
    elif "checkpoint_activations" in opts.given:
        args.pop("checkpoint_activations", None)


def set_compile(args: EasyDict, opts: TrainOptions) -> None:
    """Whether networks are compiled, which may change while a run is under way."""
    if opts.compile:
        args.compile = True
    elif "compile" in opts.given:
        args.pop("compile", None)
    for name in ("cuda_graphs", "checkpoint_activations"):  # nobody has tried what comes of it
        require(not (args.get("compile") and args.get(name)), "compile", f"cannot be given with {flag(name)}", "both")


def use_projected_discriminator(args: EasyDict, opts: TrainOptions) -> None:
    """Put heads on pretrained features in the place of the cfg's discriminator, with the loss that goes with them."""
    from metrics.efficientnet_lite0 import WEIGHTS  # imports torch

    own = args.D_kwargs.class_name != "training.networks.Discriminator"
    require(not own, "projected", "replaces StyleGAN2's discriminator, which this --cfg does not have", opts.cfg)
    require(WEIGHTS.find() is not None, "projected", f"needs the package {WEIGHTS.project}", "none")
    args.D_kwargs = EasyDict(class_name="training.projected.ProjectedDiscriminator")
    args.D_opt_kwargs.lr = PROJECTED_LR
    args.loss_kwargs.update(adversarial="hinge", r1_gamma=0, pl_weight=0)


# Arguments of the training loop that may change while a run is under way, since nothing of what is learned depends on
# them: what the options in `changeable_options` decide, where the run lives, and what suits its device.
RUN_SETTINGS = ("num_gpus", "device", "total_kimg", "image_snapshot_ticks", "network_snapshot_ticks", "metrics",
                "stop_after", "snapshot_seconds", "sheets", "data_loader_kwargs", "keep", "keep_best", "trackers",
                "trust_pickle", "preview_size", "run_dir", "checkpoint_activations", "compile")


def change_run_settings(args: EasyDict, **options: Any) -> EasyDict:
    """Arguments of a run that carries on: as they were, but for what the options say.

    args: as the run was started with.  options: of train.py, by keyword; None = not given.
    Raises UserError for an option that would change what is learned.
    """
    given = {name: value for name, value in options.items() if value is not None}
    changeable = changeable_options()
    for name, value in given.items():
        if name != "processes" and flag(name) not in changeable:
            raise UserError(f"{flag(name)} cannot be given for a run that carries on, only {', '.join(changeable)} "
                            f"can, got {value}")
    args = copy.deepcopy(args)
    opts = read_options({"data": args.training_set_kwargs.path, **given})
    put_values(args, opts, names=[name for name in given if name != "processes"])
    if "snap" in given:
        args.pop("snapshot_seconds", None)
    if opts.gpus is not None:
        args.pop("device", None)
    if {"gpus", "processes"} & given.keys():
        set_processes(args, opts)
    set_reports(args, opts)
    set_trust(args, opts)
    set_recomputation(args, opts)
    set_compile(args, opts)
    args.training_set_kwargs.path = opts.data
    check_same_data(args.training_set_kwargs)
    return args


def check_same_data(training_set_kwargs: EasyDict) -> None:
    """Raise UserError unless the data set is there and holds as many images as the run began with."""
    kwargs = {key: value for key, value in training_set_kwargs.items() if key not in ("max_size", "xflip")}
    try:
        with contextlib.closing(dnnlib.util.construct_class_by_name(**kwargs)) as dataset:
            count = len(dataset)
    except (OSError, ValueError) as err:
        raise UserError(f"--data: {err}") from err
    expected = training_set_kwargs.get("max_size")
    require(expected is None or count >= expected, "data", f"must hold the {expected} images of the run", count)


def cpu_warning(cfg: str | None, args: EasyDict) -> str | None:
    """A line for somebody who trains on a CPU with a cfg that is made for GPUs, else None."""
    if training_device(args.get("device") == "cpu") != "cpu":
        return None
    return cfgs.made_for_gpus(cfg or TrainOptions.cfg)


def summary(desc: str, args: EasyDict) -> str:
    """One line that says what will be trained on what."""
    from training.networks import side_lengths  # imports torch

    data = args.training_set_kwargs
    height, width = side_lengths(data.resolution)
    on_cpu = training_device(args.get("device") == "cpu") == "cpu"
    count = args.num_gpus
    where = f"{count} GPU{'s' * (count > 1)}" if not on_cpu else f"{count} CPU processes" if count > 1 else "the CPU"
    mirrored = " and their mirror images" if data.xflip else ""
    return (
        f"{desc}: {args.total_kimg} kimg from {data.max_size} images{mirrored} of "
        f"{width}x{height} in {data.path}, batch {args.batch_size}, on {where}"
    )
