"""Pad, up-sample, filter and down-sample images with a small fixed FIR filter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from torch_utils import misc

from . import conv2d_gradfix

Scaling = int | Sequence[int]
Padding = int | Sequence[int]

MANY_CHANNELS = 16  # from here on a depthwise convolution on the CPU beats one over columns


def setup_filter(
    f: torch.Tensor | np.ndarray | Sequence | float | None,  # taps: rank 0, 1 or 2; None is an impulse
    device: torch.device | str = torch.device("cpu"),
    normalize: bool = True,            # scale the taps to a sum of one?
    flip_filter: bool = False,         # reverse every axis?
    gain: float = 1,                   # total factor that the filter applies to an image
    separable: bool | None = None,  # keep rank 1? None: only from 8 taps on, where two passes pay off
) -> torch.Tensor:                     # float32, [taps] or [taps_y, taps_x]
    """Prepare the filter argument of the functions below.

    Raises ValueError for an empty filter or one of rank above 2.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"filter must have 0 to 2 axes and at least one tap, got shape {list(taps.shape)}")
    if taps.ndim == 0:
        taps = taps[None]
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= 8
    if taps.ndim == 1 and not separable:
        taps = taps.outer(taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return (taps * gain ** (taps.ndim / 2)).to(device)


def upfirdn2d(
    x: torch.Tensor,            # [N, C, H, W]
    f: torch.Tensor | None,  # from setup_filter; None is the identity
    up: Scaling = 1,            # factor, or [x, y]
    down: Scaling = 1,          # factor, or [x, y]
    padding: Padding = 0,       # of the up-sampled image: p, [x, y] or [x0, x1, y0, y1]; negative crops
    flip_filter: bool = False,  # False: true convolution; True: correlation
    gain: float = 1,            # factor on the result
    impl: str = "cuda",         # "ref" runs the definition; anything else the fast path
) -> torch.Tensor:              # [N, C, (H*up + pads - taps)//down + 1, ...]
    """Insert zeros, pad with zeros, filter every channel, keep every `down`-th pixel.

    Differentiable to any order with respect to `x`; the filter is a constant.
    Raises ValueError if the padded image is smaller than the filter.
    """
    up_x, up_y = _parse_scaling(up)
    down_x, down_y = _parse_scaling(down)
    x0, x1, y0, y1 = _parse_padding(padding)
    taps_x, taps_y = _get_filter_size(f)
    height, width = x.shape[2] * up_y + y0 + y1, x.shape[3] * up_x + x0 + x1
    if width < taps_x or height < taps_y:
        raise ValueError(f"image of {width}x{height} pixels after padding is smaller than the {taps_x}x{taps_y} filter")
    if f is None:
        f = torch.ones([1, 1], device=x.device)
    f = f.detach().to(x.dtype) * gain ** (f.ndim / 2)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    run = _definition if impl == "ref" else _Resample.apply if conv2d_gradfix.enabled else _resample
    if f.ndim == 2:
        return run(x, f, (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1))
    if impl != "ref" and x.device.type == "cpu" and x.shape[1] < MANY_CHANNELS:
        planes = x.flatten(0, 1).transpose(1, 2)                                               # [N*C, W, H]
        planes = _FilterColumns.apply(planes, f, up_x, down_x, (x0, x1)).transpose(1, 2)
        planes = _FilterColumns.apply(planes, f, up_y, down_y, (y0, y1))
        return planes.unflatten(0, x.shape[:2])
    x = run(x, f[None, :], (up_x, 1), (down_x, 1), (x0, x1, 0, 0))
    return run(x, f[:, None], (1, up_y), (1, down_y), (0, 0, y0, y1))


def filter2d(
    x, f, padding: Padding = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda"
) -> torch.Tensor:
    """Filter an image; without `padding` of one's own the size stays. [N, C, H, W] -> [N, C, H, W]"""
    x0, x1, y0, y1 = _parse_padding(padding)
    tx, ty = _get_filter_size(f)
    pads = [x0 + tx // 2, x1 + (tx - 1) // 2, y0 + ty // 2, y1 + (ty - 1) // 2]
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x, f, up: Scaling = 2, padding: Padding = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda"
) -> torch.Tensor:
    """Enlarge an image by integer factors, keeping its mean. [N, C, H, W] -> [N, C, H*up, W*up]"""
    ux, uy = _parse_scaling(up)
    x0, x1, y0, y1 = _parse_padding(padding)
    tx, ty = _get_filter_size(f)
    pads = [x0 + (tx + ux - 1) // 2, x1 + (tx - ux) // 2, y0 + (ty + uy - 1) // 2, y1 + (ty - uy) // 2]
    return upfirdn2d(x, f, up=up, padding=pads, flip_filter=flip_filter, gain=gain * ux * uy, impl=impl)


def downsample2d(
    x, f, down: Scaling = 2, padding: Padding = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda"
) -> torch.Tensor:
    """Reduce an image by integer factors. [N, C, H, W] -> [N, C, H/down, W/down]"""
    dx, dy = _parse_scaling(down)
    x0, x1, y0, y1 = _parse_padding(padding)
    tx, ty = _get_filter_size(f)
    pads = [x0 + (tx - dx + 1) // 2, x1 + (tx - dx) // 2, y0 + (ty - dy + 1) // 2, y1 + (ty - dy) // 2]
    return upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def _parse_scaling(scaling: Scaling) -> tuple[int, int]:
    """Factors (x, y), each at least 1."""
    sx, sy = (scaling, scaling) if isinstance(scaling, int) else scaling
    if sx < 1 or sy < 1:
        raise ValueError(f"scaling factor must be >= 1, got {scaling}")
    return int(sx), int(sy)


def _parse_padding(padding: Padding) -> tuple[int, int, int, int]:
    """Pixels (x0, x1, y0, y1) to add before and after each axis."""
    pads = [padding, padding] if isinstance(padding, int) else list(padding)
    if len(pads) == 2:
        pads = [pads[0], pads[0], pads[1], pads[1]]
    x0, x1, y0, y1 = (int(p) for p in pads)
    return x0, x1, y0, y1


def _get_filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """Taps (width, height); a 1-D filter is applied along both axes."""
    return (1, 1) if f is None else (int(f.shape[-1]), int(f.shape[0]))


def _definition(x, f, up, down, pads):
    """Reference: what upfirdn2d means, step by step. `f` is [taps_y, taps_x], applied as a correlation."""
    n, c, h, w = x.shape
    spread = x.new_zeros([n, c, h * up[1], w * up[0]])
    spread[:, :, :: up[1], :: up[0]] = x
    filtered = F.conv2d(F.pad(spread, pads), f.expand(c, 1, *f.shape), groups=c)
    return filtered[:, :, :: down[1], :: down[0]]


def _resample(x, f, up, down, pads):
    """Same result as `_definition` without a multiplication by an inserted zero, as the device does it best."""
    if up == (1, 1):
        return _depthwise(x, f.expand(x.shape[1], 1, *f.shape), pads, stride=(down[1], down[0]))
    y = _spread(x, f, up, pads) if x.device.type == "cpu" else _polyphase(x, f, up, pads)
    return y if down == (1, 1) else y[:, :, :: down[1], :: down[0]]


class _Resample(torch.autograd.Function):
    """`_resample` whose derivative is resampling again: factors swapped, taps reversed. See `conv2d_gradfix`.

    Autograd's second derivative of a convolution in groups takes several convolutions for each channel of each image.
    """

    @staticmethod
    def forward(ctx, x, f, up, down, pads):
        ctx.save_for_backward(f)
        ctx.arguments = up, down, pads, x.shape[2:]
        return _resample(x, f, up, down, pads)

    @staticmethod
    def backward(ctx, dy):
        (f,) = ctx.saved_tensors
        up, down, pads, (height, width) = ctx.arguments
        x_pads = _transposed_pads(width, dy.shape[3], f.shape[1], up[0], down[0], pads[0])
        y_pads = _transposed_pads(height, dy.shape[2], f.shape[0], up[1], down[1], pads[2])
        return _Resample.apply(dy, f.flip([0, 1]), down, up, (*x_pads, *y_pads)), None, None, None, None


def _transposed_pads(size: int, out_size: int, num_taps: int, up: int, down: int, before: int) -> tuple[int, int]:
    """Padding with which resampling by down/up takes gradients of `out_size` back to `size` pixels, along one axis."""
    return num_taps - before - 1, size * up - out_size * down + before - up + 1


def _spread(x, f, up, pads):
    """Up-sample and filter: every pixel adds its multiple of the taps to the result, a transposed convolution."""
    c = x.shape[1]
    before = [pads[2] - f.shape[0] + 1, pads[0] - f.shape[1] + 1]                 # what to add to the full result
    after = [pads[3] - f.shape[0] + up[1], pads[1] - f.shape[1] + up[0]]
    crop = [max(min(-first, -last), 0) for first, last in zip(before, after)]     # spares a copy
    taps = f.flip([0, 1]).expand(c, 1, *f.shape)
    y = F.conv_transpose2d(x, taps, stride=(up[1], up[0]), padding=crop, groups=c)
    rest = [before[1] + crop[1], after[1] + crop[1], before[0] + crop[0], after[0] + crop[0]]
    return F.pad(y, rest) if any(rest) else y


def _polyphase(x, f, up, pads):
    """Up-sample and filter: each of the up_x*up_y output phases correlates the small image with every up-th tap.

    One depthwise convolution computes all phases as extra channels, which are then interleaved.
    """
    c = x.shape[1]
    rows, y_pads, out_h = _phase_plan(x.shape[2], f.shape[0], up[1], pads[2:])
    cols, x_pads, out_w = _phase_plan(x.shape[3], f.shape[1], up[0], pads[:2])
    # Indices that are on the device already spare a GPU the wait for the host.
    rows, cols = (misc.constant(taps, dtype=torch.int64, device=f.device) for taps in (rows, cols))
    taps = F.pad(f, [0, 1, 0, 1])[rows[:, :, None, None], cols]            # [up_y, k, up_x, k], index -1 reads a zero
    taps = taps.permute(0, 2, 1, 3).reshape(-1, 1, rows.shape[1], cols.shape[1])
    y = _depthwise(x, taps.repeat(c, 1, 1, 1), (*x_pads, *y_pads))          # [N, C*up_y*up_x, h, w]
    if up[0] == up[1]:
        y = F.pixel_shuffle(y, up[0])
    else:
        n, _, h, w = y.shape
        y = y.reshape(n, c, up[1], up[0], h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c, h * up[1], w * up[0])
    return y[:, :, :out_h, :out_w] if (out_h, out_w) != tuple(y.shape[2:]) else y


class _FilterColumns(torch.autograd.Function):
    """One pass of a separable filter along the height, for few channels per image on the CPU. [M, H, W] planes

    A depthwise convolution is fast there with many channels only. All columns of a plane share the filter, so they
    serve as the channels; a plane in memory looks like a channels-last image already. The gradient is the same
    operation with the factors swapped and the taps reversed, which is faster than what torch derives.
    """

    @staticmethod
    def forward(ctx, x, f, up, down, pads):
        ctx.save_for_backward(f)
        ctx.arguments = up, down, pads, x.shape[1]
        rows, zeros, size = _phase_plan(x.shape[1], len(f), up, pads)
        columns = x.contiguous()[:, :, None].permute(0, 3, 1, 2)                               # [M, W, H, 1]
        phases = [
            _depthwise(columns, taps[:, None].expand(x.shape[2], 1, -1, 1), (0, 0, *zeros), (down if up == 1 else 1, 1))
            for taps in F.pad(f, [0, 1])[rows]                                                 # index -1 reads a zero
        ]
        y = torch.cat([phase.permute(0, 2, 3, 1) for phase in phases], dim=2).flatten(1, 2)    # [M, H*up, W]
        return y if up == 1 else y[:, :size:down]

    @staticmethod
    def backward(ctx, dy):
        (f,) = ctx.saved_tensors
        up, down, pads, size = ctx.arguments
        pads = _transposed_pads(size, dy.shape[1], len(f), up, down, pads[0])
        return _FilterColumns.apply(dy, f.flip(0), down, up, pads), None, None, None, None


def _phase_plan(size: int, num_taps: int, up: int, pads: Sequence[int]):
    """Which taps each output phase of one axis uses, and the padding of the small image that lines them up.

    Output o = up*q + r reads input i = q + start + k through tap t, where t = o-aligned and i*up + pads[0] = o + t.
    Returns (tap index [up, k] with -1 for none, (pad before, pad after), output size).
    """
    out_size = size * up + pads[0] + pads[1] - num_taps + 1
    first = [(pads[0] - r) % up for r in range(up)]                   # first tap that meets a real pixel
    start = [(r + t - pads[0]) // up for r, t in enumerate(first)]    # the pixel it meets when q = 0
    begin = min(start)
    end = max(s + max(-(-(num_taps - t) // up), 0) for s, t in zip(start, first))
    taps = np.full([up, max(end - begin, 1)], -1)
    for r in range(up):
        own = np.arange(first[r], num_taps, up)
        taps[r, start[r] - begin :][: len(own)] = own
    num_q = -(-out_size // up)
    return torch.from_numpy(taps), (-begin, begin + num_q + taps.shape[1] - 1 - size), out_size


def _depthwise(x, weight, pads, stride=(1, 1)):
    """Correlate each channel with its own kernels; zero padding (x0, x1, y0, y1), negative crops."""
    if _prefers_odd_kernels(x, stride) and weight.shape[2:] == (4, 4):
        weight, pads = _extend_by_zeros(weight, pads)
    x0, x1, y0, y1 = pads
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return F.conv2d(x, weight, stride=stride, padding=(y0, x0), groups=x.shape[1])
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=x.shape[1])


def _prefers_odd_kernels(x, stride) -> bool:
    """Does a GPU have fast kernels for 5x5 taps, not for 4x4? On an H100 they take 0.03 to 0.3 of the time."""
    if x.device.type != "cuda":
        return False
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return is_last or (x.dtype == torch.float16 and stride == (1, 1))


def _extend_by_zeros(weight, pads):
    """A further row and column of taps that add nothing, and the padding with which the result stays the same."""
    x0, x1, y0, y1 = pads
    return F.pad(weight, [0, 1, 0, 1]), (x0, x1 + 1, y0, y1 + 1)
