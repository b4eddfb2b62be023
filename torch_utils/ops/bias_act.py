"""Add a bias, apply an activation, scale and clamp."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from dnnlib import EasyDict
from torch_utils.misc import is_compiling


def _activation(index: int, func, alpha: float = 0, gain: float = 1, ref: str = "y", curved: bool = True) -> EasyDict:
    return EasyDict(func=func, def_alpha=alpha, def_gain=gain, cuda_idx=index, ref=ref, has_2nd_grad=curved)


# Gain sqrt(2) restores the second moment that a rectifier halves. `ref` and `cuda_idx` are what foreign code reads.
_HALVED = float(np.sqrt(2))
activation_funcs = {
    "linear": _activation(1, lambda x, **_: x, ref="", curved=False),
    "relu": _activation(2, lambda x, **_: F.relu(x), gain=_HALVED, curved=False),
    "lrelu": _activation(3, lambda x, alpha, **_: F.leaky_relu(x, alpha), alpha=0.2, gain=_HALVED, curved=False),
    "tanh": _activation(4, lambda x, **_: torch.tanh(x)),
    "sigmoid": _activation(5, lambda x, **_: torch.sigmoid(x)),
    "elu": _activation(6, lambda x, **_: F.elu(x)),
    "selu": _activation(7, lambda x, **_: F.selu(x)),
    "softplus": _activation(8, lambda x, **_: F.softplus(x)),
    "swish": _activation(9, lambda x, **_: torch.sigmoid(x) * x, gain=_HALVED, ref="x"),
}


def bias_act(
    x: torch.Tensor,                   # any shape
    b: torch.Tensor | None = None,  # [x.shape[dim]]
    dim: int = 1,                      # axis of x that the bias belongs to
    act: str = "linear",               # key of activation_funcs
    alpha: float | None = None,     # shape parameter of the activation; None: its default
    gain: float | None = None,      # factor on the activation; None: its default
    clamp: float | None = None,     # bound on the magnitude of the result; None: unbounded
    impl: str = "cuda",                # "ref" runs the definition; anything else the fast path
) -> torch.Tensor:                     # shape and dtype of x
    """y = clamp(gain * act(x + b)), twice differentiable with respect to x and b.

    Raises ValueError for an unknown activation, a negative clamp or a bias of another length.
    """
    if act not in activation_funcs:
        raise ValueError(f"activation must be one of {', '.join(activation_funcs)}, got {act!r}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp must be >= 0, got {clamp}")
    if b is not None and list(b.shape) != [x.shape[dim]]:
        raise ValueError(f"bias must have shape [{x.shape[dim]}] for axis {dim} of x, got {list(b.shape)}")
    spec = activation_funcs[act]
    alpha = float(spec.def_alpha if alpha is None else alpha)
    gain = float(spec.def_gain if gain is None else gain)
    if b is not None:
        b = b.to(x.dtype).reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)])
    scaled_lrelu = act == "lrelu" and gain > 0 and alpha > 0
    if impl == "ref" or not scaled_lrelu:
        y = spec.func(x if b is None else x + b, alpha=alpha)
        y = y if gain == 1 else y * gain
    else:
        # gain * lrelu(x + b) = lrelu(gain*x + gain*b) for gain > 0: one pass that allocates, one in place.
        if b is None:
            y = x * gain
        elif is_compiling():  # Inductor of torch 2.13 forgets the factor of `add` behind a matrix product
            y = b * gain + x * gain
        else:
            y = torch.add(b * gain, x, alpha=gain)
        y = F.leaky_relu_(y, alpha)
    if clamp is None:
        return y
    if y.requires_grad or y is x:
        return F.hardtanh(y, -clamp, clamp)  # is clamp, with a derivative that is four times faster on a CPU
    return y.clamp_(-clamp, clamp)
