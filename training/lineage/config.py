"""The cfgs of the ancestors: `progan`, `stylegan`, `stylegan2-b` to `-f`, `msggan`.

Numbers are the papers': Progressive GAN (Karras et al. 2018, arXiv:1710.10196, appendix A), StyleGAN (Karras et al.
2019, arXiv:1812.04948, appendix C), StyleGAN2's Table 1 (Karras et al. 2020a, arXiv:1912.04958), MSG-GAN (Karnewar and
Wang 2020, arXiv:1903.06048).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from dnnlib.util import UserError
from training.run import cfgs
from training.run.cfgs import CfgExtension, CfgSpec, register_cfg
from training.run.option_table import at_least, click_options, flag_of, option, options_of

NETWORKS = "training.lineage.networks"
LOSSES = "training.lineage.losses"
CLASSES = [
    *(f"{NETWORKS}.{name}"
      for name in ("ProGANGenerator", "StyleGANGenerator", "GrowingDiscriminator", "MSGDiscriminator")),
    *(f"{LOSSES}.{name}" for name in ("WGANGPLoss", "MSGLoss", "GrowingLoss")),
]
GROW_KIMG = {"progan": 800, "stylegan": 600}   # thousands of images for which a level fades in, and then stays
GROUP = "Older networks (--cfg=progan, msggan, stylegan, stylegan2-b to -d)"
FIRST_STAGE = {"progan": 0, "stylegan": 1}     # growing begins with 4x4 and 8x8 pixels

Tree = Any
Edit = Callable[[Tree, dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class GrowOptions:
    """Options of these cfgs. None: not given."""

    grow_kimg: float | None = option(
        GROUP, None, "KIMG", "Thousands of images for which a resolution fades in, and then stays; 0 = do not grow",
        rule=at_least(0), part="grow{:g}", shown="800; 600 in stylegan and stylegan2-b to -d")
    grow_channels: int | None = option(
        GROUP, None, "INT", "Channels at full resolution; below at most twice as many, or --grow-channels-max",
        rule=at_least(1), part="channels{}", shown="from cfg")
    grow_channels_max: int | None = option(
        GROUP, None, "INT", "Channels at low resolutions, at most", rule=at_least(1), part="max{}", shown="from cfg")


def spec(side: int, gpus: int, device: str, base: str = "progan") -> CfgSpec:
    """Batch and length of `--cfg=auto`, which suits any number of GPUs; everything else as published."""
    auto = cfgs.auto_spec(side, gpus)
    published = CfgSpec(
        ref_gpus=auto.ref_gpus, kimg=25000, batch=auto.batch, mbstd=auto.mbstd, fmaps=0.5, lr=0.001, gamma=10,
        ema_kimg=10, ema_rampup=auto.ema_rampup, mapping_layers=8, num_fp16_res=0, conv_clamp=None,
    )
    return published if base == "progan" else dataclasses.replace(published, lr=0.0015 if side >= 128 else 0.001)


def ladder_spec(side: int, gpus: int, device: str, fmaps: float) -> CfgSpec:
    """Of configs E and F, which are `--cfg=stylegan2` with half and with all of its channels."""
    return dataclasses.replace(cfgs.CFG_TABLE["stylegan2"], fmaps=fmaps)


def make_progan(args: Tree, given: dict[str, Any]) -> None:
    use_networks(args, given, "ProGANGenerator", "GrowingDiscriminator")
    use_loss(args, "WGANGPLoss", **growth(given, "progan"))
    regularise_always(args)


def make_msggan(args: Tree, given: dict[str, Any]) -> None:
    if given["grow_kimg"]:
        raise UserError(f"--grow-kimg has no effect with --cfg=msggan, which does not grow, got {given['grow_kimg']}")
    mbstd = args.D_kwargs.epilogue_kwargs.mbstd_group_size
    use_networks(args, given, "ProGANGenerator", "MSGDiscriminator")
    for name in ("block_kwargs", "mapping_kwargs", "epilogue_kwargs"):
        args.D_kwargs.pop(name, None)
    args.D_kwargs.mbstd_group_size = mbstd
    use_loss(args, "MSGLoss")
    regularise_always(args)


def make_stylegan(args: Tree, given: dict[str, Any], config: str) -> None:
    """Config A, or one of B to D, which add demodulation, lazy regularisation, and the path length penalty."""
    use_networks(args, given, "StyleGANGenerator", "GrowingDiscriminator")
    args.G_kwargs.synthesis_kwargs.layer = "adain" if config == "a" else "demod"
    kept = {name: value for name, value in args.loss_kwargs.items() if name == "r1_gamma"}
    use_loss(args, "GrowingLoss", **growth(given, "stylegan"), **kept, pl_weight=2 if config == "d" else 0)
    if config in "ab":
        regularise_always(args)


def use_networks(args: Tree, given: dict[str, Any], generator: str, discriminator: str) -> None:
    """Name the classes, and leave only arguments that they know."""
    width = width_of(args, given)
    args.G_kwargs.update(class_name=f"{NETWORKS}.{generator}", synthesis_kwargs=type(args)(width))
    if generator == "ProGANGenerator":
        del args.G_kwargs["mapping_kwargs"]
    args.D_kwargs.update(class_name=f"{NETWORKS}.{discriminator}", **width)
    for name in ("architecture", "num_fp16_res", "conv_clamp"):
        args.D_kwargs.pop(name, None)


def width_of(args: Tree, given: dict[str, Any]) -> dict[str, int]:
    """Channels as `channel_base` and `channel_max`: those of the cfg, or what was asked for."""
    width = {name: args.D_kwargs[name] for name in ("channel_base", "channel_max")}
    if given["grow_channels"] is not None:
        side = math.isqrt(math.prod(sides(args.training_set_kwargs.resolution)))
        width.update(channel_base=given["grow_channels"] * side, channel_max=2 * given["grow_channels"])
    if given["grow_channels_max"] is not None:
        width.update(channel_max=given["grow_channels_max"])
    return width


def sides(resolution: Any) -> list[int]:
    return list(resolution) if isinstance(resolution, (list, tuple)) else [resolution, resolution]


def use_loss(args: Tree, name: str, **kwargs: Any) -> None:
    args.loss_kwargs = type(args)(class_name=f"{LOSSES}.{name}", **kwargs)


def growth(given: dict[str, Any], kind: str) -> dict[str, Any]:
    kimg = GROW_KIMG[kind] if given["grow_kimg"] is None else given["grow_kimg"]
    return dict(fade_kimg=kimg, hold_kimg=kimg, first_stage=FIRST_STAGE[kind])


def regularise_always(args: Tree) -> None:
    """Regularisation is part of every step, as it was before config C."""
    args.G_reg_interval = args.D_reg_interval = None


def make_skip(args: Tree, given: dict[str, Any]) -> None:
    """Configs E and F. The tree is that of `--cfg=stylegan2` already; other widths may be asked for."""
    if given["grow_kimg"] is not None:
        raise UserError(f"--grow-kimg has no effect with --cfg=stylegan2-e and -f, which do not grow, "
                        f"got {given['grow_kimg']}")
    width = width_of(args, given)
    args.G_kwargs.synthesis_kwargs.update(width)
    args.D_kwargs.update(width)


CFGS: dict[str, tuple[Callable[..., CfgSpec], Edit]] = {
    "progan": (spec, make_progan),
    "msggan": (spec, make_msggan),
    **{name: (functools.partial(spec, base="stylegan"), functools.partial(make_stylegan, config=config))
       for name, config in [("stylegan", "a"), ("stylegan2-b", "b"), ("stylegan2-c", "c"), ("stylegan2-d", "d")]},
    "stylegan2-e": (functools.partial(ladder_spec, fmaps=0.5), make_skip),
    "stylegan2-f": (functools.partial(ladder_spec, fmaps=1), make_skip),
}


def edited(args: Tree, given: dict[str, Any], device: str, edit: Edit) -> tuple[Tree, list[str]]:
    """The tree, and what was given as parts of the run's name."""
    kinds = options_of(GrowOptions)
    own = {name: given.get(name) for name in kinds}
    set_ones = {name: value for name, value in own.items() if value is not None}
    for name, value in set_ones.items():
        kinds[name].rule.check(flag_of(name), value)
    edit(args, own)
    if device == "cpu":
        args.preview_size = [16, 8]  # a full preview takes as long as many steps
    return args, [str(kinds[name].part).format(value) for name, value in set_ones.items()]


def register() -> None:
    for name, (spec_of, edit) in CFGS.items():
        register_cfg(CfgExtension(
            name, click_options(GrowOptions), spec_of, functools.partial(edited, edit=edit), classes=CLASSES,
            suits_cpu=True))
