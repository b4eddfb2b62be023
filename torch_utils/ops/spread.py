"""Multiply activations by a small map of factors, which is enlarged to their size on the way.

The derivative of this product is a product followed by the reverse, a reduction, so it has derivatives of every order.
On a processor memory is the limit: there the work is done strip by strip, and the enlarged map never exists as a whole.

Letters in shapes: N batch, C channels, H W pixels, r r' rows and columns of a small map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from torch_utils.misc import is_compiling

from .fma import fma

STRIP = 2**19  # numbers in the part of a strip that one thread works on: they fit a level-2 cache
LARGE = 2**22  # activations of this many numbers or more do not stay in any cache

_matrices: dict[tuple, torch.Tensor] = {}  # those that `bilinear_matrix` has made


def is_recorded() -> bool:
    """Does autograd or a compiler record every operation? Then none may overwrite what another one made.

    A compiler knows better than strips and results in given memory, which it could not trace.
    """
    return torch.is_grad_enabled() or is_compiling()


def resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Map [N, C, r, r'] to [N, C, *size]: bilinear with half-pixel centres upwards, area average downwards.

    A single cell stays a single cell: it broadcasts against any size.
    """
    size = tuple(size)
    if tuple(x.shape[2:]) in ((1, 1), size):
        return x
    if x.shape[2] > size[0] or x.shape[3] > size[1]:
        x = F.adaptive_avg_pool2d(x, (min(x.shape[2], size[0]), min(x.shape[3], size[1])))
        return x if tuple(x.shape[2:]) == size else resize(x, size)
    return enlarge(x, size)


def enlarge(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """F.interpolate of [N, C, r, r'] to [N, C, *size], bilinear, as two matrix products, in the layout of x.

    On a GPU torch's own kernel takes ten times longer, and its derivative adds up in an order that changes.
    """
    rows, cols = (bilinear_matrix(a, b, x) for a, b in zip(x.shape[2:], size))
    return apply_to_axes(x, rows, cols)


def bilinear_matrix(num_in: int, num_out: int, like: torch.Tensor) -> torch.Tensor:
    """Bilinear enlargement of one axis with half-pixel centres, as a matrix [num_out, num_in]; made only once."""
    key = (num_in, num_out, like.dtype, like.device)
    if key not in _matrices:
        with torch.inference_mode(False), torch.no_grad():
            places = (torch.arange(num_out, dtype=torch.float64) + 0.5) * (num_in / num_out) - 0.5
            distances = places.clamp(0, num_in - 1)[:, None] - torch.arange(num_in)
            _matrices[key] = (1 - distances.abs()).clamp(min=0).to(like)
    return _matrices[key]


def apply_to_axes(x: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """rows @ x @ cols^T for every channel, in the layout of x: [N, C, h, w], [H, h], [W, w] -> [N, C, H, W]"""
    if memory_format_of(x) == torch.channels_last:
        return apply_to_rows(apply_to_cols(x, cols), rows)
    return F.linear(F.linear(x.transpose(2, 3), rows).transpose(2, 3), cols)


def apply_to_rows(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Apply [H, h] along the height, with the channels last: [N, C, h, w] -> [N, C, H, w]"""
    n, c, h, w = x.shape
    y = matrix.expand(n, -1, -1).bmm(x.permute(0, 2, 3, 1).reshape(n, h, w * c))
    return y.reshape(n, -1, w, c).permute(0, 3, 1, 2)


def apply_to_cols(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Apply [W, w] along the width, with the channels last: [N, C, h, w] -> [N, C, h, W]"""
    n, c, h, w = x.shape
    y = matrix.expand(n * h, -1, -1).bmm(x.permute(0, 2, 3, 1).reshape(n * h, w, c))
    return y.reshape(n, h, -1, c).permute(0, 3, 1, 2)


def memory_format_of(x: torch.Tensor) -> torch.memory_format:
    """Layout of an activation tensor, for tensors that will be multiplied with it."""
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format


class SpreadMap:
    """A map of factors [N, C, r, r'] enlarged to an image, as a whole or strip by strip."""

    def __init__(
        self,
        values: torch.Tensor,              # [N, C, r, r']; [N + K*N, C, r, r'] with masks
        like: torch.Tensor,                # activations, whose dtype and layout the map takes
        size: Sequence[int],               # [H, W]
        mask: torch.Tensor | None = None,  # [N or 1, K, Hm, Wm] in 0..1: shares of the further values
    ):
        values = values.to(dtype=like.dtype, memory_format=memory_format_of(like))
        self.size = tuple(size)
        self.parts = (values,) if mask is None else values.chunk(1 + mask.shape[1])
        self.mask = None if mask is None else resize(mask.to(like.dtype), size).expand(len(like), -1, -1, -1)
        self._tall: list[torch.Tensor] | None = None  # the parts enlarged along the height, [N, C, H, r']

    def times(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """x [N, C, H, W] times the map, plus noise that broadcasts against it."""
        values = self.parts[0]
        is_enlarged = all(1 < a <= b for a, b in zip(values.shape[2:], self.size))
        is_large = x.device.type == "cpu" and x.numel() >= LARGE and not is_compiling()
        if is_large and self.mask is None and is_enlarged:
            return MultiplySpread.apply(x, values, noise)
        return x * self.whole() if noise is None else fma(x, self.whole(), noise)

    def whole(self) -> torch.Tensor:
        """[N, C, H, W]; [N, C, 1, 1] where one value serves the whole image."""
        parts = [resize(part, self.size) for part in self.parts]
        return parts[0] if self.mask is None else mix(parts, self.mask)

    def strip(self, index: Any) -> torch.Tensor:
        """What `whole()[index]` would be, for an index of `strips`."""
        if index is Ellipsis:
            return self.whole()
        if self.parts[0].shape[2:] == (1, 1):
            parts = [part[index[0]] for part in self.parts]
        else:
            width = self.size[1]
            parts = [apply_to_cols(part[index], bilinear_matrix(part.shape[3], width, part)) for part in self.tall()]
        return parts[0] if self.mask is None else mix(parts, self.mask[index])

    def tall(self) -> list[torch.Tensor]:
        """The parts enlarged along the height, [N, C, H, r'], which all strips share."""
        if self._tall is None:
            height = self.size[0]
            parts = [resize(part, [min(a, b) for a, b in zip(part.shape[2:], self.size)]) for part in self.parts]
            self._tall = [apply_to_rows(part, bilinear_matrix(part.shape[2], height, part)) for part in parts]
        return self._tall


def mix(parts: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Lay each of K further parts over those before, by its share: 1 + K of [N, C, H, W], [N, K, H, W] in 0..1"""
    y = parts[0]
    for part, share in zip(parts[1:], mask.split(1, dim=1)):
        y = y.lerp(part, share)
    return y


class MultiplySpread(torch.autograd.Function):
    """x * enlarge(values) + noise: [N, C, H, W], [N, C, r, r'], noise that broadcasts or None -> [N, C, H, W]

    Autograd would keep the enlarged map for the derivative and write another one there. Here neither exists as a whole,
    which saves the time of both where memory is the limit. With `SpreadGradient` it has derivatives of all orders.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, values: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, values)
        ctx.noise_shape = None if noise is None else noise.shape
        spread, y = SpreadMap(values, x, x.shape[2:]), torch.empty_like(x)
        noise = None if noise is None else noise.expand(len(x), 1, *x.shape[2:])
        for index in strips(x):
            if noise is None:
                torch.mul(x[index], spread.strip(index), out=y[index])
            else:
                torch.addcmul(noise[index], x[index], spread.strip(index), out=y[index])
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        x, values = ctx.saved_tensors
        grad_x = grad_values = grad_noise = None
        if ctx.needs_input_grad[0]:
            grad_x = MultiplySpread.apply(grad, values, None)
        if ctx.needs_input_grad[1]:
            grad_values = SpreadGradient.apply(grad, x, values.shape[2:])
        if ctx.needs_input_grad[2]:
            grad_noise = grad.sum_to_size(ctx.noise_shape)
        return grad_x, grad_values, grad_noise


class SpreadGradient(torch.autograd.Function):
    """The transpose of `enlarge`, applied to a * b: [N, C, H, W] twice -> [N, C, *size]"""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        rows, cols = (bilinear_matrix(r, length, a).t() for r, length in zip(size, a.shape[2:]))
        indices = strips(a)
        if indices == [Ellipsis]:
            return apply_to_axes(a * b, rows, cols)
        tall = a.new_empty([*a.shape[:3], size[1]]).contiguous(memory_format=torch.channels_last)
        for index in indices:
            tall[index] = apply_to_cols(a[index] * b[index], cols)
        return apply_to_rows(tall, rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        a, b = ctx.saved_tensors
        grad_a = MultiplySpread.apply(b, grad, None) if ctx.needs_input_grad[0] else None
        grad_b = MultiplySpread.apply(a, grad, None) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b, None


def strips(x: torch.Tensor) -> list:
    """Indices of the strips, a few samples or a few rows of one, into which activations [N, C, H, W] are cut.

    Several element-wise operations on a strip reach memory once, not once each. Only a processor profits, in its
    layout, and only where nobody records every strip; elsewhere the only strip is everything.
    """
    if is_recorded():
        return [Ellipsis]
    n, c, h, w = x.shape
    size = STRIP * torch.get_num_threads()
    in_layout = x.device.type == "cpu" and memory_format_of(x) == torch.channels_last
    if not in_layout or x.numel() <= size:
        return [Ellipsis]
    samples, rows = max(size // (c * h * w), 1), min(max(size // (c * w), 1), h)
    return [
        (slice(i, i + samples), slice(None), slice(row, row + rows))
        for i in range(0, n, samples) for row in range(0, h, rows)
    ]
