"""The cfg `ssn`: settings of Spatially Stochastic Networks and their place in a host's tree of training options.

Only `register`, `_spec` and `_edit` know this host's train.py; everything else works on the option tree of any host.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from training.config import CfgSpec

BlockGrids = tuple[tuple[int, int], ...]

R1_GAMMA = 1          # as in the paper, like the path length weight and the mapping layers of SSNConfig
BLOCK_DIM_CUDA = 512  # the paper's
BLOCK_DIM_CPU = 64
ENCODERS = ("gated", "none")
ENCODER_INITS = ("zero", "random")
REDUCTIONS = ("mean", "sum")


@dataclasses.dataclass(frozen=True)
class SSNConfig:
    """Settings of the SSN generator and of its low-distortion loss."""

    block_grids: BlockGrids = ((4, 4),)    # (rows, cols) of each grid of latents, coarse to fine; one for now
    block_dim: int = BLOCK_DIM_CUDA        # numbers in the z and in the w of one block
    mapping_layers: int = 8                # depth of the MLP that all blocks share
    encoder: str = "gated"                 # spatial encoder behind a learned gate, or "none": interpolated blocks
    encoder_init: str | None = None        # its gates start closed ("zero") or open ("random", also None)
    style_resolution: int | None = None    # finest style map, in pixels; 0 = exact everywhere, None = from the grid
    pl_weight: float = 2                   # weight of path length regularisation
    distortion_weight: float = 100         # lambda; 0 switches the term off
    distortion_interval: int = 1           # the term at every k-th step only, with k times the weight
    distortion_reduction: str = "mean"     # over the pixels outside, or the "sum" of the means of the blocks outside
    distortion_batch_shrink: int = 2       # the term uses 1/n of the batch, as the path length does

    def __post_init__(self) -> None:
        names = "+".join(f"{rows}x{cols}" for rows, cols in self.block_grids)
        if any(side < 1 for grid in self.block_grids for side in grid):
            raise ValueError(f"--blocks must have at least one row and one column, got {names}")
        if len(self.block_grids) != 1:
            raise ValueError(f"--blocks must be one grid such as 4x4 in this version, got {names}")
        if self.block_dim < 1:
            raise ValueError(f"--block-dim must be at least 1, got {self.block_dim}")
        if self.encoder not in ENCODERS:
            raise ValueError(f"--encoder must be one of {', '.join(ENCODERS)}, got {self.encoder}")
        if self.encoder_init not in (None, *ENCODER_INITS):
            raise ValueError(f"--encoder-init must be one of {', '.join(ENCODER_INITS)}, got {self.encoder_init}")
        if self.encoder_init is not None and self.encoder == "none":
            raise ValueError(f"--encoder-init has no effect with --encoder=none, got {self.encoder_init}")
        self._check_style_resolution()
        if not 0 <= self.distortion_weight < math.inf:
            raise ValueError(f"--lambda must be at least 0, got {self.distortion_weight:g}")
        if self.distortion_interval < 1:
            raise ValueError(f"--distortion-interval must be at least 1, got {self.distortion_interval}")
        if self.distortion_reduction not in REDUCTIONS:
            choices = ", ".join(REDUCTIONS)
            raise ValueError(f"--distortion-reduction must be one of {choices}, got {self.distortion_reduction}")
        if self.distortion_batch_shrink < 1:
            raise ValueError(f"distortion_batch_shrink must be at least 1, got {self.distortion_batch_shrink}")

    def _check_style_resolution(self) -> None:
        if not self.style_resolution:  # 0 or None
            return
        size, largest = self.style_resolution, max(side for grid in self.block_grids for side in grid)
        if size < 4 or size & (size - 1):
            raise ValueError(f"--style-resolution must be 0 or a power of two of at least 4, got {size}")
        if size < largest:
            raise ValueError(f"--style-resolution must be at least the {largest} blocks of the grid's side, got {size}")


def parse_block_grids(text: str) -> BlockGrids:
    """`4x4` -> ((4, 4),), rows first; several grids are joined by `+`."""
    grids = [re.fullmatch(r"(\d+)x(\d+)", part) for part in text.split("+")]
    if not all(grids):
        raise ValueError(f"--blocks must be rows x columns such as 4x4, got {text}")
    return tuple((int(grid[1]), int(grid[2])) for grid in grids if grid)


def ssn_kwargs(args: dict[str, Any], config: SSNConfig) -> dict[str, Any]:
    """Turn a host's option tree for StyleGAN2, such as that of `--cfg=auto`, into one for an SSN.

    args: keyword arguments of `training_loop`. Returns an edited copy; everything that `config` does not speak of
    (channels, precision, batch, optimisers, R1, data, augmentation) stays as it is. Raises ValueError if the grid does
    not fit the images.
    """
    resolution = args["training_set_kwargs"]["resolution"]
    if resolution < 8:
        raise ValueError(f"--cfg=ssn needs images of at least 8x8 pixels, got {resolution}x{resolution}")
    for rows, cols in config.block_grids:
        if resolution % rows or resolution % cols:
            raise ValueError(f"grid {rows}x{cols} does not divide the {resolution}x{resolution} image")
    args = copy.deepcopy(args)
    G_kwargs = args["G_kwargs"]
    for name in ["z_dim", "w_dim"]:  # they follow from the grid
        G_kwargs.pop(name, None)
    G_kwargs.update(
        class_name="ssn_plugin.networks.SSNGenerator",
        block_grid=[list(grid) for grid in config.block_grids],
        block_z_dim=config.block_dim,
        block_w_dim=config.block_dim,
    )
    G_kwargs["mapping_kwargs"].update(num_layers=config.mapping_layers)
    G_kwargs["synthesis_kwargs"].update(encoder=config.encoder, style_resolution=config.style_resolution)
    if config.encoder_init is not None:
        G_kwargs["synthesis_kwargs"].update(encoder_gate=0.0 if config.encoder_init == "zero" else 1.0)
    args["loss_kwargs"].update(
        class_name="ssn_plugin.loss.DistortionLoss",
        pl_weight=config.pl_weight,
        distortion_weight=config.distortion_weight,
        distortion_interval=config.distortion_interval,
        distortion_reduction=config.distortion_reduction,
        distortion_batch_shrink=config.distortion_batch_shrink,
    )
    return args


def options() -> list[click.Option]:
    """Options that `--cfg=ssn` adds to train.py; their keywords are fields of SSNConfig, but for `blocks`."""
    return [
        click.Option(["--blocks"], metavar="RxC", help="SSN: rows x columns of the block grid  [default: 4x4]"),
        click.Option(
            ["--lambda", "distortion_weight"], type=float, metavar="FLOAT",
            help="SSN: weight of the distortion outside a redrawn block  [default: 100]",
        ),
        click.Option(
            ["--distortion-interval"], type=int, metavar="INT",
            help="SSN: compute the distortion every k-th step only, with k times the weight  [default: 1]",
        ),
        click.Option(
            ["--distortion-reduction"], type=click.Choice(REDUCTIONS),
            help="SSN: mean over the outside pixels, or sum of the outside blocks' means  [default: mean]",
        ),
        click.Option(
            ["--encoder"], type=click.Choice(ENCODERS),
            help="SSN: spatial encoder of the block latents  [default: gated]",
        ),
        click.Option(
            ["--encoder-init"], type=click.Choice(ENCODER_INITS),
            help="SSN: start of the encoder; zero = its gates are closed, which keeps the images of a StyleGAN2 given "
                 "with --resume  [default: zero with such a network, else random]",
        ),
        click.Option(
            ["--style-resolution"], type=int, metavar="INT",
            help="SSN: finest resolution of the style maps; 0 = exact everywhere  [default: from the grid]",
        ),
        click.Option(
            ["--block-dim"], type=int, metavar="INT",
            help=f"SSN: latent numbers per block  [default: {BLOCK_DIM_CUDA}; {BLOCK_DIM_CPU} on the CPU]",
        ),
    ]


def register() -> None:
    """Add `--cfg=ssn` to this host's train.py."""
    from training.config import CfgExtension, register_cfg

    register_cfg(CfgExtension(name="ssn", options=options(), spec=_spec, edit=_edit, take_over=_take_over))


def _spec(resolution: int, gpus: int, device: str) -> CfgSpec:
    """Defaults as those of `auto`, with the paper's R1 weight and mapping depth; a slimmer network on the CPU."""
    from training.config import auto_spec

    spec = dataclasses.replace(auto_spec(resolution, gpus), gamma=R1_GAMMA, mapping_layers=SSNConfig.mapping_layers)
    if device == "cpu":
        # 32 channels at full resolution and 64 below: about fifty 32x32 images a second for each core.
        spec = dataclasses.replace(spec, fmaps=resolution / 1024, channel_max=64, num_fp16_res=0, conv_clamp=None)
    return spec


def _edit(args: Any, given: dict[str, Any], device: str) -> tuple[Any, list[str]]:
    networks = None
    if args.get("resume_pkl") is not None:
        from ssn_plugin import host  # imports torch

        networks = host.load_networks(args["resume_pkl"], trust=args.get("trust_pickle", False))
    if device == "cpu":
        args["preview_size"] = [16, 8]  # a full preview of 8K takes as long as many steps
    block_dim = BLOCK_DIM_CPU if device == "cpu" else BLOCK_DIM_CUDA
    return apply_options(args, given, block_dim, networks)


def _take_over(networks: Mapping[str, Any], run: Mapping[str, Any]) -> list[str] | None:
    from ssn_plugin import transfer  # imports torch

    return transfer.take_over(networks, run)


def apply_options(
    args: dict[str, Any],
    given: Mapping[str, Any],                     # values of `options()` by keyword, None = not given
    block_dim: int = BLOCK_DIM_CUDA,              # where neither options nor networks say it
    networks: Mapping[str, Any] | None = None,    # content of the file that the run starts from
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
        config = SSNConfig(**settings)
        return ssn_kwargs(args, config), _name_parts(config, given)

    from ssn_plugin import transfer  # imports torch

    settings.update(_defaults_from(networks["G"], settings, given.get("block_dim")))
    config = SSNConfig(**settings)
    edited = transfer.adopt_structure(ssn_kwargs(args, config), networks)
    encoding = dict(encoder=config.encoder, style_resolution=config.style_resolution)
    edited["G_kwargs"]["synthesis_kwargs"].update(encoding)
    return edited, _name_parts(config, given)


def _defaults_from(G: Any, settings: Mapping[str, Any], block_dim: int | None) -> dict[str, Any]:
    """Fields of SSNConfig that a generator to start from decides where `settings` does not.

    block_dim: what the user asked for. Raises ValueError for what contradicts the generator.
    """
    from ssn_plugin import transfer

    structure = transfer.generator_structure(G)
    dims = structure["block_z_dim"], structure["block_w_dim"]
    if block_dim is not None and dims != (block_dim, block_dim):
        raise ValueError(f"--block-dim must be that of --resume, z {dims[0]} and w {dims[1]}, got {block_dim}")
    defaults: dict[str, Any] = {}
    if transfer.is_ssn(G):
        defaults.update(block_grids=tuple(tuple(grid) for grid in G.block_grid))
        kwargs = structure["synthesis_kwargs"]
        defaults.update((name, kwargs[name]) for name in ("encoder", "style_resolution") if name in kwargs)
    if transfer.has_encoder(G):
        if "encoder_init" in settings:
            raise ValueError("--encoder-init cannot be given with a --resume that holds a trained encoder, "
                             f"got {settings['encoder_init']}")
    elif {**defaults, **settings}.get("encoder") != "none":
        defaults.update(encoder_init="zero")
    return {name: value for name, value in defaults.items() if name not in settings}


def _name_parts(config: SSNConfig, given: Mapping[str, Any]) -> list[str]:
    grids = "+".join(f"{rows}x{cols}" for rows, cols in config.block_grids)
    parts = [f"blocks{grids}", f"lambda{config.distortion_weight:g}"]
    for option, prefix in [
        ("distortion_interval", "interval"),
        ("distortion_reduction", ""),
        ("encoder", "encoder"),
        ("encoder_init", "init"),
        ("style_resolution", "styles"),
        ("block_dim", "dim"),
    ]:
        if given.get(option) is not None:
            parts.append(f"{prefix}{given[option]}")
    return parts
