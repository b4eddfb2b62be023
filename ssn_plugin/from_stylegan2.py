"""Start a Spatially Stochastic Network from a trained StyleGAN2 (Hong et al. 2020, arXiv:2006.05394, section 3.4).

The mapping network becomes the stack that all blocks share, styled convolutions and RGB layers keep weights and
affines, the discriminator is taken over. Both generators name their tensors alike, so weights are copied by name; three
things differ: each grid has a mapping network of its own, the mean style is repeated for every block, and the spatial
encoder has no counterpart. Its gates start at 0: an image whose blocks all hold the same latent is then the image that
StyleGAN2 makes of that latent.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ssn_plugin.errors import UserError
from ssn_plugin.networks import SSNGenerator
from torch_utils import misc

# Start of the encoder: "zero" keeps the images of the source, "random" is the paper's own variant.
ENCODER_GATES = {"zero": 0.0, "random": 1.0}

W_AVG = "mapping.w_avg"
MAPPING_LAYER = re.compile(r"mapping\.(?:grid(?P<grid>\d+)_)?(?P<layer>fc\d+\..+)")  # those of grid 0 have no prefix
GENERATOR_ARGS = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")
SSN_ARGS = (
    "block_z_dim", "c_dim", "block_w_dim", "img_resolution", "img_channels", "block_grid", "mapping_kwargs",
    "synthesis_kwargs",
)
DISCRIMINATOR_ARGS = (
    "c_dim", "img_resolution", "img_channels", "architecture", "channel_base", "channel_max", "num_fp16_res",
    "conv_clamp", "cmap_dim", "block_kwargs", "mapping_kwargs", "epilogue_kwargs",
)

# Constructor arguments that decide which tensors there are and what they mean.
MAPPING_STRUCTURE = ("num_layers", "embed_features", "layer_features", "activation", "lr_multiplier", "w_avg_beta")
SYNTHESIS_STRUCTURE = (
    "channel_base", "channel_max", "architecture", "resample_filter", "kernel_size", "use_noise", "activation",
)
ENCODER_STRUCTURE = ("encoder", "style_resolution")  # of an SSN
PRECISION = ("num_fp16_res", "conv_clamp", "fp16_channels_last")
IMMATERIAL = ("fused_modconv_default", "encoder_gate")  # one way of two to the same image; an initial value
DISCRIMINATOR_STRUCTURE = ("architecture", "channel_base", "channel_max", "cmap_dim")
NESTED_DISCRIMINATOR_STRUCTURE = {
    "block_kwargs": ("activation", "resample_filter"),
    "mapping_kwargs": ("num_layers", "embed_features", "layer_features", "activation", "lr_multiplier"),
    "epilogue_kwargs": ("mbstd_num_channels", "activation"),
}


def is_ssn(G: Any) -> bool:
    """Does this generator have a grid of latents? Its class says nothing: a loaded one may come from another text."""
    return hasattr(G, "block_grid")


def has_encoder(G: Any) -> bool:
    """Does this generator hold a spatial encoder, as an SSN of more than one block does unless told otherwise?"""
    return getattr(G.synthesis, "encoder", None) is not None


def check_generator(G: Any) -> None:
    """Raise ValueError unless `G` is a StyleGAN2 generator or an SSN."""
    if not (hasattr(G, "mapping") and hasattr(getattr(G, "synthesis", None), "b4")):
        raise UserError(f"{type(G).__name__} is no StyleGAN2 generator: it has no mapping or no synthesis.b4")
    if G.z_dim < 1:
        raise UserError("a generator without latents (z_dim 0) cannot become a grid of them")


def generator_structure(G: Any) -> dict[str, Any]:
    """Constructor arguments of an SSN with the tensors of `G`, apart from its grid, label and image size.

    G: StyleGAN2 of any host, or an SSN, whose encoder is then included.  Hosts differ in defaults, so what can be read
    off the network is read there.
    """
    check_generator(G)
    given = constructor_kwargs(G, SSN_ARGS if is_ssn(G) else GENERATOR_ARGS)
    mapping = _pick(given.get("mapping_kwargs", {}), MAPPING_STRUCTURE)
    mapping.setdefault("num_layers", G.mapping.num_layers)
    mapping.setdefault("w_avg_beta", G.mapping.w_avg_beta)
    names = SYNTHESIS_STRUCTURE + ENCODER_STRUCTURE if is_ssn(G) else SYNTHESIS_STRUCTURE
    known = {*MAPPING_STRUCTURE, *names, *PRECISION, *IMMATERIAL}
    unknown = {*given.get("mapping_kwargs", {}), *given.get("synthesis_kwargs", {})} - known
    if unknown:
        raise UserError(f"the network was built with the arguments {', '.join(sorted(unknown))}, which an SSN has not")
    return dict(
        block_z_dim=G.block_z_dim if is_ssn(G) else G.z_dim,
        block_w_dim=G.block_w_dim if is_ssn(G) else G.w_dim,
        mapping_kwargs=mapping,
        synthesis_kwargs=_pick(given.get("synthesis_kwargs", {}), names),
    )


def generator_precision(G: Any) -> dict[str, Any]:
    """Constructor arguments of the synthesis network that change its rounding but none of its tensors."""
    given = constructor_kwargs(G, SSN_ARGS if is_ssn(G) else GENERATOR_ARGS)
    precision = _pick(given.get("synthesis_kwargs", {}), PRECISION)
    blocks = [getattr(G.synthesis, f"b{res}") for res in G.synthesis.block_resolutions]
    precision.setdefault("num_fp16_res", sum(block.use_fp16 for block in blocks))
    precision.setdefault("conv_clamp", blocks[0].conv1.conv_clamp)
    return precision


def discriminator_structure(D: Any) -> dict[str, Any]:
    """Constructor arguments that a discriminator with the tensors of `D` needs, apart from label and image size."""
    given = constructor_kwargs(D, DISCRIMINATOR_ARGS)
    nested = {key: _pick(given.get(key, {}), names) for key, names in NESTED_DISCRIMINATOR_STRUCTURE.items()}
    return {**_pick(given, DISCRIMINATOR_STRUCTURE), **{key: kwargs for key, kwargs in nested.items() if kwargs}}


def constructor_kwargs(module: Any, names: Sequence[str]) -> dict[str, Any]:
    """Arguments that a persistent module was built with, by keyword; `names` are those of positional arguments."""
    return {**dict(zip(names, module.init_args)), **module.init_kwargs}


def _pick(kwargs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: copy.deepcopy(kwargs[name]) for name in names if name in kwargs}


def adopt_structure(args: dict[str, Any], networks: Mapping[str, Any]) -> dict[str, Any]:
    """Give the networks of an option tree the widths, depths and architecture of those of a file.

    args: keyword arguments of `training_loop`, for an SSN or a StyleGAN2.  Returns an edited copy. Precision, minibatch
    groups and frozen layers stay those of the options: they belong to the run, not to the weights. Raises ValueError
    where the options ask for an architecture that is not that of the file, or for a StyleGAN2 where that is an SSN.
    """
    args = copy.deepcopy(args)
    _check_architecture("--g-arch", args["G_kwargs"]["synthesis_kwargs"], networks["G"])
    _check_architecture("--d-arch", args["D_kwargs"], networks["D"])
    structure = generator_structure(networks["G"])
    G_kwargs = args["G_kwargs"]
    if "block_grid" not in G_kwargs:
        if is_ssn(networks["G"]):
            raise UserError("a StyleGAN2 cannot start from a Spatially Stochastic Network, only the other way round")
        structure.update(z_dim=structure.pop("block_z_dim"), w_dim=structure.pop("block_w_dim"))
    for key in ("mapping_kwargs", "synthesis_kwargs"):
        G_kwargs[key].update(structure.pop(key))
    G_kwargs.update(structure)
    if networks["D"] is not None:
        for key, value in discriminator_structure(networks["D"]).items():
            if isinstance(value, dict):
                args["D_kwargs"].setdefault(key, {}).update(value)
            else:
                args["D_kwargs"][key] = value
    return args


def _check_architecture(option: str, kwargs: Mapping[str, Any], network: Any) -> None:
    """Raise ValueError if `kwargs` names another architecture than that of a network, None if there is none."""
    modules = network.modules() if network is not None else ()
    theirs = next((module.architecture for module in modules if hasattr(module, "architecture")), None)
    if theirs is not None and kwargs.get("architecture", theirs) != theirs:
        raise UserError(f"{option} must be that of --resume, {theirs}, got {kwargs['architecture']}")


@torch.no_grad()
def transfer_weights(source: torch.nn.Module, target: torch.nn.Module, what: str) -> list[str]:
    """Copy all tensors of equal name and shape, in place; those of a mapping network to that of every grid.

    Returns one line per parameter or buffer that differs: new in the target, or left behind in the source.
    what: name of the network in these lines.
    """
    theirs = dict(misc.named_params_and_buffers(source))
    differences = []
    if is_ssn(target):
        theirs, unused = _for_grids(theirs, _grids(source), _grids(target))
        differences += [f"{what}.{name} of the source has no place here" for name in unused]
    for name, tensor in misc.named_params_and_buffers(target):
        value = theirs.pop(name, None)
        if value is None:
            differences.append(f"{what}.{name} is new")
        elif value.shape != tensor.shape:
            shapes = f"{list(value.shape)} in the source and {list(tensor.shape)} here"
            differences.append(f"{what}.{name} is new: it has shape {shapes}")
        else:
            tensor.copy_(value)
    return differences + [f"{what}.{name} of the source has no place here" for name in theirs]


def _for_grids(
    tensors: Mapping[str, torch.Tensor], source_grids: list[list[int]], target_grids: list[list[int]]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors of a generator under the names that they have for other grids, and names of those that serve none.

    A grid takes over the mapping network and the mean style of the source's grid of its size. Where there is none, the
    finest serves the finest, and so on; the coarsest of the source serves all that are left.
    """
    origins = [  # index among the source's grids, for each of the target's
        source_grids.index(grid) if grid in source_grids else max(index + len(source_grids) - len(target_grids), 0)
        for index, grid in enumerate(target_grids)
    ]
    renamed, unused = {}, []
    for name, value in tensors.items():
        match = MAPPING_LAYER.fullmatch(name)
        if match is None:
            renamed[name] = value
            continue
        served = [grid for grid, origin in enumerate(origins) if origin == int(match["grid"] or 0)]
        renamed.update((f"mapping.{f'grid{grid}_' if grid else ''}{match['layer']}", value) for grid in served)
        unused += [] if served else [name]
    if W_AVG in tensors:
        of_blocks = tensors[W_AVG].reshape(sum(map(math.prod, source_grids)), -1)
        firsts = [sum(map(math.prod, source_grids[:origin])) for origin in origins]
        renamed[W_AVG] = torch.cat([of_blocks[i].repeat(math.prod(grid)) for i, grid in zip(firsts, target_grids)])
    return renamed, unused


def _grids(G: Any) -> list[list[int]]:
    return [list(grid) for grid in G.block_grid] if is_ssn(G) else [[1, 1]]


def needs_transfer(source_G: Any, G: Any) -> bool:
    """Would copying by name alone not do, because `G` is an SSN and the source has no grid, or another one?"""
    if not is_ssn(G):
        return False
    return not is_ssn(source_G) or _grids(source_G) != _grids(G)


def take_over(networks: Mapping[str, Any], run: Mapping[str, torch.nn.Module]) -> list[str] | None:
    """Start the networks of a run, `G`, `D` and `G_ema`, from those of a file.

    Returns what differs, one line per tensor; None, and nothing was done, where the host's copying by name will do.
    Raises ValueError for a file that holds no StyleGAN2.
    """
    if "G" not in run or not needs_transfer(networks["G"], run["G"]):
        return None
    for key in run:
        if key != "D":
            check_generator(networks[key])
    return [line for key, network in run.items() for line in transfer_weights(networks[key], network, key)]


def transfer_networks(
    networks: Mapping[str, Any],           # content of a network file: G, D, G_ema and more, which is passed on
    block_grid: Sequence[Sequence[int]],   # [[rows, columns]] of each grid
    encoder: str = "gated",                # gated or none
    encoder_init: str = "zero",            # key of ENCODER_GATES
    style_resolution: int | None = None,   # of SSNGenerator
    seed: int = 0,                         # of the encoder's weights
) -> tuple[dict[str, Any], list[str]]:
    """SSN for each StyleGAN2 generator of a file; everything else is the same object as before.

    An SSN of a single block is a StyleGAN2, too. Returns the content of the new file and what differs, one line per
    tensor. Raises ValueError if the file holds no StyleGAN2 or the grid does not fit its images.
    """
    if encoder_init not in ENCODER_GATES:
        raise UserError(f"the encoder's start must be one of {', '.join(ENCODER_GATES)}, got {encoder_init!r}")
    source = networks["G_ema"]
    check_generator(source)
    if sum(map(math.prod, _grids(source))) > 1:
        grids = "+".join(f"{rows}x{cols}" for rows, cols in source.block_grid)
        raise UserError(f"the network is a Spatially Stochastic Network already, with a {grids} grid")
    kwargs = generator_structure(source)
    kwargs["synthesis_kwargs"].update(
        generator_precision(source), encoder=encoder, encoder_gate=ENCODER_GATES[encoder_init],
        style_resolution=style_resolution,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            blank = SSNGenerator(
                c_dim=source.c_dim, img_resolution=source.img_resolution, img_channels=source.img_channels,
                block_grid=[list(grid) for grid in block_grid], **kwargs,
            ).eval().requires_grad_(False)
        except ValueError as err:  # of a grid that does not fit: networks know nothing of users
            raise UserError(str(err)) from err
    result, notes = dict(networks), []
    for key in ("G", "G_ema"):
        result[key] = copy.deepcopy(blank)
        notes += transfer_weights(networks[key], result[key], key)
    return result, notes
