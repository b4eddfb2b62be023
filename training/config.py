"""Options of train.py -> keyword arguments of `training.training_loop.training_loop`.

The cfg table and the augmentation sets are data; `setup_training_loop_kwargs` is the one function
that turns options into the tree of arguments. A plugin adds a `--cfg` of its own with `register_cfg`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dnnlib
from dnnlib import EasyDict
from training.data.image_size import check_image_size
from training.formats.network_names import resolve_short_name
from training.plugins import import_cfgs, import_metrics
from training.run.trackers import check_trackers

if TYPE_CHECKING:
    import click


class UserError(ValueError):
    """An option that cannot be honoured: one line that names the option, the rule and the value."""


@dataclasses.dataclass(frozen=True)
class CfgSpec:
    """What a `--cfg` decides before the other options overrule it."""

    ref_gpus: int                   # number of GPUs the batch was chosen for: each takes batch / ref_gpus at a time
    kimg: int                       # length of the training in thousands of real images
    batch: int                      # images per optimiser step over all GPUs
    mbstd: int                      # group size of the minibatch standard deviation layer
    fmaps: float                    # channel_base as a fraction of 32768
    lr: float                       # learning rate of both optimisers
    gamma: float                    # weight of R1
    ema_kimg: float                 # half-life of the generator's moving average
    ema_rampup: float | None        # limits that half-life to this fraction of the training so far; None = no limit
    mapping_layers: int
    channel_max: int = 512
    num_fp16_res: int = 4           # highest resolutions that run in half precision
    conv_clamp: float | None = 256  # keeps half precision from overflowing


CFG_TABLE = {
    "stylegan2": CfgSpec(
        ref_gpus=8, kimg=25000, batch=32, mbstd=4, fmaps=1, lr=0.002, gamma=10,
        ema_kimg=10, ema_rampup=None, mapping_layers=8,
    ),
    "paper256": CfgSpec(
        ref_gpus=8, kimg=25000, batch=64, mbstd=8, fmaps=0.5, lr=0.0025, gamma=1,
        ema_kimg=20, ema_rampup=None, mapping_layers=8,
    ),
    "paper512": CfgSpec(
        ref_gpus=8, kimg=25000, batch=64, mbstd=8, fmaps=1, lr=0.0025, gamma=0.5,
        ema_kimg=20, ema_rampup=None, mapping_layers=8,
    ),
    "paper1024": CfgSpec(
        ref_gpus=8, kimg=25000, batch=32, mbstd=4, fmaps=1, lr=0.002, gamma=2,
        ema_kimg=10, ema_rampup=None, mapping_layers=8,
    ),
    "cifar": CfgSpec(
        ref_gpus=2, kimg=100000, batch=64, mbstd=32, fmaps=1, lr=0.0025, gamma=0.01,
        ema_kimg=500, ema_rampup=0.05, mapping_layers=2,
    ),
}


def auto_spec(resolution: int, gpus: int) -> CfgSpec:
    """The cfg `auto`: reasonable settings for any resolution in pixels and number of GPUs."""
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)  # keeps the memory per GPU in check
    return CfgSpec(
        ref_gpus=gpus,
        kimg=25000,
        batch=batch,
        mbstd=min(batch // gpus, 4),  # the layer sees one GPU's share
        fmaps=1 if resolution >= 512 else 0.5,
        lr=0.002 if resolution >= 1024 else 0.0025,
        gamma=0.0002 * resolution**2 / batch,
        ema_kimg=batch * 10 / 32,
        ema_rampup=0.05,
        mapping_layers=2,
    )


ARCHITECTURES = ("orig", "skip", "resnet")  # how resolutions are joined (Karras et al. 2020a, Figure 7)
AUGMENTATIONS = ("noaug", "ada", "fixed")

_BLIT = dict(xflip=1, rotate90=1, xint=1)
_GEOM = dict(scale=1, rotate=1, aniso=1, xfrac=1)
_COLOR = dict(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
_BGC = dict(**_BLIT, **_GEOM, **_COLOR)
AUGPIPES = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "filter": dict(imgfilter=1),
    "noise": dict(noise=1),
    "cutout": dict(cutout=1),
    "bg": dict(**_BLIT, **_GEOM),
    "bgc": _BGC,
    "bgcf": dict(**_BGC, imgfilter=1),
    "bgcfn": dict(**_BGC, imgfilter=1, noise=1),
    "bgcfnc": dict(**_BGC, imgfilter=1, noise=1, cutout=1),
}


@dataclasses.dataclass(frozen=True)
class CfgExtension:
    """A `--cfg` that a plugin adds: its own options, its defaults, and an edit of the finished tree."""

    name: str                                    # the value of --cfg
    options: Sequence[click.Option]              # further options of train.py; None must mean "not given"
    spec: Callable[[int, int, str], CfgSpec]     # (side, see _cfg_spec, GPUs, "cuda" or "cpu") -> defaults
    # (tree, values of `options` by name, "cuda" or "cpu") -> (edited tree, parts of the run's name)
    edit: Callable[[EasyDict, dict[str, Any], str], tuple[EasyDict, list[str]]]
    # (networks of a file, networks of the run) -> what was not taken over, a line each; None where the tensors of both
    # match by name and nothing was done
    take_over: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str] | None] | None = None


_extensions: dict[str, CfgExtension] = {}


def register_cfg(extension: CfgExtension) -> None:
    """Offer another `--cfg`. Registering a name again replaces it, so that reloading a plugin does no harm."""
    if extension.name == "auto" or extension.name in CFG_TABLE:
        raise ValueError(f"a plugin cannot replace the built-in cfg {extension.name}")
    _extensions[extension.name] = extension


def cfg_names() -> list[str]:
    """Every value of `--cfg`, the default first."""
    return ["auto", *CFG_TABLE, *_extensions]


def extension_options() -> dict[str, click.Option]:
    """Options that the registered extensions add to train.py, by keyword; extensions may share an option."""
    return {str(option.name): option for extension in _extensions.values() for option in extension.options}


def take_over(networks: Mapping[str, Any], run: Mapping[str, Any]) -> list[str] | None:
    """Let the extensions start the networks of a run from those of a file that are of another kind.

    Returns what was not taken over, a line each, or None if no extension had anything to do.
    """
    import_cfgs()
    for extension in _extensions.values():
        notes = extension.take_over(networks, run) if extension.take_over is not None else None
        if notes is not None:
            return notes
    return None


def training_device(prefer_cpu: bool) -> str:
    """Where training will run: "cuda" if there is a GPU and it is wanted, else "cpu"."""
    from torch_utils.devices import choose_device  # torch takes seconds, which --help and mistyped options do without

    return choose_device(on_cpu=prefer_cpu).type


def _require(condition: bool, option: str, rule: str, value: object) -> None:
    if not condition:
        raise UserError(f"--{option} {rule}, got {value}")


def _require_choice(option: str, value: str | None, choices: Iterable[str]) -> None:
    _require(value is None or value in choices, option, f"must be one of {', '.join(choices)}", value)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The host's options of train.py under their keywords; None = not given. `train.py --help` explains each.

    Checks everything that can be checked without opening the data set.
    """

    data: str | None = None
    gpus: int | None = None
    snap: int | None = None
    metrics: Sequence[str] | None = None
    seed: int | None = None
    tick: float | None = None
    cond: bool | None = None
    subset: int | None = None
    mirror: bool | None = None
    cfg: str | None = None
    g_arch: str | None = None
    d_arch: str | None = None
    gamma: float | None = None
    kimg: int | None = None
    batch: int | None = None
    ema_kimg: float | None = None
    aug: str | None = None
    p: float | None = None
    target: float | None = None
    augpipe: str | None = None
    resume: str | None = None
    trust_pickle: bool | None = None
    freezed: int | None = None
    fp32: bool | None = None
    nhwc: bool | None = None
    nobench: bool | None = None
    allow_tf32: bool | None = None
    cuda_graphs: bool | None = None
    workers: int | None = None
    batch_gpu: int | None = None
    keep: int | None = None
    keep_best: str | None = None
    log: Sequence[str] | None = None
    processes: int | None = None     # that a launcher has started; None: as many as --gpus says

    def __post_init__(self) -> None:
        self._check_general()
        self._check_augmentation()

    @property
    def num_gpus(self) -> int:
        """Number of processes. Without a launcher, the CPU asked for by --gpus=0 counts as one."""
        if self.processes is not None:
            return self.processes
        return 1 if self.gpus is None else max(self.gpus, 1)

    @property
    def device(self) -> str:
        """Where training will run: "cuda" or "cpu"."""
        return training_device(self.gpus == 0)

    def _check_general(self) -> None:
        if not self.data:
            raise UserError("--data is required: a folder or zip of images")
        if self.gpus is not None:
            power_of_two = self.gpus >= 0 and self.gpus & (self.gpus - 1) == 0
            _require(power_of_two, "gpus", "must be a power of two, or 0 for the CPU", self.gpus)
            rule = f"must be 0 for the CPU or {self.processes}, the number of processes that were launched"
            _require(self.processes in (None, self.gpus) or self.gpus == 0, "gpus", rule, self.gpus)
        if self.seed is not None:
            largest = 2**32 // self.num_gpus - 1  # as in StyleGAN2-ADA, where processes share the range
            _require(0 <= self.seed <= largest, "seed", f"must be between 0 and {largest}", self.seed)
        positive = ("snap", "kimg", "batch", "batch_gpu", "keep", "subset", "workers")
        for option, least in [*((option, 1) for option in positive), ("freezed", 0)]:
            value = getattr(self, option)
            _require(value is None or value >= least, _flag(option), f"must be at least {least}", value)
        if self.tick is not None:
            _require(0 < self.tick < math.inf, "tick", "must be more than 0", self.tick)
        if self.ema_kimg is not None:
            _require(0 <= self.ema_kimg < math.inf, "ema-kimg", "must be at least 0", self.ema_kimg)
        if self.gamma is not None:
            _require(0 <= self.gamma < math.inf, "gamma", "must be at least 0", self.gamma)
        if self.batch is not None:
            rule = f"must be a multiple of --gpus={self.num_gpus}"
            _require(self.batch % self.num_gpus == 0, "batch", rule, self.batch)
        _require_choice("cfg", self.cfg, cfg_names())
        _require_choice("g-arch", self.g_arch, ARCHITECTURES)
        _require_choice("d-arch", self.d_arch, ARCHITECTURES)
        _check_metrics("metrics", self.metrics or [])
        _check_metrics("keep-best", [self.keep_best] if self.keep_best is not None else [])
        try:
            check_trackers(self.log or [])
        except ValueError as err:
            raise UserError(str(err)) from err

    def _check_augmentation(self) -> None:
        _require_choice("aug", self.aug, AUGMENTATIONS)
        _require_choice("augpipe", self.augpipe, AUGPIPES)
        aug = self.aug or "ada"
        _require(aug != "fixed" or self.p is not None, "p", "is required with --aug=fixed", "none")
        for option, owner in [("p", "fixed"), ("target", "ada")]:
            value = getattr(self, option)
            if value is not None:
                _require(aug == owner, option, f"can only be given with --aug={owner}", f"--aug={aug}")
                _require(0 <= value <= 1, option, "must be between 0 and 1", value)
        _require(aug != "noaug" or self.augpipe is None, "augpipe", "cannot be given with --aug=noaug", self.augpipe)


def _flag(option: str) -> str:
    """Name of an option of train.py, by its keyword, as it is typed."""
    extra = extension_options()
    return extra[option].opts[0].lstrip("-") if option in extra else option.replace("_", "-")


def _check_metrics(option: str, names: Sequence[str]) -> None:
    if not names:
        return  # the import below takes seconds
    from metrics import metric_main

    import_metrics()
    known = ", ".join(metric_main.list_valid_metrics())
    for name in names:
        _require(metric_main.is_valid_metric(name), option, f"must be none or among {known}", name)


def setup_training_loop_kwargs(**options: Any) -> tuple[str, EasyDict]:
    """Turn the options of train.py, by keyword, into the name of a run and the arguments of its training loop.

    An option that is missing or None takes its default. Opens the data set to learn its size and resolution.
    Raises UserError, one line, for an option that cannot be honoured.
    """
    extra_options = {name: options.pop(name, None) for name in extension_options()}
    opts = TrainOptions(**options)
    cfg = opts.cfg or "auto"
    _check_extra_options(cfg, extra_options)

    args = EasyDict()
    data_name = _add_training_set(args, opts)
    _add_networks(args, _cfg_spec(cfg, args.training_set_kwargs.resolution, opts))
    if cfg == "cifar":
        args.loss_kwargs.update(pl_weight=0, style_mixing_prob=0)
        args.D_kwargs.architecture = "orig"
    _add_run_settings(args, opts)
    cfg_name = [f"auto{opts.num_gpus}" if cfg == "auto" else cfg]
    details = _override_architecture(args, opts) + _override_schedule(args, opts)
    details += _add_augmentation(args, opts) + _add_transfer(args, opts)
    _set_performance(args, opts)
    if cfg in _extensions:
        try:
            args, parts = _extensions[cfg].edit(args, extra_options, opts.device)
        except ValueError as err:
            raise UserError(str(err)) from err
        cfg_name += parts
    return "-".join(data_name + cfg_name + details), args


def _check_extra_options(cfg: str, extra_options: dict[str, Any]) -> None:
    """Refuse an extension's option beside a cfg that does not know it."""
    for name, value in extra_options.items():
        owners = [e.name for e in _extensions.values() if name in [option.name for option in e.options]]
        rule = f"can only be given with --cfg={'|'.join(owners)}"
        _require(value is None or cfg in owners, _flag(name), rule, f"--cfg={cfg}")


def _cfg_spec(cfg: str, resolution: int | list[int], opts: TrainOptions) -> CfgSpec:
    """Rectangles [H, W] get the settings of the squares that are nearest in area and a power of two."""
    from training.networks import nominal_side  # imports torch

    if cfg == "auto":
        return auto_spec(nominal_side(resolution), opts.num_gpus)
    if cfg in _extensions:
        return _extensions[cfg].spec(nominal_side(resolution), opts.num_gpus, opts.device)
    return CFG_TABLE[cfg]


def _add_training_set(args: EasyDict, opts: TrainOptions) -> list[str]:
    """Describe the data set and its loader. Returns the parts of the run's name, as the functions below do."""
    kwargs = EasyDict(class_name="training.dataset.ImageFolderDataset", path=opts.data, use_labels=bool(opts.cond))
    try:
        with contextlib.closing(dnnlib.util.construct_class_by_name(**kwargs)) as dataset:
            name, count, (channels, height, width) = dataset.name, len(dataset), dataset.image_shape
            has_labels = dataset.has_labels
        check_image_size(width, height, str(opts.data))
    except (OSError, ValueError) as err:
        raise UserError(f"--data: {err}") from err
    side = min(width, height)
    _require(side >= 8, "data", "must hold images of at least 8 pixels along each side", f"{width}x{height}")
    _require(channels in (1, 3, 4), "data", "must hold gray, RGB or RGBA images", f"{channels} channels in {opts.data}")
    filters = opts.aug != "noaug" and "imgfilter" in AUGPIPES[opts.augpipe or "bgc"]
    _require(not filters or side > 21, "augpipe", "filters images of more than 21 pixels only", opts.augpipe)
    _require(has_labels or not opts.cond, "cond", "needs labels in dataset.json", f"none in {opts.data}")

    resolution = width if width == height else [height, width]
    kwargs.update(resolution=resolution, max_size=count, xflip=bool(opts.mirror))
    if opts.subset is not None:
        _require(opts.subset <= count, "subset", f"must be at most the {count} images of {opts.data}", opts.subset)
        if opts.subset < count:
            kwargs.update(max_size=opts.subset, random_seed=opts.seed or 0)
    args.training_set_kwargs = kwargs
    args.data_loader_kwargs = EasyDict(pin_memory=True, num_workers=opts.workers or 3, prefetch_factor=2)
    flags = {"cond": opts.cond, f"subset{opts.subset}": opts.subset, "mirror": opts.mirror}
    return [name] + [part for part, given in flags.items() if given]


def _add_networks(args: EasyDict, spec: CfgSpec) -> None:
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


def _add_run_settings(args: EasyDict, opts: TrainOptions) -> None:
    """What a run does besides learning; leaves no trace in its name."""
    args.num_gpus = opts.num_gpus
    if opts.gpus == 0:
        args.device = "cpu"
    args.random_seed = opts.seed or 0
    args.image_snapshot_ticks = args.network_snapshot_ticks = opts.snap or 50
    args.metrics = ["fid50k_full"] if opts.metrics is None else list(opts.metrics)
    if opts.tick is not None:
        args.kimg_per_tick = opts.tick
    _add_keeping(args, opts)


def _add_keeping(args: EasyDict, opts: TrainOptions) -> None:
    """Which snapshots stay, and who is told of the statistics."""
    if opts.keep is not None:
        args.keep = opts.keep
    if opts.keep_best is not None:
        args.keep_best = opts.keep_best
        if opts.keep_best not in args.metrics:
            args.metrics.append(opts.keep_best)
    if opts.log:
        args.trackers = list(opts.log)


def _override_architecture(args: EasyDict, opts: TrainOptions) -> list[str]:
    parts = []
    if opts.g_arch is not None:
        args.G_kwargs.synthesis_kwargs.architecture = opts.g_arch
        parts.append(f"garch{opts.g_arch}")
    if opts.d_arch is not None:
        args.D_kwargs.architecture = opts.d_arch
        parts.append(f"darch{opts.d_arch}")
    return parts


def _override_schedule(args: EasyDict, opts: TrainOptions) -> list[str]:
    parts = []
    if opts.gamma is not None:
        args.loss_kwargs.r1_gamma = opts.gamma
        parts.append(f"gamma{opts.gamma:g}")
    if opts.kimg is not None:
        args.total_kimg = opts.kimg
        parts.append(f"kimg{opts.kimg}")
    if opts.batch is not None:
        args.batch_size = opts.batch
        args.batch_gpu = opts.batch // opts.num_gpus
        parts.append(f"batch{opts.batch}")
    if opts.batch_gpu is not None:
        args.batch_gpu = opts.batch_gpu
        parts.append(f"batchgpu{opts.batch_gpu}")
    if opts.ema_kimg is not None:
        args.ema_kimg = opts.ema_kimg
        parts.append(f"ema{opts.ema_kimg:g}")
    share, group = args.batch_gpu, args.D_kwargs.epilogue_kwargs.mbstd_group_size
    rule = f"must give every GPU at most {group} images or a multiple of {group} (minibatch standard deviation)"
    _require(share % min(group, share) == 0, "batch", rule, f"{share} per GPU")
    return parts


def _add_augmentation(args: EasyDict, opts: TrainOptions) -> list[str]:
    aug = opts.aug or "ada"
    if aug == "ada":
        args.ada_target = 0.6 if opts.target is None else opts.target
    if aug == "fixed":
        args.augment_p = opts.p
    if aug != "noaug":
        args.augment_kwargs = EasyDict(class_name="training.augment.AugmentPipe", **AUGPIPES[opts.augpipe or "bgc"])
    parts = [opts.aug] if opts.aug else []
    parts += [f"{name}{value:g}" for name, value in [("p", opts.p), ("target", opts.target)] if value is not None]
    return parts + ([opts.augpipe] if opts.augpipe else [])


def _add_transfer(args: EasyDict, opts: TrainOptions) -> list[str]:
    parts = []
    if opts.resume == "noresume":
        parts.append("noresume")
    elif opts.resume not in (None, "latest"):
        target = resolve_short_name(opts.resume)
        args.resume_pkl = target or opts.resume
        args.ada_kimg = 100     # a trained network needs p sooner
        args.ema_rampup = None  # and its moving average need not warm up
        parts.append(f"resume{opts.resume.replace(':', '-')}" if target else "resumecustom")
    if opts.trust_pickle:
        _require("resume_pkl" in args, "trust-pickle", "needs a network given with --resume", opts.resume or "noresume")
        args.trust_pickle = True
    if opts.freezed is not None:
        args.D_kwargs.block_kwargs.freeze_layers = opts.freezed
        parts.append(f"freezed{opts.freezed}")
    return parts


def _set_performance(args: EasyDict, opts: TrainOptions) -> None:
    synthesis_kwargs, D_kwargs = args.G_kwargs.synthesis_kwargs, args.D_kwargs
    if opts.fp32:
        for kwargs in [synthesis_kwargs, D_kwargs]:
            kwargs.update(num_fp16_res=0, conv_clamp=None)
    if opts.nhwc:
        synthesis_kwargs.fp16_channels_last = D_kwargs.block_kwargs.fp16_channels_last = True
    if opts.nobench:
        args.cudnn_benchmark = False
    if opts.allow_tf32:
        args.allow_tf32 = True
    if opts.cuda_graphs:
        args.cuda_graphs = True


# Options that may change while a run is under way, and the arguments of the training loop that they decide; nothing of
# what is learned depends on these. The tree has more of them: where the run lives, and what suits its device.
RUN_OPTIONS = ("gpus", "processes", "data", "kimg", "snap", "metrics", "workers", "keep", "keep_best", "log")
RUN_SETTINGS = ("num_gpus", "device", "total_kimg", "image_snapshot_ticks", "network_snapshot_ticks", "metrics",
                "data_loader_kwargs", "keep", "keep_best", "trackers", "preview_size", "run_dir")


def changeable_options() -> list[str]:
    """Names of the options that a run which carries on takes, as they are typed."""
    return [f"--{_flag(name)}" for name in RUN_OPTIONS if name != "processes"]


def change_run_settings(args: EasyDict, **options: Any) -> EasyDict:
    """Arguments of a run that carries on: as they were, but for what the options say.

    args: as the run was started with.  options: of train.py, by keyword; None = not given.
    Raises UserError for an option that would change what is learned.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        rule = f"cannot be given for a run that carries on, only {', '.join(changeable_options())} can"
        _require(name in RUN_OPTIONS, _flag(name), rule, value)
    args = copy.deepcopy(args)
    opts = TrainOptions(**{"data": args.training_set_kwargs.path, **given})
    if {"gpus", "processes"} & given.keys():
        args.num_gpus = opts.num_gpus
    if opts.gpus is not None:
        args.pop("device", None)
    if opts.gpus == 0:
        args.device = "cpu"
    if opts.kimg is not None:
        args.total_kimg = opts.kimg
    if opts.snap is not None:
        args.image_snapshot_ticks = args.network_snapshot_ticks = opts.snap
    if opts.metrics is not None:
        args.metrics = list(opts.metrics)
    if opts.workers is not None:
        args.data_loader_kwargs.num_workers = opts.workers
    _add_keeping(args, opts)
    args.training_set_kwargs.path = opts.data
    _check_same_data(args.training_set_kwargs)
    return args


def _check_same_data(training_set_kwargs: EasyDict) -> None:
    """Raise UserError unless the data set is there and holds as many images as the run began with."""
    kwargs = {key: value for key, value in training_set_kwargs.items() if key not in ("max_size", "xflip")}
    try:
        with contextlib.closing(dnnlib.util.construct_class_by_name(**kwargs)) as dataset:
            count = len(dataset)
    except (OSError, ValueError) as err:
        raise UserError(f"--data: {err}") from err
    expected = training_set_kwargs.get("max_size")
    _require(expected is None or count >= expected, "data", f"must hold the {expected} images of the run", count)


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
