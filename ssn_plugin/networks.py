"""The generator of Spatially Stochastic Networks (SSN).

Hong, Arjovsky, Barnhart, Thompson 2020, "Low Distortion Block-Resampling with Spatially Stochastic Networks"
(arXiv:2006.05394): StyleGAN2 whose latent is a grid of independent blocks. Each block passes through the same mapping
network, and the resulting grid of styles becomes a style map that modulates every convolution differently at every
position. To the host it looks like an ordinary StyleGAN2 generator with a long flat latent.

First the convolution and what it is made of, then the layers, then the network. Every operation is spelled out here in
plain tensor code, which is what it means; `ops` holds the same operations in a faster form where the host has one.

The text of this file travels inside every snapshot and is executed alone when a checkout without the plugin opens it,
so it imports only torch, numpy and torch_utils, absolutely, and parses on Python 3.8.

Letters in shapes: N batch, R S grid rows and columns, B blocks (R*S, summed over the grids where there are several),
L layers (num_ws), I/O/C channels in, out and in general, H W pixels, k kernel, r side of a style map.
A resolution is in pixels: one number where images are square, [height, width] where they are not. A level is the number
in the name of a block or a style map, a power of two: the resolution it has in square images.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_gradfix, conv2d_resample, upfirdn2d

try:
    from torch_utils.ops import modulation as ops
except ImportError:                  # another host: its operations are the functions of this file
    ops = sys.modules[__name__]

# Does torch.compile trace this call? Old versions of torch have no such function.
is_compiling = getattr(getattr(torch, "compiler", None), "is_dynamo_compiling", lambda: False)

SQRT_HALF = float(np.sqrt(0.5))      # weight of each branch of a residual sum, which keeps the variance


class Epilogue(NamedTuple):
    """What follows a convolution: activation(y + bias) * gain, clamped."""

    bias: torch.Tensor | None = None  # [O]
    activation: str = "linear"        # key of bias_act.activation_funcs
    gain: float = 1                   # positive factor on the activation
    clamp: float | None = None        # bound on the magnitude of the result; None: unbounded


IDENTITY = Epilogue()


def spatially_modulated_conv2d(
    x: torch.Tensor,              # [N, I, H, W]  activations
    weight: torch.Tensor,         # [O, I, k, k]  kernel shared by the batch and by all positions
    styles: torch.Tensor,         # [N, I, r, r]  scale of each channel, resized to the image; [N + K*N, ...] with masks
    noise=None,                   # broadcastable to the output, added after demodulation
    up: int = 1,                  # integer factor
    resample_filter=None,         # low-pass filter of the up-sampling
    demodulation: str = "exact",  # method of style_gain; none: leave the gain of styles and kernel in
    epilogue: Epilogue = IDENTITY,
    mask=None,                    # [N or 1, K, Hm, Wm] in 0..1: shares of the further styles, each over those before
    overwrite: bool = False,      # may x be changed?
) -> torch.Tensor:                # [N, O, H*up, W*up]
    """Convolve after scaling with a style that varies over the image, divide by the expected deviation.

    y = W * (s . x) / sqrt(W^2 * s^2 + eps) (Hong et al. 2020, Eqs. 1 and 12-14). Unlike StyleGAN2's modulation this
    cannot be folded into the kernel, but one kernel serves the whole batch. The deviation is computed at the input
    resolution (exact) or at that of the style map (otherwise) and interpolated to the output.
    """
    if demodulation == "none":
        y = ops.modulate_and_convolve(x, styles, weight, mask, up, resample_filter, overwrite)
        return ops.finish(y, None, noise, epilogue, mask)
    if x.dtype == torch.float16:
        weight, styles = limit_range(weight, styles, mask)
    before, epilogue = split_gain(epilogue)
    noise = None if noise is None else noise * before
    at_layer = ops.resize(styles, x.shape[2:]) if demodulation == "exact" else styles
    demod = style_gain(at_layer, weight, demodulation) * before                               # [N, O, r, r]
    y = ops.modulate_and_convolve(x, styles, weight, mask, up, resample_filter, overwrite)    # W * (s . x)
    return ops.finish(y, demod, noise, epilogue, mask)


def style_gain(
    styles: torch.Tensor,   # [N, I, r, r]  style map
    weight: torch.Tensor,   # [O, I, k, k]  kernel
    method: str = "exact",  # exact, averaged or constant
    eps: float = 1e-8,      # avoids division by zero where all styles vanish
) -> torch.Tensor:          # [N, O, r, r]
    """1 / sqrt(W^2 * s^2 + eps): the inverse standard deviation of W * (s . x) for independent unit-variance x.

    Hong et al. 2020, Eqs. 12-14 (* convolution, squares element-wise). Styles beyond the border are replicated, not
    zero: then a style that is constant over the image gives StyleGAN2's demodulation everywhere, borders included.
    A k x k convolution with W^2 doubles the work of the layer. The two short cuts factor it into what a kernel does
    to channels, sum_k W^2, and to space: the mean over its window (averaged), or nothing at all (constant).
    """
    energy, kernel = styles.square(), weight.square()
    taps = weight.shape[2] * weight.shape[3]
    pad = weight.shape[-1] // 2
    if energy.shape[2:] == (1, 1) or pad == 0:
        method = "constant"
    if method == "exact":
        energy = conv2d_gradfix.conv2d(replicate_borders(energy, pad), kernel)
        return (energy + eps).rsqrt()
    if method == "averaged":
        energy = F.avg_pool2d(replicate_borders(energy, pad), weight.shape[-1], stride=1)
    kernel = (kernel.reshape(-1, taps) @ kernel.new_ones([taps])).reshape(weight.shape[:2])  # twice as fast as a sum
    return (ops.map_channels(energy, kernel) + eps).rsqrt()


def replicate_borders(x: torch.Tensor, pad: int) -> torch.Tensor:
    """Continue the outermost rows and columns: [N, C, H, W] -> [N, C, H + 2*pad, W + 2*pad]"""
    if not is_compiling():
        return F.pad(x, [pad] * 4, mode="replicate")
    # The derivative of F.pad has another layout than the one that torch.compile is told of and relies on.
    for dim in (2, 3):
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
        x = torch.cat([first] * pad + [x] + [last] * pad, dim)
    return x


def limit_range(weight: torch.Tensor, styles: torch.Tensor, mask=None) -> tuple:
    """Scale kernel and styles so that sums of their products with activations fit float16; demodulation cancels it.

    Styles that masks will mix need one factor in common: it must not change from pixel to pixel under a kernel.
    """
    weight = weight * (weight[0].numel() ** -0.5 / weight.abs().amax(dim=[1, 2, 3], keepdim=True))
    largest = styles.abs().amax(dim=[1, 2, 3], keepdim=True)
    if mask is not None:
        parts = largest.chunk(1 + mask.shape[1])
        largest = torch.stack(parts).amax(dim=0).repeat(len(parts), 1, 1, 1)
    return weight, styles / largest


def split_gain(epilogue: Epilogue) -> tuple:
    """A factor that everything before the activation is to take, and the epilogue that remains to be done then.

    The factor is the gain where the activation lets it pass: there it can join the kernel or another factor, and costs
    no pass over the activations.
    """
    if bias_act.activation_funcs[epilogue.activation].has_2nd_grad:  # neither linear nor relu nor lrelu
        return 1, epilogue
    bias = None if epilogue.bias is None else epilogue.bias * epilogue.gain
    return epilogue.gain, epilogue._replace(bias=bias, gain=1)


# The operations, in plain form. The layers call them through `ops`.


def modulate_and_convolve(x, styles, weight, mask=None, up=1, resample_filter=None, overwrite=False):
    """W * (s . x), enlarged by `up`. Arguments as of spatially_modulated_conv2d; [N, I, H, W] -> [N, O, H*up, W*up]"""
    return conv2d_resample.conv2d_resample(
        x=x * spread(styles, x, mask), w=weight.to(x.dtype), f=resample_filter, up=up, padding=weight.shape[2] // 2,
        flip_weight=up == 1,
    )


def finish(y, scale=None, noise=None, epilogue=IDENTITY, mask=None):
    """activation(y * scale + noise + bias) * gain, clamped: [N, C, H, W] -> [N, C, H, W]

    scale: [N, C, r, r], resized to the image; [N + K*N, ...] with masks.  noise: broadcastable to y.  Each may be None.
    """
    y = y if scale is None else y * spread(scale, y, mask)
    y = y if noise is None else y + noise.to(y.dtype)
    bias = None if epilogue.bias is None else epilogue.bias.to(y.dtype)
    return bias_act.bias_act(y, bias, act=epilogue.activation, gain=epilogue.gain, clamp=epilogue.clamp)


def spread(values: torch.Tensor, x: torch.Tensor, mask=None) -> torch.Tensor:
    """Resize [N, C, r, r] to x [N, C, H, W]; with K masks, mix the parts of [N + K*N, C, r, r], one over the other."""
    size = x.shape[2:]
    values = resize(values.to(x.dtype), size)
    if mask is None:
        return values
    y, *others = values.chunk(1 + mask.shape[1])
    for other, share in zip(others, resize(mask.to(x.dtype), size).split(1, dim=1)):
        y = y.lerp(other, share)
    return y


def resize(x: torch.Tensor, size) -> torch.Tensor:
    """Map [N, C, r, r'] to [N, C, *size]: bilinear with half-pixel centres upwards, area average downwards.

    A single cell stays a single cell: it broadcasts against any size.
    """
    if x.shape[2:] == (1, 1):
        return x
    x = F.adaptive_avg_pool2d(x, [min(a, b) for a, b in zip(x.shape[2:], size)])
    # As matrices: on a GPU F.interpolate takes ten times longer, and its derivative adds up in an order that changes.
    rows, cols = (
        misc.constant(bilinear_matrix(a, b), dtype=x.dtype, device=x.device) for a, b in zip(x.shape[2:], size)
    )
    return F.linear(F.linear(x.transpose(2, 3), rows).transpose(2, 3), cols)


def bilinear_matrix(num_in: int, num_out: int) -> np.ndarray:
    """Bilinear enlargement of one axis with half-pixel centres, as a matrix [num_out, num_in]."""
    places = ((np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5).clip(0, num_in - 1)
    return (1 - np.abs(places[:, None] - np.arange(num_in))).clip(0)


def map_channels(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Apply a 1x1 kernel to every position: [N, I, H, W], [O, I] -> [N, O, H, W]"""
    return conv2d_gradfix.conv2d(x, matrix[:, :, None, None])


def depthwise_conv2d(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolve each channel of [N, C, H, W] with its kernel of [C, 1, k, k], k odd. [N, C, H, W]

    As a sum over shifts: second derivatives of a convolution in groups take several convolutions for each group.
    """
    height, width = x.shape[2:]
    k = weight.shape[-1]
    x = F.pad(x, [k // 2] * 4)
    shifts = [(i, j) for i in range(k) for j in range(k)]
    return sum(x[:, :, i : i + height, j : j + width] * weight[:, :, i, j, None] for i, j in shifts)


def compute_format(use_fp16: bool, channels_last: bool, device: torch.device) -> dict:
    """Data type and memory layout of a block's activations, as keyword arguments of Tensor.to.

    Half precision is for accelerators. Being an operation, this may ask for the device; layers and networks do not.
    """
    use_fp16 = use_fp16 and device.type != "cpu"
    layout = torch.channels_last if use_fp16 and channels_last else torch.contiguous_format
    return dict(dtype=torch.float16 if use_fp16 else torch.float32, memory_format=layout)


def normalize_2nd_moment(x: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> torch.Tensor:
    """Scale x so that its mean square along `dim` is one."""
    return x * (x.square().mean(dim=dim, keepdim=True) + eps).rsqrt()


def side_lengths(resolution) -> list:
    """[height, width] of a resolution, which is one side or both."""
    return list(resolution) if isinstance(resolution, (list, tuple)) else [resolution, resolution]


def block_sizes(img_resolution) -> dict:
    """Resolution of each block by its level: {4: 4, 8: 8, ...} up to the image.

    Square images grow from 4x4. Others grow from the smallest grid of their shape that has at least four cells along
    each side: [64, 96] is {4: [4, 6], 8: [8, 12], 16: [16, 24], 32: [32, 48], 64: [64, 96]}.
    ValueError for images that do not grow from such a grid by doubling.
    """
    height, width = (int(side) for side in side_lengths(img_resolution))
    if height == width:
        if height < 4 or height & (height - 1):
            raise ValueError(f"image resolution must be a power of two and at least 4, got {height}")
        return {2**i: 2**i for i in range(2, height.bit_length())}
    if min(height, width) < 4 or height % 4 or width % 4:
        raise ValueError(f"sides of rectangular images must be multiples of 4, got {width}x{height}")
    doublings = 0
    while not (height >> doublings | width >> doublings) & 1 and min(height, width) >> doublings >= 8:
        doublings += 1
    return {4 << i: [height >> doublings - i, width >> doublings - i] for i in range(doublings + 1)}


def nominal_side(resolution) -> int:
    """The power of two nearest to sqrt(H*W): a rectangle has the channels of a square of this side."""
    height, width = side_lengths(resolution)
    return 2 ** (((16 * height * width // 9).bit_length() - 1) // 2)  # the largest power up to 4/3 sqrt(H*W)


def block_channels(resolution, channel_base: int, channel_max: int) -> int:
    """Width of the layers at one resolution."""
    return min(channel_base // nominal_side(resolution), channel_max)


def uses_fp16(level: int, last: int, num_fp16_res: int) -> bool:
    """Is this among the `num_fp16_res` highest levels? The lowest is never in half precision."""
    return num_fp16_res > 0 and level >= max(2 * last // 2**num_fp16_res, 8)


def default_style_level(block_grid, img_resolution) -> int:
    """Level at which style maps stop growing: 4 pixels along each side of a cell, and 16 in all.

    But no more than a quarter of the image where that is 2 pixels along each side of a cell: the maps of a small image
    would cost as much as its convolutions. 1 for a single cell, the last level where none is fine enough.
    """
    rows, cols = (max(counts) for counts in zip(*block_grid))
    if rows == cols == 1:
        return 1
    sizes = block_sizes(img_resolution)
    levels = list(sizes)

    def first_level(least_height, least_width):
        for level, resolution in sizes.items():
            height, width = side_lengths(resolution)
            if height >= least_height and width >= least_width:
                return level
        return levels[-1]

    quarter = levels[max(len(levels) - 3, 0)]
    return min(first_level(max(16, 4 * rows), max(16, 4 * cols)), max(quarter, first_level(2 * rows, 2 * cols)))


class LayerPlan(NamedTuple):
    """What a convolution of the network works with."""

    resolution: object  # of its output and its noise
    style_level: int    # of its style map
    demodulation: str   # method of style_gain


def plan_layers(block_grid, img_resolution, style_level: int, exact: bool = False) -> dict:
    """The convolutions of every block: level -> list of LayerPlan.

    A style map has the level of the convolution's input, but no more than `style_level`. Demodulation is exact where
    neighbouring pixels belong to different blocks, or everywhere if asked, and factored beyond.
    """
    sizes = block_sizes(img_resolution)

    def demodulation_at(level):
        height, width = side_lengths(sizes[level])
        if exact or any(height <= rows or width <= cols for rows, cols in block_grid):
            return "exact"
        return "averaged" if level <= style_level else "constant"

    def plan_block(level):
        inputs = [level // 2, level] if level // 2 in sizes else [level]  # the first convolution of a block enlarges
        return [LayerPlan(sizes[level], min(source, style_level), demodulation_at(source)) for source in inputs]

    return {level: plan_block(level) for level in sizes}


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """Linear layer with equalised learning rate (Karras et al. 2018, section 4.1). [N, in] -> [N, out]

    That of StyleGAN2, always with a bias, which also serves as a 1x1 convolution.
    """

    def __init__(
        self,
        in_features,           # numbers in
        out_features,          # numbers out
        activation="linear",   # key of bias_act.activation_funcs
        lr_multiplier=1,       # scale of the learning rate against the rest of the network
        bias_init=0,           # initial bias
    ):
        super().__init__()
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = float(lr_multiplier / np.sqrt(in_features))
        self.bias_gain = lr_multiplier

    def forward(self, x):
        b = self.bias if self.bias_gain == 1 else self.bias * self.bias_gain
        w = (self.weight * self.weight_gain).t()
        if self.activation == "linear":
            return torch.addmm(b, x, w)
        return bias_act.bias_act(x @ w, b, act=self.activation)

    def forward_map(self, x):
        """Apply to every position: [N, in, H, W] -> [N, out, H, W], the paper's 1x1 convolution."""
        n, c, h, w = x.shape
        y = self.forward(x.permute(0, 2, 3, 1).reshape(n * h * w, c))
        return y.reshape(n, h, w, -1).permute(0, 3, 1, 2)


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    """Convolution with equalised learning rate. [N, I, H, W] -> [N, O, H*up, W*up]

    That of StyleGAN2 without what only a discriminator needs: down-sampling, a clamp, frozen weights.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,                   # k, odd
        bias=True,                     # add a bias?
        activation="linear",           # key of bias_act.activation_funcs
        up=1,                          # integer factor
        resample_filter=[1, 3, 3, 1],  # low-pass taps
    ):
        super().__init__()
        self.activation = activation
        self.up = up
        self.padding = kernel_size // 2
        self.weight_gain = float(1 / np.sqrt(in_channels * kernel_size**2))
        self.act_gain = float(bias_act.activation_funcs[activation].def_gain)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels])) if bias else None

    def forward(self, x, gain=1):
        before, epilogue = split_gain(Epilogue(self.bias, self.activation, self.act_gain * gain))
        w = (self.weight * (self.weight_gain * before)).to(x.dtype)
        x = conv2d_resample.conv2d_resample(
            x=x, w=w, f=self.resample_filter, up=self.up, padding=self.padding, flip_weight=self.up == 1
        )
        return ops.finish(x, epilogue=epilogue)


@persistence.persistent_class
class BlockMappingNetwork(torch.nn.Module):
    """StyleGAN2's mapping network, one per grid, for each of its blocks. z [N, B*bz], c [N, c_dim] -> [N, L, B*bw]"""

    def __init__(
        self,
        block_z_dim,          # bz, latent numbers per block
        c_dim,                # 0: unconditional; otherwise every block sees the label
        block_w_dim,          # bw, style numbers per block
        num_ws,               # L
        block_grid,           # [[rows, columns]] of each grid
        num_layers=8,
        embed_features=None,  # width of the label embedding; None: block_w_dim
        layer_features=None,  # width of the hidden layers; None: block_w_dim
        activation="lrelu",
        lr_multiplier=0.01,   # learning rate of these layers against the rest
        w_avg_beta=0.995,     # decay of the running mean of w; None: not tracked
    ):
        super().__init__()
        self.block_grid = [list(grid) for grid in block_grid]
        self.grid_sizes = [rows * cols for rows, cols in self.block_grid]  # blocks of each grid
        self.num_blocks = sum(self.grid_sizes)
        self.block_z_dim = block_z_dim
        self.block_w_dim = block_w_dim
        self.z_dim = self.num_blocks * block_z_dim
        self.c_dim = c_dim
        self.w_dim = self.num_blocks * block_w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed_features = 0 if c_dim == 0 else block_w_dim if embed_features is None else embed_features
        layer_features = block_w_dim if layer_features is None else layer_features
        widths = [block_z_dim + embed_features] + [layer_features] * (num_layers - 1) + [block_w_dim]
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        for grid in range(len(self.block_grid)):
            for i, (width, next_width) in enumerate(zip(widths, widths[1:])):
                layer = FullyConnectedLayer(width, next_width, activation=activation, lr_multiplier=lr_multiplier)
                setattr(self, self.layer_name(grid, i), layer)
        if w_avg_beta is not None:
            # Mean over samples and the blocks of a grid, repeated for each of these blocks.
            self.register_buffer("w_avg", torch.zeros([self.w_dim]))

    def layer_name(self, grid, i):
        """Attribute that holds layer i for the blocks of a grid; the first grid's have the names of StyleGAN2."""
        return f"fc{i}" if grid == 0 else f"grid{grid}_fc{i}"

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        misc.assert_shape(z, [None, self.z_dim])
        label = None
        if self.c_dim > 0:
            misc.assert_shape(c, [None, self.c_dim])
            label = normalize_2nd_moment(self.embed(c.to(torch.float32)))
        latents = z.to(torch.float32).split([size * self.block_z_dim for size in self.grid_sizes], dim=1)
        styles = [self.map_grid(grid, latent, label) for grid, latent in enumerate(latents)]  # [N, B, bw] of each grid
        if self.training and self.w_avg_beta is not None and not skip_w_avg_update:
            mean = torch.cat([w.detach().mean(dim=[0, 1]).repeat(w.shape[1]) for w in styles])
            self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))
        w = torch.cat([w.flatten(1) for w in styles], dim=1)                                  # [N, B*bw]
        ws = w[:, None].repeat([1, self.num_ws, 1])
        if truncation_psi != 1:
            if self.w_avg_beta is None:
                raise ValueError("truncation needs the running mean of w, which w_avg_beta=None switches off")
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            ws = torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], dim=1)
        return ws

    def map_grid(self, grid, z, label):
        """Latents of one grid's B blocks and the label, if any, to styles: [N, B*bz], [N, embed] -> [N, B, bw]"""
        size = self.grid_sizes[grid]
        w = normalize_2nd_moment(z.reshape(-1, self.block_z_dim))                             # [N*B, bz]
        if label is not None:
            w = torch.cat([w, label.repeat_interleave(size, dim=0)], dim=1)
        for i in range(self.num_layers):
            w = getattr(self, self.layer_name(grid, i))(w)
        return w.reshape(-1, size, self.block_w_dim)


@persistence.persistent_class
class SeparableConvLayer(torch.nn.Module):
    """3x3 convolution per channel, then a mix of channels and an activation. [N, C, H, W] -> [N, C, H, W]"""

    def __init__(self, channels):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn([channels, 1, 3, 3]))
        self.weight_gain = 1 / 3  # nine taps
        self.mix = FullyConnectedLayer(channels, channels, activation="lrelu")

    def forward(self, x):
        return self.mix.forward_map(ops.depthwise_conv2d(x, self.weight * self.weight_gain))


@persistence.persistent_class
class SpatialEncoder(torch.nn.Module):
    """Context of the style grid, coarse to fine: C_r = F_r(up2(C_{r/2}) + resize(w, r)), added with gain g_r.

    F_r is a 3x3 convolution with activation, g_r a scalar. The paper names this module without specifying it; ours is
    separable because a full convolution of wide styles would cost a fifth of a small network.
    """

    def __init__(
        self,
        block_w_dim,    # bw
        levels,         # of the style maps, ascending
        gate=1.0,       # initial g_r; 0 starts from plain interpolation (Bachlechner et al. 2020, ReZero)
    ):
        super().__init__()
        self.levels = list(levels)
        for level in self.levels:
            setattr(self, f"conv{level}", SeparableConvLayer(block_w_dim))
            setattr(self, f"gate{level}", torch.nn.Parameter(torch.full([], float(gate))))

    def forward(self, first):
        """`first[r]`: style map of the first layer of level r. Returns a dict from each level r to g_r * C_r."""
        contexts, context = {}, None
        for level in self.levels:
            x = first[level]
            if context is not None:
                x = x + ops.resize(context, x.shape[2:])
            context = getattr(self, f"conv{level}")(x)
            contexts[level] = context * getattr(self, f"gate{level}")
        return contexts


@persistence.persistent_class
class SpatialSynthesisLayer(torch.nn.Module):
    """Spatially styled convolution with noise, bias and activation. [N, I, H/up, W/up] -> [N, O, H, W]"""

    def __init__(
        self,
        in_channels,
        out_channels,
        block_w_dim,                   # bw
        resolution,                    # of the output: side, or [H, W]
        kernel_size=3,
        up=1,                          # integer factor
        use_noise=True,
        activation="lrelu",
        resample_filter=[1, 3, 3, 1],
        conv_clamp=None,               # bound on the output's magnitude; None: unbounded
        demodulation="exact",          # method of style_gain
    ):
        super().__init__()
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.demodulation = demodulation
        self.act_gain = float(bias_act.activation_funcs[activation].def_gain)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))
        self.affine = self.make_affine(in_channels, out_channels, block_w_dim)
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(side_lengths(resolution)))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def make_affine(self, in_channels, out_channels, block_w_dim):
        return FullyConnectedLayer(block_w_dim, in_channels, bias_init=1)

    def forward(self, x, encoded, noise_mode="random", noise=None, mask=None, gain=1, overwrite=False):
        """`encoded`: [N, bw, r, r], or [N + K*N, ...] with masks. `noise`: unit normals that override noise_mode."""
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return spatially_modulated_conv2d(
            x, self.weight, self.affine.forward_map(encoded), noise=self.scaled_noise(x.shape[0], noise_mode, noise),
            up=self.up, resample_filter=self.resample_filter, demodulation=self.demodulation,
            epilogue=Epilogue(self.bias, self.activation, self.act_gain * gain, clamp), mask=mask, overwrite=overwrite,
        )

    def scaled_noise(self, batch_size, mode, noise):
        """Noise map broadcastable to [N, 1, H, W], or None."""
        if mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode must be random, const or none, got {mode!r}")
        if not self.use_noise or (noise is None and mode == "none"):
            return None
        if noise is None and mode == "const":
            noise = self.noise_const
        elif noise is None:
            noise = torch.randn([batch_size, 1, *self.noise_const.shape], device=self.noise_const.device)
        return noise * self.noise_strength


@persistence.persistent_class
class SpatialToRGBLayer(torch.nn.Module):
    """Spatially styled 1x1 convolution to image channels, without demodulation. [N, I, H, W] -> [N, C, H, W]"""

    def __init__(self, in_channels, out_channels, block_w_dim, kernel_size=1, conv_clamp=None):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(block_w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))
        self.weight_gain = float(1 / np.sqrt(in_channels * kernel_size**2))

    def forward(self, x, encoded, mask=None):
        return spatially_modulated_conv2d(
            x, self.weight * self.weight_gain, self.affine.forward_map(encoded), demodulation="none",
            epilogue=Epilogue(self.bias, clamp=self.conv_clamp), mask=mask,
        )


@persistence.persistent_class
class SpatialSynthesisBlock(torch.nn.Module):
    """All layers of one resolution. x [N, I, H/2, W/2], img [N, C, H/2, W/2] -> x [N, O, H, W], img [N, C, H, W]"""

    layer_class: type = SpatialSynthesisLayer

    def __init__(
        self,
        in_channels,                   # 0: first block, starts from a learned constant
        out_channels,
        block_w_dim,                   # bw
        resolution,                    # of the output: side, or [H, W]
        img_channels,
        is_last,                       # does the network end here?
        demodulation,                  # methods of style_gain of conv0, unless it is the first block, and conv1
        architecture="skip",           # orig, skip or resnet (Karras et al. 2020a, Figure 7)
        resample_filter=[1, 3, 3, 1],
        conv_clamp=None,
        use_fp16=False,                # half precision on accelerators?
        fp16_channels_last=False,      # memory layout of half-precision activations
        **layer_kwargs,                # further arguments of SpatialSynthesisLayer
    ):
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"architecture must be orig, skip or resnet, got {architecture!r}")
        super().__init__()
        self.in_channels = in_channels
        self.resolution = resolution
        self.img_channels = img_channels
        self.is_last = is_last
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = 1 if is_last or architecture == "skip" else 0
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn([out_channels, *side_lengths(resolution)]))
        else:
            self.conv0 = self.layer_class(
                in_channels, out_channels, block_w_dim, resolution, up=2, resample_filter=resample_filter,
                conv_clamp=conv_clamp, demodulation=demodulation[0], **layer_kwargs,
            )
        self.conv1 = self.layer_class(
            out_channels, out_channels, block_w_dim, resolution, conv_clamp=conv_clamp, demodulation=demodulation[-1],
            **layer_kwargs,
        )
        if self.num_torgb:
            self.torgb = SpatialToRGBLayer(out_channels, img_channels, block_w_dim, conv_clamp=conv_clamp)
        if in_channels != 0 and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, kernel_size=1, bias=False, up=2, resample_filter=resample_filter
            )

    def forward(self, x, img, encoded, batch_size, force_fp32=False, noise=None, mask=None, **layer_kwargs):
        """`encoded` and `noise`: one entry per convolution, then one of `encoded` for the RGB output."""
        encoded, noise = iter(encoded), iter(noise)
        layout = ops.compute_format(self.use_fp16 and not force_fp32, self.channels_last, self.resample_filter.device)

        def convolve(layer, x, **kwargs):
            return layer(x, next(encoded), noise=next(noise), mask=mask, **layer_kwargs, **kwargs)

        if self.in_channels == 0:
            x = self.const.expand(batch_size, *self.const.shape).to(**layout)
            x = convolve(self.conv1, x)
        elif self.architecture == "resnet":
            x = x.to(**layout)
            shortcut = self.skip(x, gain=SQRT_HALF)
            x = convolve(self.conv0, x, overwrite=True)
            x = shortcut + convolve(self.conv1, x, overwrite=True, gain=SQRT_HALF)
        else:
            x = convolve(self.conv0, x.to(**layout), overwrite=True)
            x = convolve(self.conv1, x, overwrite=True)

        if img is not None:
            img = upfirdn2d.upsample2d(img, self.resample_filter)
        if self.num_torgb:
            rgb = self.torgb(x, next(encoded), mask=mask).to(torch.float32)
            img = rgb if img is None else img + rgb
        return x, img


@persistence.persistent_class
class SpatialSynthesisNetwork(torch.nn.Module):
    """Grids of styles to images. ws [N, L, B*bw] -> [N, C, H, W] float32"""

    block_class = SpatialSynthesisBlock

    def __init__(
        self,
        block_w_dim,            # bw
        img_resolution,         # power of two, or [H, W], see block_sizes
        img_channels,
        block_grid,             # [[rows, columns]] of each grid
        channel_base=32768,     # channels times resolution
        channel_max=512,        # upper bound on channels
        num_fp16_res=0,         # how many of the highest levels use half precision
        encoder="gated",        # gated: SpatialEncoder; none: plain interpolation of the grid
        encoder_gate=1.0,       # initial gain of the encoder
        style_resolution=None,  # highest style level; None: default_style_level; 0: that, and demodulation is exact
        **block_kwargs,         # further arguments of SpatialSynthesisBlock
    ):
        if encoder not in ("gated", "none"):
            raise ValueError(f"encoder must be gated or none, got {encoder!r}")
        if style_resolution and (style_resolution < 4 or style_resolution & (style_resolution - 1)):
            raise ValueError(f"style resolution must be 0 or a power of two and at least 4, got {style_resolution}")
        sizes = block_sizes(img_resolution)
        check_block_grid(block_grid, img_resolution)
        super().__init__()
        last = max(sizes)
        self.block_grid = [list(grid) for grid in block_grid]
        self.num_blocks = sum(rows * cols for rows, cols in self.block_grid)
        self.block_w_dim = block_w_dim
        self.w_dim = self.num_blocks * block_w_dim
        self.img_resolution = sizes[last]
        self.img_resolution_log2 = last.bit_length() - 1
        self.img_channels = img_channels
        self.block_resolutions = list(sizes)  # levels of the blocks, under the name that hosts know
        # One block has the same style everywhere: nothing to interpolate, nothing to encode.
        default = default_style_level(block_grid, img_resolution)
        self.style_level = min(style_resolution or default, last) if default > 1 else 1
        plan = plan_layers(block_grid, img_resolution, self.style_level, exact=style_resolution == 0)
        layers = [layer for layers in plan.values() for layer in layers]
        self.noise_resolutions = [layer.resolution for layer in layers]
        # The RGB output of the last block has a style of its own; those of the others share the next block's first one.
        self.style_levels = [layer.style_level for layer in layers] + [self.style_level]
        self.num_ws = len(self.style_levels)
        in_channels = 0
        for level, resolution in sizes.items():
            out_channels = block_channels(resolution, channel_base, channel_max)
            block = self.block_class(
                in_channels, out_channels, block_w_dim, resolution, img_channels=img_channels, is_last=level == last,
                demodulation=[layer.demodulation for layer in plan[level]],
                use_fp16=uses_fp16(level, last, num_fp16_res), **block_kwargs,
            )
            setattr(self, f"b{level}", block)
            in_channels = out_channels
        encode = encoder == "gated" and self.style_level > 1
        levels = sorted(set(self.style_levels)) if encode else []
        self.encoder = SpatialEncoder(block_w_dim, levels, gate=encoder_gate) if encode else None

    def forward(self, ws, noise_mode="random", force_fp32=False, fused_modconv=None, blend=None, noise=None):
        """`fused_modconv` is accepted for callers that know StyleGAN2 and changes nothing.
        `blend`: (other ws [K*N, L, w_dim], mask [N or 1, K, H, W] in 0..1) mixes in style maps, one over the other.
        `noise`: list of unit normal maps [N or 1, 1, r, r], one per convolution, instead of noise_mode.
        """
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        mask = None
        batch_size = ws.shape[0]
        if blend is not None:
            other, mask = blend
            ws = torch.cat([ws, other])
        if noise is None:
            noise = [None] * len(self.noise_resolutions)
        elif len(noise) != len(self.noise_resolutions):
            raise ValueError(f"noise must hold {len(self.noise_resolutions)} maps, got {len(noise)}")
        encoded = self.encode(ws.to(torch.float32))
        x = img = None
        first = 0
        for level in self.block_resolutions:
            block = getattr(self, f"b{level}")
            last = first + block.num_conv
            x, img = block(
                x, img, encoded[first : last + 1], batch_size, force_fp32=force_fp32, noise=noise[first:last],
                mask=mask, noise_mode=noise_mode,
            )
            first = last
        return img

    def encode(self, ws):
        """Style map E_l of every layer before its affine: ws [N, L, B*bw] -> L tensors [N, bw, r, r].

        E_l = resize(w_l, r) + g_r * C_r, with r the layer's input resolution or that of `style_level` if smaller, and
        the mean over the grids where there are several.
        """
        sizes = {1: 1, **block_sizes(self.img_resolution)}
        maps = []
        for level in sorted(set(self.style_levels)):  # ascending, as in the list: one enlargement for each
            count = self.style_levels.count(level)
            layers = ws[:, len(maps) : len(maps) + count].transpose(0, 1).flatten(0, 1)
            maps += self.interpolate(layers, sizes[level]).unflatten(0, (count, -1)).unbind()
        if self.encoder is None:
            return maps
        contexts = self.encoder({level: maps[self.style_levels.index(level)] for level in self.encoder.levels})
        return [style + contexts[level] for style, level in zip(maps, self.style_levels)]

    def interpolate(self, w, resolution):
        """Styles of all blocks on one map, the mean of the grids: [N, B*bw] -> [N, bw, r, r]; [N, bw, 1, 1] for 1x1."""
        maps = []
        sizes = [rows * cols * self.block_w_dim for rows, cols in self.block_grid]
        for part, (rows, cols) in zip(w.split(sizes, dim=1), self.block_grid):
            grid = part.reshape(-1, rows, cols, self.block_w_dim).permute(0, 3, 1, 2)
            maps.append(ops.resize(grid, side_lengths(resolution)))
        return maps[0] if len(maps) == 1 else sum(maps) / len(maps)


def check_block_grid(block_grid, img_resolution) -> None:
    """ValueError unless the rows and columns of every grid divide the image, and there is a grid."""
    if len(block_grid) == 0:
        raise ValueError("a generator needs at least one block grid, got none")
    height, width = side_lengths(img_resolution)
    for rows, cols in block_grid:
        if rows < 1 or cols < 1 or height % rows or width % cols:
            hint = "" if height == width else f": {rows} rows must divide {height} and {cols} columns {width}"
            raise ValueError(f"grid {rows}x{cols} does not divide the {width}x{height} image{hint}")


@persistence.persistent_class
class SSNGenerator(torch.nn.Module):
    """Grid of latents to image. z [N, B*bz], c [N, c_dim] -> image [N, C, H, W], nominally -1..1

    Block b (row-major from the top left) owns z[:, b*bz:(b+1)*bz] and ws[:, :, b*bw:(b+1)*bw], so code that knows
    nothing of blocks sees StyleGAN2 with z_dim = B*bz and w_dim = B*bw. A 1x1 grid is StyleGAN2. With several grids,
    usually coarse to fine, the blocks of one follow those of the other: a block of 1x1 moves what the image shares.
    """

    synthesis_class = SpatialSynthesisNetwork

    def __init__(
        self,
        block_z_dim,            # bz, latent numbers per block
        c_dim,                  # 0: unconditional
        block_w_dim,            # bw, style numbers per block
        img_resolution,         # power of two, or [H, W], see block_sizes
        img_channels,
        block_grid=[[4, 4]],    # [[rows, columns]] of each grid
        mapping_kwargs={},      # further arguments of BlockMappingNetwork
        synthesis_kwargs={},    # further arguments of SpatialSynthesisNetwork
    ):
        super().__init__()
        self.block_grid = [list(grid) for grid in block_grid]
        self.block_z_dim = block_z_dim
        self.block_w_dim = block_w_dim
        self.c_dim = c_dim
        self.img_channels = img_channels
        self.synthesis = self.synthesis_class(
            block_w_dim, img_resolution, img_channels, self.block_grid, **synthesis_kwargs
        )
        self.img_resolution = self.synthesis.img_resolution
        self.num_ws = self.synthesis.num_ws
        self.mapping = BlockMappingNetwork(
            block_z_dim, c_dim, block_w_dim, self.num_ws, self.block_grid, **mapping_kwargs
        )
        self.z_dim = self.mapping.z_dim
        self.w_dim = self.mapping.w_dim

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)
