"""Read and write checkpoints of rosinality/stylegan2-pytorch: plain StyleGAN2 as a dict of state dicts.

Their keys are `g`, `d`, `g_ema` (state dicts) and `latent_avg`; their networks are unconditional, with a `skip`
generator, a `resnet` discriminator, and 512 channels up to 32 pixels. Their weights carry extra axes of length one,
which is all that distinguishes a tensor here from its counterpart there.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dnnlib.util import UserError, printable
from training.formats.network_arguments import MAX_RESOLUTION
from training.formats.network_rebuild import build_module, find_class

_CHANNEL_MAX = 512
_MBSTD_GROUP = 4
_LR_MULTIPLIER = 0.01
_FILTER = [1, 3, 3, 1]
_W_AVG_SAMPLES = 10_000
_W_AVG_BATCH = 1000
_W_AVG_OPERATIONS = 1 << 35  # multiplications that the mean may cost; the published networks need 2.1e10 ...
_W_AVG_DRAWS = 1 << 24       # ... and random numbers; they need 5.1e6
WRAPPED = "module."         # what torch's DataParallel puts before each name


def is_checkpoint(data: Any) -> bool:
    """Is this the content of a rosinality checkpoint, or the state dict of a generator alone?"""
    return isinstance(data, dict) and any(_is_generator(state) for state in (data, data.get("g_ema"), data.get("g")))


def _is_generator(state: Any) -> bool:
    return isinstance(state, dict) and ("input.input" in state or f"{WRAPPED}input.input" in state)


def read_networks(checkpoint: Mapping[str, Any]) -> dict[str, torch.nn.Module | None]:
    """`G`, `D`, `G_ema` in eval mode without gradients; `D` is None if the checkpoint has none.

    A checkpoint written during training has no `latent_avg`; the average of w is then estimated. Noise maps that an
    old checkpoint lacks are drawn anew, always the same ones.
    """
    if _is_generator(checkpoint):
        checkpoint = dict(g_ema=checkpoint)
    G_ema = _read_generator(checkpoint.get("g_ema", checkpoint.get("g")), checkpoint.get("latent_avg"), "G_ema")
    G = _read_generator(checkpoint["g"], checkpoint.get("latent_avg"), "G") if "g" in checkpoint else None
    D = _read_discriminator(checkpoint["d"], "D") if "d" in checkpoint else None
    return dict(G=G, D=D, G_ema=G_ema)


def write_checkpoint(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Checkpoint for the modules `G`, `D`, `G_ema`. Raises `UserError` listing what the format cannot express."""
    obstacles = _generator_obstacles(networks["G_ema"])
    if networks.get("D") is not None:
        obstacles += _discriminator_obstacles(networks["D"])
    if obstacles:
        raise UserError(f"rosinality checkpoints cannot hold this network: {'; '.join(obstacles)}")
    checkpoint = dict(
        g=_write_generator(networks["G"]),
        g_ema=_write_generator(networks["G_ema"]),
        latent_avg=networks["G_ema"].mapping.w_avg.detach().cpu().clone(),
    )
    if networks.get("D") is not None:
        checkpoint["d"] = _write_discriminator(networks["D"])
    return checkpoint


def what_is_lost(networks: Mapping[str, Any]) -> list[str]:
    """Properties of `networks` that a checkpoint of this format does not keep, although it can be written."""
    notes = []
    D = networks.get("D")
    for name, network in networks.items():
        clamps = {module.conv_clamp for module in network.modules() if getattr(module, "conv_clamp", None) is not None}
        if clamps:
            notes.append(f"{name}: no clamp of activations at {max(clamps):g} and no half precision any more")
    if D is not None and D.b4.mbstd.group_size != _MBSTD_GROUP:
        notes.append(f"D: the group of the minibatch deviation becomes {_MBSTD_GROUP}, was {D.b4.mbstd.group_size}")
    return notes


# Names. Each table entry is (name here, name there, axes of length one there: how many in front, how many behind).

_Entry = tuple[str, str, int, int]


def _generator_names(resolution: int, num_layers: int) -> Iterator[_Entry]:
    for i in range(num_layers):
        yield f"mapping.fc{i}.weight", f"style.{i + 1}.weight", 0, 0
        yield f"mapping.fc{i}.bias", f"style.{i + 1}.bias", 0, 0
    yield "synthesis.b4.const", "input.input", 1, 0
    yield from _styled_names("synthesis.b4.conv1", "conv1", 0)
    yield from _to_rgb_names("synthesis.b4.torgb", "to_rgb1")
    for k in range(resolution.bit_length() - 3):
        block = f"synthesis.b{8 << k}"
        yield from _styled_names(f"{block}.conv0", f"convs.{2 * k}", 2 * k + 1)
        yield from _styled_names(f"{block}.conv1", f"convs.{2 * k + 1}", 2 * k + 2)
        yield from _to_rgb_names(f"{block}.torgb", f"to_rgbs.{k}")


def _styled_names(here: str, there: str, noise_index: int) -> Iterator[_Entry]:
    yield f"{here}.weight", f"{there}.conv.weight", 1, 0
    yield f"{here}.affine.weight", f"{there}.conv.modulation.weight", 0, 0
    yield f"{here}.affine.bias", f"{there}.conv.modulation.bias", 0, 0
    yield f"{here}.bias", f"{there}.activate.bias", 0, 0
    yield f"{here}.noise_strength", f"{there}.noise.weight", 1, 0
    yield f"{here}.noise_const", f"noises.noise_{noise_index}", 2, 0


def _to_rgb_names(here: str, there: str) -> Iterator[_Entry]:
    yield f"{here}.weight", f"{there}.conv.weight", 1, 0
    yield f"{here}.affine.weight", f"{there}.conv.modulation.weight", 0, 0
    yield f"{here}.affine.bias", f"{there}.conv.modulation.bias", 0, 0
    yield f"{here}.bias", f"{there}.bias", 1, 2


def _discriminator_names(resolution: int) -> Iterator[_Entry]:
    layers = [(f"b{resolution}.fromrgb", "convs.0.0", "convs.0.1")]
    num_blocks = resolution.bit_length() - 3
    for j in range(1, num_blocks + 1):
        block = f"b{resolution >> (j - 1)}"
        layers.append((f"{block}.conv0", f"convs.{j}.conv1.0", f"convs.{j}.conv1.1"))
        layers.append((f"{block}.conv1", f"convs.{j}.conv2.1", f"convs.{j}.conv2.2"))
        yield f"{block}.skip.weight", f"convs.{j}.skip.1.weight", 0, 0
    layers.append(("b4.conv", "final_conv.0", "final_conv.1"))
    layers.append(("b4.fc", "final_linear.0", "final_linear.0"))
    layers.append(("b4.out", "final_linear.1", "final_linear.1"))
    for here, weight, bias in layers:
        yield f"{here}.weight", f"{weight}.weight", 0, 0
        yield f"{here}.bias", f"{bias}.bias", 0, 0


def _generator_kernels(resolution: int) -> Iterator[str]:
    for k in range(resolution.bit_length() - 3):
        yield f"convs.{2 * k}.conv.blur.kernel"
        yield f"to_rgbs.{k}.upsample.kernel"


def _discriminator_kernels(resolution: int) -> Iterator[str]:
    for j in range(1, resolution.bit_length() - 2):
        yield f"convs.{j}.conv2.0.kernel"
        yield f"convs.{j}.skip.0.kernel"


# Reading.


def _read_generator(state: Any, latent_avg: Any, what: str) -> torch.nn.Module:
    state = read_state(state, what)
    num_layers = len([key for key in state if re.fullmatch(r"style\.\d+\.weight", key)])
    resolution = 4 << len([key for key in state if re.fullmatch(r"to_rgbs\.\d+\.conv\.weight", key)])
    if num_layers == 0 or resolution > MAX_RESOLUTION:
        raise UserError(f"{what}: not a rosinality generator: no mapping, or more than {MAX_RESOLUTION} pixels")
    _draw_missing_noise(state, resolution, what)
    tensors = _renamed(state, _generator_names(resolution, num_layers), what)
    _expect_rank(tensors["mapping.fc0.weight"], 2, "style.1.weight")
    channels = {4 << i: tensors[f"synthesis.b{4 << i}.conv1.bias"].numel() for i in range(resolution.bit_length() - 2)}
    widest, last = max(channels.values()), channels[resolution]
    w_dim, z_dim = tensors["mapping.fc0.weight"].shape
    if z_dim == 2 * w_dim:
        raise UserError(f"{what}: made from a conditional network (its first mapping layer is {w_dim}x{z_dim}), "
                         "but files of this format do not hold the embedding of its labels")
    tensors["mapping.w_avg"] = torch.zeros([w_dim]) if latent_avg is None else _read_latent_avg(latent_avg)
    kwargs = dict(
        z_dim=z_dim,
        c_dim=0,
        w_dim=w_dim,
        img_resolution=resolution,
        img_channels=tensors["synthesis.b4.torgb.bias"].numel(),
        mapping_kwargs=dict(num_layers=num_layers),
        # Widths below the maximum fix the base; where all are at the maximum, any base from there on is the same.
        synthesis_kwargs=dict(channel_base=max(last * resolution, 16384 if last == widest else 0), channel_max=widest),
    )
    G: Any = build_module(find_class("Generator"), (), kwargs, tensors, what, keep_suffix="resample_filter")
    if latent_avg is None:
        G.mapping.w_avg.copy_(_estimate_w_avg(G))
    return G.eval().requires_grad_(False)


def _read_latent_avg(value: Any) -> torch.Tensor:
    """[w]; some files hold it as [1, w]."""
    value = _expect_tensor(value, "latent_avg")
    return value[0] if value.ndim == 2 and len(value) == 1 else value


def _draw_missing_noise(state: dict[str, torch.Tensor], resolution: int, what: str) -> None:
    """Give a state that was written before noise maps were stored maps from a fixed seed."""
    if any(name.startswith("noises.") for name in state):
        return
    gen = torch.Generator().manual_seed(0)
    for _, there, _, _ in _generator_names(resolution, 0):
        if there.startswith("noises."):
            side = 4 << (int(there.removeprefix("noises.noise_")) + 1) // 2
            state[there] = torch.randn([1, 1, side, side], generator=gen)
    warnings.warn(f"{what}: the file has no noise maps; they are drawn from seed 0", stacklevel=3)


def _read_discriminator(state: Any, what: str) -> torch.nn.Module:
    state = read_state(state, what)
    resolution = 4 << len([key for key in state if re.fullmatch(r"convs\.\d+\.skip\.1\.weight", key)])
    if resolution == 4 or resolution > MAX_RESOLUTION:
        raise UserError(f"{what}: not a rosinality discriminator: no blocks, or more than {MAX_RESOLUTION} pixels")
    tensors = _renamed(state, _discriminator_names(resolution), what)
    _expect_rank(tensors[f"b{resolution}.fromrgb.weight"], 4, "convs.0.0.weight")
    first, widest = tensors[f"b{resolution}.fromrgb.bias"].numel(), tensors["b4.fc.bias"].numel()
    kwargs = dict(
        c_dim=0,
        img_resolution=resolution,
        img_channels=tensors[f"b{resolution}.fromrgb.weight"].shape[1],
        channel_base=max(first * resolution, 16384 if first == widest else 0),
        channel_max=widest,
        epilogue_kwargs=dict(mbstd_group_size=_MBSTD_GROUP),
    )
    D = build_module(find_class("Discriminator"), (), kwargs, tensors, what, keep_suffix="resample_filter")
    return D.eval().requires_grad_(False)


def read_state(state: Any, what: str) -> dict[str, torch.Tensor]:
    """A state dict without the prefix that wrapped modules have. Raises `UserError` unless it holds tensors by name."""
    if not isinstance(state, dict):
        raise UserError(f"{what}: a {type(state).__name__} where a state dict should be")
    if not all(type(key) is str for key in state):
        raise UserError(f"{what}: a state dict with keys that are not names")
    prefix = WRAPPED if all(key.startswith(WRAPPED) for key in state) else ""
    return {key.removeprefix(prefix): _expect_tensor(value, f"{what}: {key}") for key, value in state.items()}


def _expect_tensor(value: Any, what: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise UserError(f"{printable(what)} is a {type(value).__name__}, not a tensor")
    return value


def _expect_rank(value: torch.Tensor, rank: int, what: str) -> None:
    if value.ndim != rank:
        raise UserError(f"{what} has shape {list(value.shape)}, not {rank} axes")


def _renamed(state: Mapping[str, torch.Tensor], names: Iterator[_Entry], what: str) -> dict[str, torch.Tensor]:
    """Tensors of `state` under their names here, without the axes of length one. Nothing may be left over."""
    left = {key: value for key, value in state.items() if not key.endswith(".kernel")}
    tensors, wrong = {}, []
    for here, there, in_front, behind in names:
        value = left.pop(there, None)
        if value is None:
            wrong.append(f"{there} is missing")
            continue
        extra = list(value.shape[:in_front]) + list(value.shape[value.ndim - behind :])
        if len(extra) != in_front + behind or any(n != 1 for n in extra):
            wrong.append(f"{there} has shape {list(value.shape)}")
            continue
        tensors[here] = value.reshape(value.shape[in_front : value.ndim - behind])
    wrong += [f"{key} is unknown" for key in left]
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise UserError(f"{what}: not a rosinality state: {'; '.join(printable(text) for text in wrong[:8])}{more}")
    return tensors


@torch.no_grad()
def _estimate_w_avg(G: Any) -> torch.Tensor:
    """Mean style of random latents [w_dim], of fewer of them where the mapping network is much larger than usual."""
    operations = sum(parameter.numel() for parameter in G.mapping.parameters())
    num_samples = min(_W_AVG_SAMPLES, _W_AVG_OPERATIONS // operations, _W_AVG_DRAWS // G.z_dim)
    gen, total = torch.Generator().manual_seed(0), torch.zeros([G.w_dim], dtype=torch.float64)
    for start in range(0, num_samples, _W_AVG_BATCH):
        z = torch.randn([min(_W_AVG_BATCH, num_samples - start), G.z_dim], generator=gen)
        total += G.mapping.eval()(z, None)[:, 0].sum(dim=0, dtype=torch.float64)
    return total / num_samples


# Writing.


def _generator_obstacles(G: Any) -> list[str]:
    if type(G).__name__ != "Generator":
        return [f"it is a {type(G).__name__}, not a StyleGAN2 generator"]
    if not isinstance(G.img_resolution, int):
        return [f"its images are not square, height and width are {G.img_resolution}"]
    synthesis, mapping = G.synthesis, G.mapping
    mapping_shapes = {tuple(getattr(mapping, f"fc{i}").weight.shape) for i in range(mapping.num_layers)}
    last = getattr(synthesis, f"b{G.img_resolution}")
    widths = {r: getattr(synthesis, f"b{r}").conv1.bias.numel() for r in synthesis.block_resolutions}
    expected = {
        "c_dim": (G.c_dim, 0),
        "img_channels": (G.img_channels, 3),
        "generator architecture": (last.architecture, "skip"),
        "shape of mapping layers": (mapping_shapes, {(G.w_dim, G.w_dim)}),
        "activation": (last.conv1.activation, "lrelu"),
        "mapping learning rate": (mapping.fc0.bias_gain, _LR_MULTIPLIER),
        "noise": (last.conv1.use_noise, True),
    }
    obstacles = [f"{name} is {value}, not {wanted}" for name, (value, wanted) in expected.items() if value != wanted]
    return obstacles + _width_obstacles("generator", widths)


def _discriminator_obstacles(D: Any) -> list[str]:
    if type(D).__name__ != "Discriminator":
        return [f"its discriminator is a {type(D).__name__}"]
    first = getattr(D, f"b{max(D.block_resolutions)}")
    widths = {r: getattr(D, f"b{r}").conv0.bias.numel() for r in D.block_resolutions}
    expected = {
        "discriminator architecture": (first.architecture, "resnet"),
        "discriminator activation": (first.conv0.activation, "lrelu"),
        "minibatch deviation": (getattr(D.b4.mbstd, "num_channels", 0), 1),
    }
    obstacles = [f"{name} is {value}, not {wanted}" for name, (value, wanted) in expected.items() if value != wanted]
    return obstacles + _width_obstacles("discriminator", widths)


def _width_obstacles(what: str, widths: Mapping[int, int]) -> list[str]:
    """Theirs are 512 up to 32 pixels, then 256m, 128m, ... with a whole multiplier m (1 or 2 in practice)."""
    base = max([16384] + [width * r for r, width in widths.items() if r > 32])
    wrong = {r: width for r, width in widths.items() if width != min(base // r, _CHANNEL_MAX)}
    if wrong or base % 16384:
        return [f"{what} widths are {dict(widths)}, not 512 up to 32 pixels and a multiple of 16384/resolution beyond"]
    return []


def _write_generator(G: Any) -> dict[str, torch.Tensor]:
    kernel = _kernel(G.synthesis.b4.resample_filter) * 4  # theirs hold the gain of up-sampling
    return {
        **_written(G, _generator_names(G.img_resolution, G.mapping.num_layers)),
        **{name: kernel.clone() for name in _generator_kernels(G.img_resolution)},
    }


def _write_discriminator(D: Any) -> dict[str, torch.Tensor]:
    kernel = _kernel(getattr(D, f"b{D.img_resolution}").resample_filter)
    return {
        **_written(D, _discriminator_names(D.img_resolution)),
        **{name: kernel.clone() for name in _discriminator_kernels(D.img_resolution)},
    }


def _kernel(resample_filter: torch.Tensor) -> torch.Tensor:
    taps = torch.tensor(_FILTER, dtype=torch.float32)
    expected = taps.outer(taps) / taps.sum().square()
    actual = resample_filter.detach().cpu()
    if actual.shape != expected.shape or not torch.allclose(actual, expected):
        raise UserError(f"rosinality checkpoints cannot hold a resampling filter other than {_FILTER}")
    return expected


def _written(module: torch.nn.Module, names: Iterator[_Entry]) -> dict[str, torch.Tensor]:
    """Tensors of `module` under their names there, with the axes of length one."""
    state = module.state_dict()
    result = {}
    for here, there, in_front, behind in names:
        value = state[here].detach().cpu().float()
        result[there] = value.reshape([1] * in_front + list(value.shape) + [1] * behind).clone()
    return result
