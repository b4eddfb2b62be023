"""The options of train.py: the one place that states each with its help, default, rule and part of the run's name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from dnnlib.util import UserError
from training.formats.network_names import resolve_short_name
from training.plugins import import_metrics
from training.run.cfgs import AUGMENTATIONS, AUGPIPES, cfg_names, extension_options
from training.run.clock import parse_duration
from training.run.option_table import (
    Seconds,
    at_least,
    between,
    flag_of,
    more_than,
    one_of,
    option,
    options_of,
)
from training.run.run_options import RunOptions
from training.run.trackers import check_trackers

ARCHITECTURES = ("orig", "skip", "resnet")  # how resolutions are joined (Karras et al. 2020a, Figure 7)
GAN_LOSSES = ("logistic", "relativistic")

GENERAL = "General"
general = functools.partial(option, GENERAL)
data_set = functools.partial(option, "Data set")
configuration = functools.partial(option, "Configuration")
augmentation = functools.partial(option, "Augmentation of the discriminator's images")
transfer = functools.partial(option, "Transfer learning")
performance = functools.partial(option, "Performance")


def resume_part(value: str) -> str:
    """Part of the run's name for the value of --resume."""
    if value in ("noresume", "latest"):
        return value if value == "noresume" else ""
    return f"resume{value.replace(':', '-')}" if resolve_short_name(value) else "resumecustom"


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The host's options of train.py. Checks everything that can be checked without opening the data set."""

    # fmt: off
    gpus: int | None = general(
        None, "INT", "Number of GPUs, or of CPU processes on a machine without a GPU; 0 = the CPU, even if there "
                     "is a GPU. Under torchrun: 0, or the number of processes that it started",
        shown="1; under torchrun, the number of its processes", while_running=True)
    snap: int = general(
        RunOptions.network_snapshot_ticks, "INT", "Save images and networks every N ticks", rule=at_least(1),
        arguments=("image_snapshot_ticks", "network_snapshot_ticks"), while_running=True)
    snap_every: Seconds | None = general(
        None, "TIME", "Save images and networks after this time instead, such as 10m", rule=more_than(0),
        arguments=("snapshot_seconds",), shown="", while_running=True)
    for_: Seconds | None = general(
        None, "TIME", "Stop after this time, such as 90s, 10m, 2h or 1d, with everything saved. Each call, with "
                      "--continue too, has this time anew", rule=more_than(0),
        arguments=("stop_after",), shown="", while_running=True)
    tick: float | None = general(
        None, "KIMG", "Length of a tick in thousands of images", rule=more_than(0), arguments=("kimg_per_tick",),
        shown=f"{RunOptions.kimg_per_tick:g}")
    metrics: Sequence[str] = general(("fid50k_full",), None, 'Comma-separated, or "none"', while_running=True)
    keep: int | None = general(
        None, "INT", "Keep only the N newest networks", rule=at_least(1), arguments=("keep",), shown="all",
        while_running=True)
    keep_best: str | None = general(
        None, "METRIC", "Compute this metric, and keep the network with its best value", arguments=("keep_best",),
        shown="", while_running=True)
    log: Sequence[str] = general((), "LIST", "Report to wandb as well", shown="none", while_running=True)
    seed: int = general(RunOptions.random_seed, "INT", "Random seed", arguments=("random_seed",))

    data: str | None = data_set(
        None, "PATH", "Training images: a folder or a zip  [required, except with --continue]", shown="",
        while_running=True)
    cond: bool = data_set(False, "BOOL", "Condition on the labels in dataset.json", part="cond")
    subset: int | None = data_set(
        None, "INT", "Train on only N of the images, drawn at random", rule=at_least(1), part="subset{}", shown="all")
    mirror: bool = data_set(False, "BOOL", "Add the mirror image of every image", part="mirror")

    cfg: str = configuration("auto", None, "Base configuration", rule=one_of(cfg_names))
    g_arch: str | None = configuration(
        None, None, "How the generator joins resolutions", rule=one_of(ARCHITECTURES),
        arguments=("G_kwargs.synthesis_kwargs.architecture",), part="garch{}",
        shown="skip; with --cfg=ssn and --resume, that of the network")
    d_arch: str | None = configuration(
        None, None, "How the discriminator joins resolutions", rule=one_of(ARCHITECTURES),
        arguments=("D_kwargs.architecture",), part="darch{}",
        shown="resnet; orig in cifar; with --cfg=ssn and --resume, that of the network")
    projected: bool = configuration(
        False, "BOOL", "Judge images by pretrained features (extra [features]) with small heads on them, to learn in "
                       "fewer images", part="projected")
    gamma: float | None = configuration(
        None, "FLOAT", "Weight of R1 regularisation", rule=at_least(0), arguments=("loss_kwargs.r1_gamma",),
        part="gamma{:g}", shown="from cfg")
    gan_loss: str | None = configuration(
        None, None, "Loss of both networks: each image by itself (logistic), or a generated and a real one compared, "
                    "with R1 at both (relativistic)",
        rule=one_of(GAN_LOSSES), arguments=("loss_kwargs.adversarial",), part="{}", shown="logistic")
    kimg: int | None = configuration(
        None, "INT", "Length of the training in thousands of images", rule=at_least(1), arguments=("total_kimg",),
        part="kimg{}", shown="from cfg", while_running=True)
    batch: int | None = configuration(
        None, "INT", "Images per step over all GPUs", rule=at_least(1), arguments=("batch_size",), part="batch{}",
        shown="from cfg")
    batch_gpu: int | None = configuration(
        None, "INT", "Images of a step that a GPU handles at a time. The same --batch and --batch-gpu give the same "
                     "result on any number of GPUs",
        rule=at_least(1), arguments=("batch_gpu",), part="batchgpu{}", shown="from cfg, or --batch divided by --gpus")
    ema_kimg: float | None = configuration(
        None, "KIMG", "Half-life of the generator's moving average in thousands of images; a larger --batch needs a "
                      "longer one",
        rule=at_least(0), arguments=("ema_kimg",), part="ema{:g}", shown="from cfg")

    aug: str = augmentation("ada", None, "Strength of the augmentation", rule=one_of(AUGMENTATIONS), part="{}")
    p: float | None = augmentation(
        None, "FLOAT", "Augmentation probability, with --aug=fixed", rule=between(0, 1), arguments=("augment_p",),
        part="p{:g}", shown="")
    target: float = augmentation(0.6, "FLOAT", "Target of --aug=ada", rule=between(0, 1), part="target{:g}")
    augpipe: str = augmentation("bgc", None, "Augmentations to use", rule=one_of(list(AUGPIPES)), part="{}")

    resume: str = transfer(
        "noresume", "PKL", "Start from a network: path, URL, noresume, or a short name that --resume=help lists. "
                           "latest: carry on the run with these options that has the newest state below --outdir; "
                           "without a state there, start one",
        part=resume_part)
    trust_pickle: bool = transfer(
        False, None, "Run code that the --resume file carries; only if you trust it", shown="", while_running=True,
        click=dict(is_flag=True, default=None))
    resume_partial: bool = transfer(
        False, None, "Take from the --resume file what fits, though not everything does", part="partial", shown="",
        click=dict(is_flag=True, default=None))
    freezed: int | None = transfer(
        None, "INT", "Freeze the N layers of the discriminator that see the image first", rule=at_least(0),
        arguments=("D_kwargs.block_kwargs.freeze_layers",), part="freezed{}", shown="0")

    fp32: bool = performance(False, "BOOL", "Full precision everywhere")
    bf16: bool = performance(
        False, "BOOL", "On a CPU with AMX or AVX512-BF16, compute in bfloat16 what a GPU would compute in float16")
    nhwc: bool = performance(False, "BOOL", "Channels-last memory for half precision")
    nobench: bool = performance(False, "BOOL", "Switch cuDNN's benchmarking off")
    allow_tf32: bool = performance(False, "BOOL", "Let matrix products use TF32")
    cuda_graphs: bool = performance(
        False, "BOOL", "Capture each phase as a CUDA graph and replay it; speeds up small networks on a GPU")
    checkpoint_activations: bool = performance(
        False, "BOOL", "Save memory: compute activations again for the backward pass instead of keeping them",
        while_running=True)
    compile: bool = performance(
        False, "BOOL", "Compile with torch.compile what needs no second derivatives; takes minutes at the start",
        while_running=True)
    workers: int = performance(
        3, "INT", "Data loader processes", rule=at_least(1), arguments=("data_loader_kwargs.num_workers",),
        while_running=True)
    # fmt: on

    processes: int | None = None            # that a launcher has started; None: as many as --gpus says
    given: frozenset[str] = frozenset()     # names of the options that are not left to their defaults

    def __post_init__(self) -> None:
        self._check_processes()
        self._check_augmentation()
        for name, kind in options_of(self).items():
            if getattr(self, name) is not None:
                kind.rule.check(flag_of(name), getattr(self, name))
        if {"snap", "snap_every"} <= self.given:
            raise UserError(f"--snap-every takes the place of --snap, got both, --snap={self.snap}")
        if self.bf16 and self.fp32:
            raise UserError("--bf16 cannot be given with --fp32, got both")
        if self.projected:
            for name in self.given & {"gamma", "gan_loss", "d_arch", "freezed"}:
                raise UserError(f"{flag_of(name)} cannot be given with --projected, which has no such part, got "
                                f"{getattr(self, name)}")
        if self.batch is not None and self.batch % self.num_gpus != 0:
            raise UserError(f"--batch must be a multiple of --gpus={self.num_gpus}, got {self.batch}")
        check_metrics("--metrics", self.metrics if "metrics" in self.given else ())
        check_metrics("--keep-best", [self.keep_best] if self.keep_best is not None else ())
        check_trackers(self.log)

    @property
    def num_gpus(self) -> int:
        """Number of processes. Without a launcher, the CPU asked for by --gpus=0 counts as one."""
        if self.processes is not None:
            return self.processes
        return 1 if self.gpus is None else max(self.gpus, 1)

    def _check_processes(self) -> None:
        if not self.data:
            raise UserError("--data is required: a folder or zip of images")
        if self.gpus is not None:
            if self.gpus < 0 or self.gpus & (self.gpus - 1) != 0:
                raise UserError(f"--gpus must be a power of two, or 0 for the CPU, got {self.gpus}")
            if self.gpus != 0 and self.processes not in (None, self.gpus):
                raise UserError(f"--gpus must be 0 for the CPU or {self.processes}, the number of processes that were "
                                f"launched, got {self.gpus}")
        largest = 2**32 // self.num_gpus - 1  # as in StyleGAN2-ADA, where processes share the range
        between(0, largest).check("--seed", self.seed)

    def _check_augmentation(self) -> None:
        if self.aug == "fixed" and self.p is None:
            raise UserError("--p is required with --aug=fixed, got none")
        for name, owner in [("p", "fixed"), ("target", "ada")]:
            if name in self.given and self.aug != owner:
                raise UserError(f"--{name} can only be given with --aug={owner}, got --aug={self.aug}")
        if self.aug == "noaug" and "augpipe" in self.given:
            raise UserError(f"--augpipe cannot be given with --aug=noaug, got {self.augpipe}")


def read_options(options: Mapping[str, Any]) -> TrainOptions:
    """The options by keyword; None means that an option is not given."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() & {"for_", "snap_every"}:  # words where a program gives them
        given[name] = parse_duration(given[name])
    return TrainOptions(**given, given=frozenset(given))


def check_metrics(flag: str, names: Sequence[str]) -> None:
    """Raise UserError unless there are metrics of these names."""
    if not names:
        return  # the import below takes seconds
    from metrics import metric_main

    import_metrics()
    for name in names:
        if not metric_main.is_valid_metric(name):
            known = ", ".join(metric_main.list_valid_metrics())
            raise UserError(f"{flag} must be none or among {known}, got {name}")


def run_name(opts: TrainOptions, data_name: str, cfg_parts: Sequence[str]) -> str:
    """Name of a run: that of its data set, the cfg with `cfg_parts`, and the options that were given."""
    parts = [data_name]
    for name, kind in options_of(opts).items():
        value = getattr(opts, name)
        if name == "cfg":
            parts += [f"auto{opts.num_gpus}" if value == "auto" else value, *cfg_parts]
        elif name in opts.given and value is not False:
            parts.append(kind.part(value) if callable(kind.part) else kind.part.format(value))
    return "-".join(part for part in parts if part)


def flag(name: str) -> str:
    """An option of train.py, of the host or of a plugin, as it is typed, from its keyword."""
    extra = extension_options()
    return extra[name].opts[0] if name in extra else flag_of(name)


def changeable_options() -> list[str]:
    """The options that a run which carries on takes."""
    return [flag_of(name) for name, kind in options_of(TrainOptions).items() if kind.while_running]
