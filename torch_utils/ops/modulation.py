"""What surrounds a modulated convolution: styles on its input; demodulation, noise, bias and activation on its output.

The networks spell these operations out in plain tensor code, which is what they mean, and call the forms in this file,
which know the device. A processor works strip by strip, with the channels last, and overwrites what autograd permits.

Snapshots carry the text of the networks, which calls these functions: each keeps its name, arguments and meaning.

Letters in shapes: N batch, I/O/C channels in, out and in general, H W pixels, k kernel, r side of a map of factors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from torch_utils import half

from . import bias_act, conv2d_resample
from .depthwise import depthwise_conv2d
from .spread import SpreadMap, is_recorded, memory_format_of, resize, strips

__all__ = ["compute_format", "depthwise_conv2d", "finish", "map_channels", "modulate_and_convolve", "resize"]


def compute_format(use_fp16: bool, channels_last: bool, device: torch.device) -> dict[str, Any]:
    """Data type and memory layout of a block's activations, as keyword arguments of Tensor.to.

    Processors convolve fastest with the channels last. Half precision is float16 on a GPU; on a processor bfloat16
    where `torch_utils.half` allows it, otherwise float32.
    """
    if device.type == "cpu":
        dtype = torch.bfloat16 if use_fp16 and half.on_processors else torch.float32
        return dict(dtype=dtype, memory_format=torch.channels_last)
    layout = torch.channels_last if use_fp16 and channels_last else torch.contiguous_format
    return dict(dtype=torch.float16 if use_fp16 else torch.float32, memory_format=layout)


def modulate_and_convolve(
    x: torch.Tensor,                              # [N, I, H, W]
    styles: torch.Tensor,                         # [N, I, r, r], resized to the image; [N + K*N, I, r, r] with masks
    weight: torch.Tensor,                         # [O, I, k, k]
    mask: torch.Tensor | None = None,             # [N or 1, K, Hm, Wm] in 0..1: shares of the further styles
    up: int = 1,                                  # integer factor of enlargement
    resample_filter: torch.Tensor | None = None,  # low-pass filter of the enlargement
    overwrite: bool = False,                      # may x be changed?
) -> torch.Tensor:                                # [N, O, H*up, W*up]
    """W * (s . x): scale every channel with a style that varies over the image, then convolve."""
    scale, weight = SpreadMap(styles, x, x.shape[2:], mask), weight.to(x.dtype)
    if weight.shape[2:] == (1, 1) and up == 1:
        return _modulate_and_map(x, scale, weight[:, :, 0, 0])
    return conv2d_resample.conv2d_resample(
        x=_modulate(x, scale, overwrite), w=weight, f=resample_filter, up=up, padding=weight.shape[2] // 2,
        flip_weight=up == 1,
    )


def _modulate(x: torch.Tensor, scale: SpreadMap, overwrite: bool = False) -> torch.Tensor:
    """x * scale; in the memory of x if that may be overwritten and nobody records it."""
    if is_recorded():
        return scale.times(x)
    y = x if overwrite else torch.empty_like(x)
    for index in strips(x):
        torch.mul(x[index], scale.strip(index), out=y[index])
    return y


def _modulate_and_map(x: torch.Tensor, scale: SpreadMap, matrix: torch.Tensor) -> torch.Tensor:
    """Apply a 1x1 kernel [O, I] to x * scale. [N, I, H, W] -> [N, O, H, W]"""
    indices = strips(x)
    if indices == [Ellipsis]:
        return map_channels(_modulate(x, scale), matrix)
    y = torch.empty([len(x), len(matrix), *x.shape[2:]], dtype=x.dtype, device=x.device)
    y = y.contiguous(memory_format=memory_format_of(x))
    for index in indices:
        y[index] = map_channels(x[index] * scale.strip(index), matrix)
    return y


def map_channels(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Apply a 1x1 kernel as a matrix product, in the layout of x: [N, I, H, W], [O, I] -> [N, O, H, W]"""
    n, i, h, w = x.shape
    if memory_format_of(x) == torch.channels_last:
        y = x.permute(0, 2, 3, 1).reshape(n * h * w, i) @ matrix.t()
        return y.reshape(n, h, w, -1).permute(0, 3, 1, 2)
    return (matrix @ x.reshape(n, i, h * w)).reshape(n, -1, h, w)


def finish(
    y: torch.Tensor,                    # [N, C, H, W]; may be overwritten
    scale: torch.Tensor | None = None,  # [N, C, r, r], resized to the image; [N + K*N, C, r, r] with masks
    noise: torch.Tensor | None = None,  # broadcastable to y
    epilogue: Any = (),                 # (bias [C] or None, activation, gain, clamp or None); () is the identity
    mask: torch.Tensor | None = None,   # [N or 1, K, Hm, Wm] in 0..1: shares of the further scales
) -> torch.Tensor:                      # [N, C, H, W]
    """activation(y * scale + noise + bias) * gain, clamped, with a positive gain."""
    bias, activation, gain, clamp = epilogue or (None, "linear", 1, None)
    bias = None if bias is None else bias.to(y.dtype)
    noise = None if noise is None else noise.to(y.dtype)
    spread = None if scale is None else SpreadMap(scale, y, y.shape[2:], mask)
    if is_recorded() or activation != "lrelu" or bias is None:
        if spread is not None:
            y = spread.times(y, noise)
        elif noise is not None:
            y = y + noise
        return bias_act.bias_act(y, bias, act=activation, gain=gain, clamp=clamp)
    # gain * lrelu(y + bias) = lrelu(gain * y + gain * bias), the gain being positive
    bias = bias[:, None, None] * gain
    noise = None if noise is None else noise.expand(len(y), 1, *y.shape[2:])
    for index in strips(y):
        factor, addend = None if spread is None else spread.strip(index), None if noise is None else noise[index]
        strip = _scale_and_add_(y[index], factor, addend)
        torch.add(bias, strip, alpha=gain, out=strip)
        F.leaky_relu_(strip, bias_act.activation_funcs["lrelu"].def_alpha)
        if clamp is not None:
            strip.clamp_(-clamp, clamp)
    return y


def _scale_and_add_(y: torch.Tensor, scale: torch.Tensor | None, noise: torch.Tensor | None) -> torch.Tensor:
    """y * scale + noise, either of which may be None, in the memory of y."""
    if scale is not None and noise is not None:
        return torch.addcmul(noise, y, scale, out=y)
    if scale is not None:
        y.mul_(scale)
    return y if noise is None else y.add_(noise)
