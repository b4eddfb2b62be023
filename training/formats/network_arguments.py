"""Check the constructor arguments of a network from a file: types and ranges, before anything is built from them.

The names of arguments mean the same in all classes of a network, so one table covers them. Names that no class has are
left to the constructor, which refuses them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dnnlib.util import UserError, printable
from torch_utils.ops import bias_act

MAX_RESOLUTION = 4096     # pixels along a side; four times the largest published networks
MAX_WIDTH = 1 << 14       # of latents, styles and layers
MAX_CHANNELS = 64         # of images
MAX_CLASSES = 1 << 16     # or numbers of a label
MAX_LAYERS = 64           # of a mapping network
MAX_GRIDS = 16            # of a Spatially Stochastic Network
MAX_BLOCKS = 1 << 16      # of all grids together
MAX_LATENTS = 1 << 22     # numbers of z or w of all blocks together
MAX_TAPS = 64             # of a resampling filter
MAX_KERNEL = 31           # pixels along a side of a convolution kernel

_Rule = tuple[str, Callable[[Any], bool]]  # what the value must be, in words and as a test


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _integer(low: int, high: int) -> _Rule:
    return f"an integer in {low}..{high}", lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> _Rule:
    return f"a number in {low:g}..{high:g}", lambda value: _is_number(value) and low <= value <= high


def _or_none(rule: _Rule) -> _Rule:
    return f"{rule[0]} or None", lambda value: value is None or rule[1](value)


def _one_of(*names: str) -> _Rule:
    return f"one of {', '.join(names)}", lambda value: type(value) is str and value in names


def _list_of(rule: _Rule, longest: int) -> _Rule:
    return f"a list of at most {longest}, each {rule[0]}", lambda value: (
        type(value) in (list, tuple) and len(value) <= longest and all(rule[1](item) for item in value)
    )


def _is_size(value: Any) -> bool:
    sides = value if type(value) in (list, tuple) and len(value) == 2 else [value]
    return all(type(side) is int and 4 <= side <= MAX_RESOLUTION for side in sides)


def _is_grid(value: Any) -> bool:
    is_pair = type(value) in (list, tuple) and len(value) == 2
    return is_pair and all(type(side) is int and 1 <= side <= MAX_RESOLUTION for side in value)


_WIDTH = _integer(1, MAX_WIDTH)
_ANY_NUMBER = _number(-1e9, 1e9)
_SWITCH: _Rule = ("true or false", lambda value: type(value) is bool or (type(value) is int and value in (0, 1)))
_POSITIVE: _Rule = ("a positive number", lambda value: _is_number(value) and value > 0)
_ACTIVATION = _one_of(*bias_act.activation_funcs)

_RULES: dict[str, _Rule] = {
    "z_dim": _integer(0, MAX_WIDTH),
    "c_dim": _integer(0, MAX_CLASSES),
    "w_dim": _WIDTH,
    "img_resolution": (f"a side of 4..{MAX_RESOLUTION} pixels or a list of two", _is_size),
    "img_channels": _integer(1, MAX_CHANNELS),
    # Mapping networks.
    "num_layers": _integer(0, MAX_LAYERS),
    "embed_features": _or_none(_WIDTH),
    "layer_features": _or_none(_WIDTH),
    "activation": _ACTIVATION,
    "lr_multiplier": _POSITIVE,
    "w_avg_beta": _or_none(_number(0, 1)),
    # Synthesis networks and discriminators.
    "channel_base": _integer(1, MAX_WIDTH * MAX_RESOLUTION),
    "channel_max": _WIDTH,
    "num_fp16_res": _integer(0, 32),
    "conv_clamp": _or_none(_POSITIVE),
    "architecture": _one_of("orig", "skip", "resnet"),
    "resample_filter": _or_none(_list_of(_ANY_NUMBER, MAX_TAPS)),
    "use_noise": _SWITCH,
    "fp16_channels_last": _SWITCH,
    "kernel_size": _integer(1, MAX_KERNEL),
    "cmap_dim": _or_none(_integer(0, MAX_WIDTH)),
    "head_channels": _WIDTH,
    "freeze_layers": _integer(0, 1000),
    "mbstd_group_size": _or_none(_integer(1, 1 << 16)),
    "mbstd_num_channels": _integer(0, MAX_WIDTH),
    # Spatially Stochastic Networks.
    "block_z_dim": _WIDTH,
    "block_w_dim": _WIDTH,
    "block_grid": _list_of((f"a pair of integers in 1..{MAX_RESOLUTION}", _is_grid), MAX_GRIDS),
    "encoder": _one_of("gated", "none"),
    "encoder_gate": _ANY_NUMBER,
    "style_resolution": _or_none(_integer(0, MAX_RESOLUTION)),
    # Augmentation; whatever else its constructor takes is a number.
    "imgfilter_bands": _list_of(_ANY_NUMBER, 4),
}


def check_arguments(cls: type, args: tuple, kwargs: Mapping[str, Any], what: str) -> None:
    """Raise `UserError` that starts with `what` and names the first argument of `cls` with a value that cannot be."""
    named = {**dict(zip(constructor_names(cls), args)), **kwargs}
    default = _ANY_NUMBER if cls.__name__ == "AugmentPipe" else None
    for name, value in _leaves(named):
        words, is_allowed = _RULES.get(name, default) or ("", lambda value: True)
        if not is_allowed(value):
            raise UserError(f"{what}: {printable(name)} must be {words}, got {shown(value)}")
    if "block_grid" in named:
        num_blocks = sum(rows * cols for rows, cols in named["block_grid"])
        widest = max([named[name] for name in ("block_z_dim", "block_w_dim") if name in named], default=1)
        if num_blocks > MAX_BLOCKS or num_blocks * widest > MAX_LATENTS:
            raise UserError(f"{what}: at most {MAX_BLOCKS} blocks of together {MAX_LATENTS} numbers are read, got "
                             f"{num_blocks} of {widest}")


def constructor_names(cls: type) -> list[str]:
    """Names of the constructor's parameters of a persistent class, in order."""
    return list(inspect.signature(cls.__mro__[1].__init__).parameters)[1:]  # type: ignore[misc]


def _leaves(kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All arguments, with those of `*_kwargs` in place of the dicts."""
    for name, value in kwargs.items():
        if name.endswith("_kwargs") and isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield name, value


def shown(value: Any) -> str:
    """A short text for a value from a file, which might be too large to print."""
    if value is None or type(value) in (bool, int, float):
        return str(value)
    return printable(repr(value[:80])) if type(value) is str else f"a {type(value).__name__}"
