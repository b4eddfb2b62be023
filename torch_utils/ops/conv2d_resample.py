"""2-D convolution with built-in up- or down-sampling."""

from __future__ import annotations

import torch

from . import conv2d_gradfix
from .upfirdn2d import Padding, _get_filter_size, _parse_padding, upfirdn2d


def conv2d_resample(
    x: torch.Tensor,                   # [N, I, H, W]
    w: torch.Tensor,                   # [O, I/groups, kh, kw], dtype of x
    f: torch.Tensor | None = None,  # low-pass filter from setup_filter; None: none
    up: int = 1,                       # integer factor before the convolution
    down: int = 1,                     # integer factor after it
    padding: Padding = 0,              # of the up-sampled image: p, [x, y] or [x0, x1, y0, y1]
    groups: int = 1,
    flip_weight: bool = True,          # True: correlation, as torch convolves; False: true convolution
    flip_filter: bool = False,         # False: true convolution with f; True: correlation
) -> torch.Tensor:                     # [N, O, H*up/down, W*up/down] for padding k//2
    """Up-sample with f (gain up^2), convolve, down-sample with f.

    All padding happens once, up front, and every later step is a "valid" operation, so filter and convolution
    commute: each case below runs them in the order that touches the fewest pixels. `definition` states the meaning.
    """
    kh, kw = w.shape[2:]
    pads = _total_padding(f, up, down, padding)
    if up == 1 and down == 1:
        return _convolve(x, w, pads, 1, groups, flip_weight)
    if up > 1 and down > 1:
        return definition(x, w, f, up, down, padding, groups, flip_weight, flip_filter)
    if kh == kw == 1 and up > 1:
        x = _convolve(x, w, (0, 0, 0, 0), 1, groups, flip_weight)
        return upfirdn2d(x, f, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    if kh == kw == 1:
        x = upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter)
        return _convolve(x, w, (0, 0, 0, 0), 1, groups, flip_weight)
    if down > 1:
        x = upfirdn2d(x, f, padding=pads, flip_filter=flip_filter)
        return _convolve(x, w, (0, 0, 0, 0), down, groups, flip_weight)
    # A transposed convolution is the full true convolution of the zero-inserted image, zeros skipped. It pads by
    # k-1 on its own and lacks the zeros after the last pixel; the filter's padding settles both.
    x = conv2d_gradfix.conv_transpose2d(x, _transposed(w, groups, flip_weight), stride=up, groups=groups)
    x0, x1, y0, y1 = pads
    pads = (x0 - (kw - 1), x1 - (kw - 1) + up - 1, y0 - (kh - 1), y1 - (kh - 1) + up - 1)
    return upfirdn2d(x, f, padding=pads, gain=up**2, flip_filter=flip_filter)


def definition(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False) -> torch.Tensor:
    """What conv2d_resample means: up-sample and pad, convolve, down-sample, in that order."""
    pads = _total_padding(f, up, down, padding)
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    x = _convolve(x, w, (0, 0, 0, 0), 1, groups, flip_weight)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x


def _total_padding(f, up: int, down: int, padding: Padding) -> tuple[int, int, int, int]:
    """The caller's padding plus what keeps the filter centred, (x0, x1, y0, y1)."""
    x0, x1, y0, y1 = _parse_padding(padding)
    tx, ty = _get_filter_size(f)
    if up > 1:
        x0, x1, y0, y1 = x0 + (tx + up - 1) // 2, x1 + (tx - up) // 2, y0 + (ty + up - 1) // 2, y1 + (ty - up) // 2
    if down > 1:
        x0, x1 = x0 + (tx - down + 1) // 2, x1 + (tx - down) // 2
        y0, y1 = y0 + (ty - down + 1) // 2, y1 + (ty - down) // 2
    return x0, x1, y0, y1


def _convolve(x, w, pads, stride: int, groups: int, flip_weight: bool) -> torch.Tensor:
    """Convolution with zero padding (x0, x1, y0, y1); negative padding crops."""
    x0, x1, y0, y1 = pads
    if not flip_weight and w.shape[2:] != (1, 1):
        w = w.flip([2, 3])
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return conv2d_gradfix.conv2d(x, w, stride=stride, padding=(y0, x0), groups=groups)
    return conv2d_gradfix.conv2d(torch.nn.functional.pad(x, pads), w, stride=stride, groups=groups)


def _transposed(w: torch.Tensor, groups: int, flip_weight: bool) -> torch.Tensor:
    """Kernel for a transposed convolution: [O, I/groups, kh, kw] -> [I, O/groups, kh, kw]."""
    per_group = w.unflatten(0, (groups, -1))            # [groups, O/groups, I/groups, kh, kw]
    swapped = per_group.transpose(1, 2).flatten(0, 1)
    return swapped.flip([2, 3]) if flip_weight else swapped
