"""The values of --cfg and --augpipe: tables, and a register to which a plugin adds a cfg of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dnnlib import EasyDict
from dnnlib.util import UserError
from training.plugins import import_cfgs

if TYPE_CHECKING:
    import click


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
    spec: Callable[[int, int, str], CfgSpec]     # (side, see config.cfg_spec, GPUs, "cuda" or "cpu") -> defaults
    # (tree, values of `options` by name, "cuda" or "cpu") -> (edited tree, parts of the run's name)
    edit: Callable[[EasyDict, dict[str, Any], str], tuple[EasyDict, list[str]]]
    # (networks of a file, networks of the run) -> what was not taken over, a line each; None where the tensors of both
    # match by name and nothing was done
    take_over: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str] | None] | None = None
    suits_cpu: bool = False                      # are its networks small enough for a processor, where there is no GPU?
    classes: Sequence[str] = ()                  # dotted names in the tree; a run folder may name no others


# Classes that the host's own cfgs name.
HOST_CLASSES = (
    "training.dataset.ImageFolderDataset", "training.networks.Generator", "training.networks.Discriminator",
    "training.projected.ProjectedDiscriminator", "training.loss.StyleGAN2Loss", "training.augment.AugmentPipe",
    "torch.optim.Adam",
)

_extensions: dict[str, CfgExtension] = {}


def register_cfg(extension: CfgExtension) -> None:
    """Offer another `--cfg`. Registering a name again replaces it, so that reloading a plugin does no harm."""
    if extension.name == "auto" or extension.name in CFG_TABLE:
        raise UserError(f"a plugin cannot replace the built-in cfg {extension.name}")
    _extensions[extension.name] = extension


def cfg_names() -> list[str]:
    """Every value of `--cfg`, the default first."""
    return ["auto", *CFG_TABLE, *_extensions]


def extension_options() -> dict[str, click.Option]:
    """Options that the registered extensions add to train.py, by keyword; extensions may share an option."""
    return {str(option.name): option for extension in _extensions.values() for option in extension.options}


def known_classes() -> set[str]:
    """Dotted names of the classes that the host and the registered extensions build runs of."""
    return {*HOST_CLASSES, *(name for extension in _extensions.values() for name in extension.classes)}


def extension(cfg: str) -> CfgExtension | None:
    """The registered extension of this name."""
    return _extensions.get(cfg)


def owners(option: str) -> list[str]:
    """The cfgs that an option, by keyword, can be given with."""
    return [e.name for e in _extensions.values() if option in [own.name for own in e.options]]


def made_for_gpus(cfg: str) -> str | None:
    """What to tell somebody who trains with this cfg on a CPU; None where it is made for that, too."""
    own = extension(cfg)
    if own is not None and own.suits_cpu:
        return None
    others = [e.name for e in _extensions.values() if e.suits_cpu]
    return f"--cfg={cfg} has networks of the size that suits a GPU, and will take days or weeks on a CPU" + (
        f"; --cfg={'|'.join(others)} choose smaller ones there" if others else "")


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
