"""Read a generator of this layout from its state dict alone, as `torch.save(G.state_dict(), path)` writes it.

The architecture is told from names and shapes. What they do not tell (activation, learning rate of the mapping, clamps)
is taken to be StyleGAN2's own.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from dnnlib.util import UserError
from training.formats.network_arguments import MAX_RESOLUTION
from training.formats.network_rebuild import build_module, find_class
from training.formats.rosinality import WRAPPED, read_state

_KEYS = ("G_ema", "g_ema", "G", "g", "state_dict")  # where a checkpoint may keep the state, best first
_CONST = "synthesis.b4.const"


def is_checkpoint(data: Any) -> bool:
    """Is this the state dict of a StyleGAN2 generator, or a dict with one?"""
    return _find_state(data) is not None


def _find_state(data: Any) -> Any:
    candidates = [data, *(data.get(key) for key in _KEYS)] if isinstance(data, dict) else []
    return next((state for state in candidates if isinstance(state, dict)
                 and (_CONST in state or WRAPPED + _CONST in state)), None)


def read_networks(data: Mapping[str, Any]) -> dict[str, torch.nn.Module | None]:
    """`G_ema` in eval mode without gradients; `G` and `D` are None. Raises `UserError` for what StyleGAN2 has not."""
    state = read_state(_find_state(data), "G_ema")
    kwargs = _constructor_arguments(state)
    G = build_module(find_class("Generator"), (), kwargs, state, "G_ema", keep_suffix="resample_filter")
    warnings.warn("G_ema: the file holds weights alone; its architecture was told from their shapes", stacklevel=2)
    return dict(G=None, D=None, G_ema=G.eval().requires_grad_(False))


def _constructor_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    layers = [state[name] for name in sorted(filter(re.compile(r"mapping\.fc\d\.weight").fullmatch, state))]
    widths = {int(match[1]): value.numel() for name, value in state.items()
              if (match := re.fullmatch(r"synthesis\.b(\d{1,4})\.conv1\.bias", name))}
    resolution = max(widths, default=0)
    rgb = state.get(f"synthesis.b{resolution}.torgb.weight")
    if not layers or any(layer.ndim != 2 for layer in layers) or rgb is None or rgb.ndim != 4:
        raise UserError("G_ema: not the state of a StyleGAN2 generator: mapping or RGB layers are missing")
    if state[_CONST].shape[1:] != (4, 4) or resolution > MAX_RESOLUTION:
        raise UserError(f"G_ema: only square images of up to {MAX_RESOLUTION} pixels can be told from weights alone")
    embed = state.get("mapping.embed.weight", torch.empty([0, 0]))
    if embed.ndim != 2:
        raise UserError(f"G_ema: mapping.embed.weight has shape {list(embed.shape)}, not 2 axes")
    widest, last = max(widths.values()), widths[resolution]
    is_skip, is_resnet = "synthesis.b4.torgb.weight" in state, "synthesis.b8.skip.weight" in state
    return dict(
        z_dim=layers[0].shape[1] - len(embed),
        c_dim=embed.shape[1],
        w_dim=len(layers[-1]),
        img_resolution=resolution,
        img_channels=len(rgb),
        mapping_kwargs=dict(
            num_layers=len(layers), layer_features=len(layers[0]), embed_features=len(embed) or None,
            **({} if "mapping.w_avg" in state else dict(w_avg_beta=None)),
        ),
        synthesis_kwargs=dict(
            # Where all widths are the largest one, any larger base gives the same.
            channel_base=last * resolution if last < widest else widest * resolution,
            channel_max=widest,
            architecture="skip" if is_skip else "resnet" if is_resnet else "orig",
            use_noise="synthesis.b4.conv1.noise_const" in state,
        ),
    )
