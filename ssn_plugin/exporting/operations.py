"""The operations of the networks in the form that is exported.

`torch_utils/ops` chooses by size and device, strip by strip, and Python's numbers of a batch end up in a traced graph.
Here every operation is a handful of standard ones, whatever the batch: convolutions with kernels that do not depend on
the input, matrix products, element-wise arithmetic. Names, arguments and meaning are those of
`torch_utils/ops/modulation.py`, which has the shapes.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from torch_utils.ops import bias_act, conv2d_resample


@contextlib.contextmanager
def exportable(network: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, the network computes with the operations of this file, its activations beyond the first level in `dtype`.

    Holds for all networks whose source is in the same file, in this process.
    """
    names = type(network).forward.__globals__   # the module, also where a snapshot brought its own
    before = names.get("ops")
    blocks = [part for part in network.modules() if hasattr(part, "use_fp16")]
    flags = [part.use_fp16 for part in blocks]
    try:
        names["ops"] = operations(dtype)
        for part in blocks:
            part.use_fp16 = dtype == torch.float16 and part.in_channels != 0
        yield
    finally:
        names["ops"] = before
        for part, flag in zip(blocks, flags):
            part.use_fp16 = flag


def operations(dtype: torch.dtype) -> Any:
    """A stand-in for the module `torch_utils.ops.modulation`. dtype: of activations where half precision is allowed."""
    def compute_format(use_fp16: bool, channels_last: bool, device: torch.device) -> dict[str, Any]:
        return dict(dtype=dtype if use_fp16 else torch.float32)

    return types.SimpleNamespace(
        compute_format=compute_format, depthwise_conv2d=depthwise_conv2d, finish=finish, map_channels=map_channels,
        modulate_and_convolve=modulate_and_convolve, resize=resize)


def modulate_and_convolve(
    x: torch.Tensor, styles: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor | None = None, up: int = 1,
    resample_filter: torch.Tensor | None = None, overwrite: bool = False,
) -> torch.Tensor:
    return conv2d_resample.conv2d_resample(
        x=x * spread(styles, x, mask), w=weight.to(x.dtype), f=resample_filter, up=up, padding=weight.shape[2] // 2,
        flip_weight=up == 1)


def finish(
    y: torch.Tensor, scale: torch.Tensor | None = None, noise: torch.Tensor | None = None, epilogue: Any = (),
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    bias, activation, gain, clamp = epilogue or (None, "linear", 1, None)
    y = y if scale is None else y * spread(scale, y, mask)
    y = y if noise is None else y + noise.to(y.dtype)
    bias = None if bias is None else bias.to(y.dtype)
    return bias_act.bias_act(y, bias, act=activation, gain=gain, clamp=clamp)


def spread(values: torch.Tensor, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The factors at the size of x; with masks, one part over those before."""
    size = tuple(x.shape[2:])
    values = resize(values.to(x.dtype), size)
    if mask is None:
        return values
    y, *others = values.chunk(1 + mask.shape[1])
    for other, share in zip(others, resize(mask.to(x.dtype), size).split(1, dim=1)):
        y = y + (other - y) * share
    return y


def resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    size = tuple(size)
    if tuple(x.shape[2:]) in ((1, 1), size):
        return x
    smaller = tuple(min(a, b) for a, b in zip(x.shape[2:], size))
    if smaller != tuple(x.shape[2:]):
        x = area_average(x, smaller)
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def area_average(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """F.adaptive_avg_pool2d, of which ONNX has whole windows only."""
    rows, cols = (averaging_matrix(a, b).to(x.dtype) for a, b in zip(x.shape[2:], size))
    return rows @ x @ cols.t()


def averaging_matrix(num_in: int, num_out: int) -> torch.Tensor:
    """Cell i is the mean of the inputs from floor(i*in/out) to ceil((i+1)*in/out). [num_out, num_in]"""
    i, j = torch.arange(num_out)[:, None], torch.arange(num_in)
    inside = (j >= i * num_in // num_out) & (j < -(-(i + 1) * num_in // num_out))
    return inside / inside.sum(dim=1, keepdim=True)


def map_channels(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, matrix[:, :, None, None])


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, weight, padding=[side // 2 for side in weight.shape[2:]], groups=x.shape[1])
