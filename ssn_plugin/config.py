"""The cfgs `ssn` and `ssn-plus`: settings of Spatially Stochastic Networks in a host's tree of training options.

Beside them stand two to compare with: `ssn-baseline`, a StyleGAN2 of the same size and settings, and `spade`, an SSN
with SPADE layers. Only `register` and the functions with `_spec` and `_edit` in their names know this host's train.py;
everything else works on the option tree of any host.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ssn_plugin import options as table
from ssn_plugin.errors import UserError
from ssn_plugin.options import at_least, between, more_than, one_of, setting, settings_of

if TYPE_CHECKING:
    from training.config import CfgSpec

BlockGrids = tuple[tuple[int, int], ...]

GENERATOR, LOSS = "ssn_plugin.networks.SSNGenerator", "ssn_plugin.loss.DistortionLoss"
SPADE_GENERATOR = "ssn_plugin.spade.SpadeGenerator"
SHEET = "ssn_plugin.redraw_sheet.RedrawSheet"
R1_GAMMA = 1          # as in the paper, like the path length weight and the mapping layers of SSNConfig
BLOCK_DIM_CUDA = 512  # the paper's
BLOCK_DIM_CPU = 64
CHANNELS_CPU = 32
ENCODERS = ("gated", "none")
ENCODER_INITS = ("zero", "random")
REDUCTIONS = ("mean", "sum")
SPACES = ("pixels", "features", "features-efficientnet", "features-lpips", "wasserstein")
REWARDS = ("log", "linear")

EMPTY: Mapping[str, Any] = types.MappingProxyType({})


def parse_block_grids(text: str) -> BlockGrids:
    """`4x4` -> ((4, 4),), rows first; several grids are joined by `+`."""
    grids = [re.fullmatch(r"(\d+)x(\d+)", part) for part in text.split("+")]
    if not all(grids):
        raise UserError(f"--blocks must be rows x columns such as 4x4, got {text}")
    return tuple((int(grid[1]), int(grid[2])) for grid in grids if grid)


def format_block_grids(grids: BlockGrids) -> str:
    """((1, 1), (4, 4)) -> `1x1+4x4`."""
    return "+".join(f"{rows}x{cols}" for rows, cols in grids)


@dataclasses.dataclass(frozen=True)
class SSNConfig:
    """Settings of the SSN generator and of its loss.

    The one place for each: its option of train.py, its default, its rule, the argument it becomes, its part of the
    run's name. A new setting of the loss needs an entry with `target="loss"`, and the code in the loss that uses it.
    """

    # (rows, cols) of each grid of latents, coarse to fine.
    block_grids: BlockGrids = setting(
        ((4, 4),), "--blocks", "RxC[+RxC]",
        "Rows x columns of the block grid, or of several from coarse to fine; the loss is about the blocks of the last",
        keyword="blocks", show=format_block_grids)
    distortion_weight: float = setting(
        100, "--lambda", "FLOAT", "Weight of the distortion outside a redrawn block", rule=at_least(0), target="loss")
    diversity_weight: float = setting(
        0, "--diversity", "FLOAT", "Weight of the reward for change inside a redrawn block",
        rule=at_least(0), target="loss")
    distortion_warmup: float = setting(
        0, "--lambda-warmup", "KIMG", "Thousands of images over which --lambda grows from 0 to its value",
        rule=at_least(0), target="loss", part="warmup")
    diversity_cap: float = setting(
        0.1, "--diversity-cap", "FLOAT", "Mean squared change inside a block beyond which more earns nothing",
        rule=more_than(0), target="loss", part="cap", needs="diversity_weight")
    diversity_reward: str = setting(
        "log", "--diversity-reward", None,
        "Reward the change up to the cap, or its logarithm, which also wakes blocks that do nothing",
        rule=one_of(REWARDS), target="loss", part="", needs="diversity_weight")
    distortion_interval: int = setting(
        1, "--distortion-interval", "INT", "Compute both terms only at every N-th step, with N times the weights",
        rule=at_least(1), target="loss", part="interval")
    distortion_reduction: str = setting(
        "mean", "--distortion-reduction", None,
        "Mean over the pixels outside, or sum of the means of the blocks outside",
        rule=one_of(REDUCTIONS), target="loss", part="")
    distortion_space: str = setting(
        "pixels", "--distortion-space", None,
        "Measure distortion in pixels, in features (of a random VGG16, of EfficientNet-Lite0, of LPIPS), or by the "
        "sliced Wasserstein distance of patches",
        rule=one_of(SPACES), target="loss", part="", only_if_changed=True)
    distortion_batch_shrink: int = setting(4, rule=at_least(1), target="loss")  # redraw a block of 1/N of the batch
    pl_weight: float = setting(2, target="loss")  # of path length regularisation
    pl_outside_weight: float = setting(
        1, "--pl-outside", "FLOAT",
        "Regularise the path lengths of single blocks, with this weight outside the block and 1 inside; "
        "1 = StyleGAN2's path length",
        rule=at_least(0), target="loss", part="ploutside", only_if_changed=True)
    encoder: str = setting(
        "gated", "--encoder", None, "Spatial encoder of the block latents, behind a learned gate, or interpolation",
        rule=one_of(ENCODERS), target="synthesis", part="encoder")
    encoder_init: str | None = setting(
        None, "--encoder-init", None,
        "Start of the encoder: with its gates closed (zero), which keeps the images of a StyleGAN2 given with "
        "--resume, or open (random)",
        rule=one_of(ENCODER_INITS), part="init", shown="zero with such a network, else random")
    style_resolution: int | None = setting(
        None, "--style-resolution", "INT", "Finest resolution of the style maps; 0 = exact everywhere",
        target="synthesis", part="styles", shown="from the grid")
    block_dim: int = setting(  # in the z and in the w of one block
        BLOCK_DIM_CUDA, "--block-dim", "INT", "Latent numbers per block", rule=at_least(1), part="dim",
        shown=f"{BLOCK_DIM_CUDA}; {BLOCK_DIM_CPU} on the CPU", for_baseline=True)
    channels: int | None = setting(
        None, "--channels", "INT", "Channels at full resolution; half the resolution and less has twice as many",
        rule=at_least(1), part="channels", shown=f"{CHANNELS_CPU} on the CPU, else as --cfg=auto",
        for_baseline=True)
    channels_max: int | None = setting(
        None, "--channels-max", "INT",
        "Most channels: they double with every halving of the resolution up to this number, which costs little where "
        "pixels are few",
        rule=at_least(1), part="max",
        shown=f"twice --channels, {2 * CHANNELS_CPU} on the CPU, else as --cfg=auto", for_baseline=True)
    style_mixing_prob: float = setting(
        0.9, "--style-mixing", "FLOAT", "Share of the training images that mix the styles of two latents",
        rule=between(0, 1), target="loss", part="mixing", for_baseline=True)
    mapping_layers: int = setting(8)  # depth of the MLP that all blocks share

    def __post_init__(self) -> None:
        self._check_block_grids()
        table.check_rules(self)
        if self.channels is not None and self.channels_max is not None and self.channels_max < self.channels:
            raise UserError(f"--channels-max must be at least the --channels {self.channels}, got {self.channels_max}")
        if self.encoder_init is not None and self.encoder == "none":
            raise UserError(f"--encoder-init has no effect with --encoder=none, got {self.encoder_init}")
        self._check_style_resolution()
        if self.distortion_space != "pixels" and self.distortion_reduction != "mean":
            raise UserError("--distortion-reduction must be mean with a --distortion-space other than pixels, "
                            f"got {self.distortion_reduction}")

    def kwargs(self, target: str) -> dict[str, Any]:
        """Those settings that are arguments of the "loss" or of the "synthesis" network."""
        return {
            name: getattr(self, name) for name, (field, kind) in settings_of(self).items()
            if kind.target == target and not (kind.only_if_changed and getattr(self, name) == field.default)
        }

    def _check_block_grids(self) -> None:
        names = format_block_grids(self.block_grids)
        if any(side < 1 for grid in self.block_grids for side in grid):
            raise UserError(f"--blocks must have at least one row and one column, got {names}")
        for coarse, fine in zip(self.block_grids, self.block_grids[1:]):
            if coarse == fine or coarse[0] > fine[0] or coarse[1] > fine[1]:
                raise UserError(f"--blocks must name grids from coarse to fine such as 1x1+4x4, got {names}")

    def _check_style_resolution(self) -> None:
        if not self.style_resolution:  # 0 or None
            return
        size, largest = self.style_resolution, max(side for grid in self.block_grids for side in grid)
        if size < 4 or size & (size - 1):
            raise UserError(f"--style-resolution must be 0 or a power of two of at least 4, got {size}")
        if size < largest:
            raise UserError(f"--style-resolution must be at least the {largest} blocks of the grid's side, got {size}")


def ssn_kwargs(args: dict[str, Any], config: SSNConfig) -> dict[str, Any]:
    """Turn a host's option tree for StyleGAN2, such as that of `--cfg=auto`, into one for an SSN.

    args: keyword arguments of `training_loop`. Returns an edited copy; everything that `config` does not speak of
    (precision, batch, optimisers, R1, data, augmentation) stays as it is. Raises ValueError if the grid does not fit
    the images.
    """
    from ssn_plugin.networks import check_block_grid, side_lengths  # imports torch

    resolution = args["training_set_kwargs"]["resolution"]
    height, width = side_lengths(resolution)
    if min(height, width) < 8:
        raise UserError(f"--cfg=ssn needs images of at least 8x8 pixels, got {width}x{height}")
    check_block_grid(config.block_grids, resolution)
    args = copy.deepcopy(args)
    G_kwargs = args["G_kwargs"]
    for name in ["z_dim", "w_dim"]:  # they follow from the grid
        G_kwargs.pop(name, None)
    G_kwargs.update(
        class_name=GENERATOR,
        block_grid=[list(grid) for grid in config.block_grids],
        block_z_dim=config.block_dim,
        block_w_dim=config.block_dim,
    )
    G_kwargs["mapping_kwargs"].update(num_layers=config.mapping_layers)
    G_kwargs["synthesis_kwargs"].update(config.kwargs("synthesis"))
    if config.encoder_init is not None:
        G_kwargs["synthesis_kwargs"].update(encoder_gate=0.0 if config.encoder_init == "zero" else 1.0)
    set_channels(args, config.channels, config.channels_max)
    args["loss_kwargs"].update(class_name=LOSS, **config.kwargs("loss"))
    return args


def baseline_kwargs(args: dict[str, Any], config: SSNConfig) -> dict[str, Any]:
    """Turn a host's option tree for StyleGAN2 into that of the StyleGAN2 which an SSN of `config` is compared with.

    Its latent is as wide as that of one block, so that the mapping networks are equal; the channels and all other
    settings that both have are equal, too. Returns an edited copy.
    """
    args = copy.deepcopy(args)
    args["G_kwargs"].update(z_dim=config.block_dim, w_dim=config.block_dim)
    args["G_kwargs"]["mapping_kwargs"].update(num_layers=config.mapping_layers)
    args["loss_kwargs"].update(pl_weight=config.pl_weight, style_mixing_prob=config.style_mixing_prob)
    set_channels(args, config.channels, config.channels_max)
    return args


def set_channels(args: dict[str, Any], channels: int | None, channels_max: int | None) -> None:
    """Set the channels of both networks at full resolution, and their maximum below; None keeps what there is.

    Without a maximum of their own there are twice as many below.
    """
    size: dict[str, int] = {}
    if channels is not None:
        from ssn_plugin.networks import nominal_side  # imports torch

        side = nominal_side(args["training_set_kwargs"]["resolution"])
        size.update(channel_base=channels * side, channel_max=2 * channels)
    if channels_max is not None:
        size.update(channel_max=channels_max)
    if size:
        args["G_kwargs"]["synthesis_kwargs"].update(size)
        args["D_kwargs"].update(size)


# Where `--cfg=ssn-plus` differs from `--cfg=ssn`: a global code for what blocks share, and a reward for blocks that do
# something.
SSN_PLUS: dict[str, Any] = dict(block_grids=((1, 1), (4, 4)), diversity_weight=5)


def options(only_baseline: bool = False) -> list[click.Option]:
    """Options that the SSN cfgs add to train.py, or those of them that the baseline shares."""
    return [
        table.click_option(field, kind, presets={} if only_baseline else {"ssn-plus": SSN_PLUS})
        for field, kind in settings_of(SSNConfig).values()
        if kind.flag is not None and (kind.for_baseline or not only_baseline)
    ]


def register() -> None:
    """Add the cfgs to this host's train.py."""
    from training.config import CfgExtension, register_cfg

    classes = (GENERATOR, LOSS, SHEET)
    register_cfg(CfgExtension(
        "ssn", options(), _spec, _edit, take_over=_take_over, classes=classes, suits_cpu=True))
    edit = functools.partial(_edit, preset=SSN_PLUS)
    register_cfg(CfgExtension("ssn-plus", options(), _spec, edit, classes=classes, suits_cpu=True))
    shared = options(only_baseline=True)
    register_cfg(CfgExtension(
        name="ssn-baseline", options=shared, spec=_spec, edit=_edit_baseline, suits_cpu=True))
    register_cfg(CfgExtension(
        "spade", options(), _spec_spade, _edit_spade, classes=(SPADE_GENERATOR, LOSS, SHEET), suits_cpu=True))


def _spec(resolution: int, gpus: int, device: str) -> CfgSpec:
    """Defaults as those of `auto`, with the paper's R1 weight and mapping depth; a slimmer network on the CPU."""
    from training.config import auto_spec

    spec = dataclasses.replace(auto_spec(resolution, gpus), gamma=R1_GAMMA, mapping_layers=SSNConfig.mapping_layers)
    if device == "cpu":
        # 32 channels at full resolution and 64 below: about fifty 32x32 images a second for each core.
        fmaps = CHANNELS_CPU * resolution / 32768
        spec = dataclasses.replace(
            spec, fmaps=fmaps, channel_max=2 * CHANNELS_CPU, num_fp16_res=0, conv_clamp=None)
    return spec


def _spec_spade(resolution: int, gpus: int, device: str) -> CfgSpec:
    """In full precision: without demodulation, activations have no bound that half precision could rely on."""
    return dataclasses.replace(_spec(resolution, gpus, device), num_fp16_res=0, conv_clamp=None)


def _edit_spade(args: Any, given: dict[str, Any], device: str) -> tuple[Any, list[str]]:
    networks = _networks_to_start_from(args)
    kind = "SpadeGenerator" if networks is None else type(networks["G"]).__name__
    if kind != "SpadeGenerator":
        raise UserError(f"--resume must name a network of --cfg=spade for --cfg=spade, got a {kind}")
    edited, parts = _edit(args, given, device)
    edited["G_kwargs"]["class_name"] = SPADE_GENERATOR
    return edited, parts


def _edit(
    args: Any, given: dict[str, Any], device: str, preset: Mapping[str, Any] = EMPTY
) -> tuple[Any, list[str]]:
    _limit_preview(args, device)
    args["sheets"] = [dict(class_name=SHEET)]
    return apply_options(args, given, _block_dim(device), _networks_to_start_from(args), preset)


def _edit_baseline(args: Any, given: dict[str, Any], device: str) -> tuple[Any, list[str]]:
    _limit_preview(args, device)
    shared = [name for name, (_field, kind) in settings_of(SSNConfig).items() if kind.for_baseline]
    settings = {name: given[name] for name in shared if given.get(name) is not None}
    config = SSNConfig(**{"block_dim": _block_dim(device), **settings})
    edited, networks = baseline_kwargs(args, config), _networks_to_start_from(args)
    if networks is not None:
        from ssn_plugin import from_stylegan2  # imports torch

        _refuse_with_resume(settings, "channels", "channels_max", "block_dim")
        edited = from_stylegan2.adopt_structure(edited, networks)
    return edited, _given_parts(given)


def _networks_to_start_from(args: Any) -> Mapping[str, Any] | None:
    """Content of the file that --resume names, if any."""
    if args.get("resume_pkl") is None:
        return None
    from training.network_files import load_networks  # imports torch

    return load_networks(args["resume_pkl"], trust=args.get("trust_pickle", False))


def _refuse_with_resume(settings: Mapping[str, Any], *names: str) -> None:
    """ValueError if one of these settings was given beside a network that decides on it."""
    for name in names:
        if name in settings:
            flag = settings_of(SSNConfig)[name][1].flag
            raise UserError(f"{flag} cannot be given with --resume, whose networks decide, got {settings[name]}")


def _block_dim(device: str) -> int:
    return BLOCK_DIM_CPU if device == "cpu" else BLOCK_DIM_CUDA


def _limit_preview(args: Any, device: str) -> None:
    if device == "cpu":
        args["preview_size"] = [16, 8]  # a full preview of 8K takes as long as many steps


def _take_over(networks: Mapping[str, Any], run: Mapping[str, Any]) -> list[str] | None:
    from ssn_plugin import from_stylegan2  # imports torch

    return from_stylegan2.take_over(networks, run)


def apply_options(
    args: dict[str, Any],
    given: Mapping[str, Any],                     # values of `options()` by keyword, None = not given
    block_dim: int = BLOCK_DIM_CUDA,              # where neither options nor networks say it
    networks: Mapping[str, Any] | None = None,    # content of the file that the run starts from
    preset: Mapping[str, Any] = EMPTY,            # fields of SSNConfig, where neither options nor networks say it
) -> tuple[dict[str, Any], list[str]]:
    """Turn a host's option tree for StyleGAN2 into the SSN that the options ask for.

    A network to start from decides the widths, depths and architecture, and an SSN also the grid and the encoder, as
    far as no option does. Returns the edited tree and the parts of the run's name. Raises ValueError for options that
    contradict each other or that network.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    if "blocks" in settings:
        settings["block_grids"] = parse_block_grids(settings.pop("blocks"))
    settings.setdefault("block_dim", block_dim)
    if networks is None:
        config = _checked_config(preset, settings)
        return ssn_kwargs(args, config), _name_parts(config, given)

    from ssn_plugin import from_stylegan2  # imports torch

    _refuse_with_resume(settings, "channels", "channels_max")
    settings.update(_defaults_from(networks["G"], settings, given.get("block_dim")))
    if settings.get("style_resolution") is None:
        settings["style_resolution"] = _grown_style_resolution(networks["G"], args["training_set_kwargs"]["resolution"])
    config = _checked_config(preset, settings)
    edited = from_stylegan2.adopt_structure(ssn_kwargs(args, config), networks)
    edited["G_kwargs"]["synthesis_kwargs"].update(config.kwargs("synthesis"))
    return edited, _name_parts(config, given)


def _checked_config(preset: Mapping[str, Any], settings: Mapping[str, Any]) -> SSNConfig:
    """The settings of a cfg, overruled by those that were given."""
    config = SSNConfig(**{**preset, **settings})
    for name, (_field, kind) in settings_of(config).items():
        if kind.needs is not None and name in settings and getattr(config, kind.needs) == 0:
            needed = settings_of(config)[kind.needs][1].flag
            raise UserError(f"{kind.flag} has no effect without {needed}, got {table.show(settings[name])}")
    return config


def _defaults_from(G: Any, settings: Mapping[str, Any], block_dim: int | None) -> dict[str, Any]:
    """Fields of SSNConfig that a generator to start from decides where `settings` does not.

    block_dim: what the user asked for. Raises ValueError for what contradicts the generator.
    """
    from ssn_plugin import from_stylegan2

    structure = from_stylegan2.generator_structure(G)
    dims = structure["block_z_dim"], structure["block_w_dim"]
    if block_dim is not None and dims != (block_dim, block_dim):
        raise UserError(f"--block-dim must be that of --resume, z {dims[0]} and w {dims[1]}, got {block_dim}")
    defaults: dict[str, Any] = {}
    if from_stylegan2.is_ssn(G):
        defaults.update(block_grids=tuple(tuple(grid) for grid in G.block_grid))
        kwargs = structure["synthesis_kwargs"]
        defaults.update((name, kwargs[name]) for name in SSNConfig().kwargs("synthesis") if name in kwargs)
    if from_stylegan2.has_encoder(G):
        if "encoder_init" in settings:
            raise UserError("--encoder-init cannot be given with a --resume that holds a trained encoder, "
                            f"got {settings['encoder_init']}")
    elif {**defaults, **settings}.get("encoder") != "none":
        defaults.update(encoder_init="zero")
    return {name: value for name, value in defaults.items() if name not in settings}


def _grown_style_resolution(G: Any, resolution: int | list[int]) -> int | None:
    """The style resolution of an SSN that is to grow to another size of images, which follows from its size otherwise.

    None where there is nothing to keep.
    """
    from ssn_plugin.from_stylegan2 import is_ssn
    from ssn_plugin.networks import side_lengths

    level = getattr(G.synthesis, "style_level", 1)
    grows = is_ssn(G) and list(side_lengths(G.img_resolution)) != list(side_lengths(resolution))
    return level if grows and level >= max(4, *(side for grid in G.block_grid for side in grid)) else None


def _name_parts(config: SSNConfig, given: Mapping[str, Any]) -> list[str]:
    parts = [f"blocks{format_block_grids(config.block_grids)}", f"lambda{config.distortion_weight:g}"]
    if config.diversity_weight != 0:
        parts.append(f"diversity{config.diversity_weight:g}")
    return parts + _given_parts(given)


def _given_parts(given: Mapping[str, Any]) -> list[str]:
    """The settings that the user asked for, as parts of the run's name."""
    return [
        kind.part + table.show(given[name]) for name, (_field, kind) in settings_of(SSNConfig).items()
        if kind.part is not None and given.get(name) is not None
    ]
