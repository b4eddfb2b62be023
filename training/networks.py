"""StyleGAN2 mapping network, synthesis network and discriminator.

Karras et al. 2020a, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv:1912.04958), with the
half-precision and conditioning additions of Karras et al. 2020b (arXiv:2006.06676).

First the convolution and what it is made of, then the layers and networks. Element-wise operations are spelled out here
in plain tensor code, which is what they mean; `ops` holds the same ones in a faster form where the host has one.

The text of this file travels inside every snapshot and is executed alone when an archive of another checkout is
opened, so it imports only torch, numpy and torch_utils, absolutely, and parses on Python 3.8.

Letters in shapes: N batch, I/O input and output channels, H W pixels, k kernel, L layers (num_ws).
A resolution is in pixels: one number where images are square, [height, width] where they are not. A level is the number
in the name of a block, a power of two: the resolution it has in square images.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import torch

from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d

try:
    from torch_utils.ops import modulation as ops
except ImportError:                  # another host: its operations are the functions of this file
    ops = sys.modules[__name__]

SQRT_HALF = float(np.sqrt(0.5))      # weight of each branch of a residual sum, which keeps the variance


class Epilogue(NamedTuple):
    """What follows a convolution: activation(y + bias) * gain, clamped."""

    bias: torch.Tensor | None = None  # [O]
    activation: str = "linear"        # key of bias_act.activation_funcs
    gain: float = 1                   # positive factor on the activation
    clamp: float | None = None        # bound on the magnitude of the result; None: unbounded


IDENTITY = Epilogue()


def modulated_conv2d(
    x: torch.Tensor,          # [N, I, H, W]
    weight: torch.Tensor,     # [O, I, k, k]  kernel shared by the batch
    styles: torch.Tensor,     # [N, I]        scale of each input channel of each sample
    noise=None,               # broadcastable to the output, added after demodulation
    up: int = 1,
    down: int = 1,
    padding=0,
    resample_filter=None,
    demodulate: bool = True,  # divide out the gain of styles and kernel?
    flip_weight: bool = True,     # True: correlation; False: true convolution
    fused_modconv: bool = True,   # fold the styles into the kernel where one kernel serves the whole batch?
    epilogue: Epilogue = IDENTITY,
) -> torch.Tensor:            # [N, O, H*up/down, W*up/down]
    """Modulate, convolve, demodulate (Karras et al. 2020a, Eqs. 1 and 3).

    Styles and demodulation act per channel, so they are applied to the activations before and after one shared
    convolution. Per-sample copies of the kernel are made only where they are smaller than the activations.
    """
    if x.dtype == torch.float16 and demodulate:
        # Both factors cancel in the demodulation; without them float16 sums overflow.
        weight = weight * (weight[0].numel() ** -0.5 / weight.abs().amax(dim=[1, 2, 3], keepdim=True))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    demod = None
    if demodulate:
        kernel = weight.square().reshape(-1, weight.shape[2] * weight.shape[3])
        kernel = (kernel @ kernel.new_ones(kernel.shape[1])).reshape(weight.shape[:2])  # twice as fast as a sum
        demod = (styles.square() @ kernel.t() + 1e-8).rsqrt()  # [N, O]
        before, epilogue = split_gain(epilogue)
        demod, noise = (None if tensor is None else tensor * before for tensor in (demod, noise))

    def convolve(image, kernel):
        return conv2d_resample.conv2d_resample(
            x=image, w=kernel.to(x.dtype), f=resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight
        )

    if weight.shape[2:] == (1, 1) and up == down == 1 and padding == 0:
        return ops.finish(_modulated_1x1(x, weight, styles, demod), None, noise, epilogue)
    if fused_modconv and x.shape[0] == 1:
        kernel = weight * styles[0, :, None, None]
        y = convolve(x, kernel if demod is None else kernel * demod[0, :, None, None, None])
        return ops.finish(y, None, noise, epilogue)
    y = convolve(x * styles.to(x.dtype)[:, :, None, None], weight)
    return ops.finish(y, None if demod is None else demod[:, :, None, None], noise, epilogue)


def _modulated_1x1(x, weight, styles, demod) -> torch.Tensor:
    """A 1x1 kernel is a matrix: one small matrix per sample saves a pass over the activations."""
    n, i, h, w = x.shape
    kernel = weight[:, :, 0, 0] * styles[:, None]                # [N, O, I]
    if demod is not None:
        kernel = kernel * demod[:, :, None]
    kernel = kernel.to(x.dtype)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        y = x.permute(0, 2, 3, 1).reshape(n, h * w, i) @ kernel.transpose(1, 2)
        return y.reshape(n, h, w, -1).permute(0, 3, 1, 2)
    return (kernel @ x.reshape(n, i, h * w)).reshape(n, -1, h, w)


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


def finish(y, scale=None, noise=None, epilogue=IDENTITY):
    """activation(y * scale + noise + bias) * gain, clamped: [N, C, H, W] -> [N, C, H, W]

    scale: [N, C, 1, 1].  noise: broadcastable to y.  Each may be None.
    """
    y = y if scale is None else y * scale.to(y.dtype)
    y = y if noise is None else y + noise.to(y.dtype)
    bias = None if epilogue.bias is None else epilogue.bias.to(y.dtype)
    return bias_act.bias_act(y, bias, act=epilogue.activation, gain=epilogue.gain, clamp=epilogue.clamp)


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


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """Linear layer with equalised learning rate (Karras et al. 2018, section 4.1). [N, in] -> [N, out]"""

    def __init__(
        self,
        in_features,           # numbers in
        out_features,          # numbers out
        bias=True,             # add a bias?
        activation="linear",   # key of bias_act.activation_funcs
        lr_multiplier=1,       # scale of the learning rate against the rest of the network
        bias_init=0,           # initial bias
    ):
        super().__init__()
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = float(lr_multiplier / np.sqrt(in_features))
        self.bias_gain = lr_multiplier

    def forward(self, x):
        w = self.weight.to(x.dtype) * self.weight_gain
        b = self.bias
        if b is not None:
            b = b.to(x.dtype)
            b = b * self.bias_gain if self.bias_gain != 1 else b
        if self.activation == "linear" and b is not None:
            return torch.addmm(b.unsqueeze(0), x, w.t())
        return bias_act.bias_act(x @ w.t(), b, act=self.activation)


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    """Convolution with equalised learning rate, resampling and activation. [N, I, H, W] -> [N, O, H*up/down, ...]"""

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,                   # k, odd
        bias=True,                     # add a bias?
        activation="linear",           # key of bias_act.activation_funcs
        up=1,                          # integer factor
        down=1,                        # integer factor
        resample_filter=[1, 3, 3, 1],  # low-pass taps for up and down
        conv_clamp=None,               # bound on the output's magnitude; None: unbounded
        channels_last=False,           # memory layout of the weight
        trainable=True,                # False: weight and bias are buffers (Freeze-D)
    ):
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = float(1 / np.sqrt(in_channels * kernel_size**2))
        self.act_gain = float(bias_act.activation_funcs[activation].def_gain)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size]).to(memory_format=layout)
        bias = torch.zeros([out_channels]) if bias else None
        if trainable:
            self.weight = torch.nn.Parameter(weight)
            self.bias = None if bias is None else torch.nn.Parameter(bias)
        else:
            self.register_buffer("weight", weight)
            if bias is None:
                self.bias = None
            else:
                self.register_buffer("bias", bias)

    def forward(self, x, gain=1):
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        before, epilogue = split_gain(Epilogue(self.bias, self.activation, self.act_gain * gain, clamp))
        w = (self.weight * (self.weight_gain * before)).to(x.dtype)
        x = conv2d_resample.conv2d_resample(
            x=x, w=w, f=self.resample_filter, up=self.up, down=self.down, padding=self.padding, flip_weight=self.up == 1
        )
        return ops.finish(x, epilogue=epilogue)


@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    """Multi-layer perceptron from latents and labels to styles. z [N, z_dim], c [N, c_dim] -> [N, L, w_dim]"""

    def __init__(
        self,
        z_dim,                # 0: label only
        c_dim,                # 0: unconditional
        w_dim,
        num_ws,               # copies of w, one per layer; None: return [N, w_dim]
        num_layers=8,
        embed_features=None,  # width of the label embedding; None: w_dim
        layer_features=None,  # width of the hidden layers; None: w_dim
        activation="lrelu",
        lr_multiplier=0.01,   # learning rate of these layers against the rest
        w_avg_beta=0.995,     # decay of the running mean of w; None: not tracked
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed_features = 0 if c_dim == 0 else w_dim if embed_features is None else embed_features
        layer_features = w_dim if layer_features is None else layer_features
        widths = [z_dim + embed_features] + [layer_features] * (num_layers - 1) + [w_dim]
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        for i in range(num_layers):
            layer = FullyConnectedLayer(widths[i], widths[i + 1], activation=activation, lr_multiplier=lr_multiplier)
            setattr(self, f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros([w_dim]))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        parts = []
        if self.z_dim > 0:
            misc.assert_shape(z, [None, self.z_dim])
            parts.append(normalize_2nd_moment(z.to(torch.float32)))
        if self.c_dim > 0:
            misc.assert_shape(c, [None, self.c_dim])
            parts.append(normalize_2nd_moment(self.embed(c.to(torch.float32))))
        w = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for i in range(self.num_layers):
            w = getattr(self, f"fc{i}")(w)                                   # [N, w_dim] after the last
        if self.training and self.w_avg_beta is not None and not skip_w_avg_update:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).repeat([1, self.num_ws, 1])
        if truncation_psi != 1:
            if self.w_avg_beta is None:
                raise ValueError("truncation needs the running mean of w, which w_avg_beta=None switches off")
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            truncated = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
            ws = torch.cat([truncated, ws[:, cutoff:]], dim=1)
        return ws


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    """Styled convolution with noise, bias and activation. [N, I, H/up, W/up], w [N, w_dim] -> [N, O, H, W]"""

    def __init__(
        self,
        in_channels,
        out_channels,
        w_dim,
        resolution,                    # of the output: side, or [H, W]
        kernel_size=3,
        up=1,                          # integer factor
        use_noise=True,
        activation="lrelu",
        resample_filter=[1, 3, 3, 1],
        conv_clamp=None,               # bound on the output's magnitude; None: unbounded
        channels_last=False,           # memory layout of the weight
    ):
        super().__init__()
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.act_gain = float(bias_act.activation_funcs[activation].def_gain)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        self.weight = torch.nn.Parameter(weight.to(memory_format=layout))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(side_lengths(resolution)))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def forward(self, x, w, noise_mode="random", fused_modconv=True, gain=1):
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return modulated_conv2d(
            x, self.weight, self.affine(w), noise=self.noise(x.shape[0], noise_mode), up=self.up, padding=self.padding,
            resample_filter=self.resample_filter, flip_weight=self.up == 1, fused_modconv=fused_modconv,
            epilogue=Epilogue(self.bias, self.activation, self.act_gain * gain, clamp),
        )

    def noise(self, batch_size, mode):
        """Noise map broadcastable to [N, 1, H, W], or None."""
        if mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode must be random, const or none, got {mode!r}")
        if not self.use_noise or mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        shape = [batch_size, 1, *self.noise_const.shape]
        return torch.randn(shape, device=self.noise_const.device) * self.noise_strength


@persistence.persistent_class
class ToRGBLayer(torch.nn.Module):
    """Styled 1x1 convolution to image channels, without demodulation. [N, I, H, W], w [N, w_dim] -> [N, C, H, W]"""

    def __init__(self, in_channels, out_channels, w_dim, kernel_size=1, conv_clamp=None, channels_last=False):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        self.weight = torch.nn.Parameter(weight.to(memory_format=layout))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))
        self.weight_gain = float(1 / np.sqrt(in_channels * kernel_size**2))

    def forward(self, x, w, fused_modconv=True):
        styles = self.affine(w) * self.weight_gain
        return modulated_conv2d(
            x, self.weight, styles, padding=self.weight.shape[2] // 2, demodulate=False, fused_modconv=fused_modconv,
            epilogue=Epilogue(self.bias, clamp=self.conv_clamp),
        )


@persistence.persistent_class
class SynthesisBlock(torch.nn.Module):
    """All layers of one resolution. x [N, I, H/2, W/2], img [N, C, H/2, W/2] -> x [N, O, H, W], img [N, C, H, W]"""

    def __init__(
        self,
        in_channels,                   # 0: first block, starts from a learned constant
        out_channels,
        w_dim,
        resolution,                    # of the output: side, or [H, W]
        img_channels,
        is_last,                       # does the network end here?
        architecture="skip",           # orig, skip or resnet (Karras et al. 2020a, Figure 7)
        resample_filter=[1, 3, 3, 1],
        conv_clamp=None,
        use_fp16=False,                # half precision on accelerators?
        fp16_channels_last=False,      # memory layout of half-precision activations
        **layer_kwargs,                # further arguments of SynthesisLayer
    ):
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"architecture must be orig, skip or resnet, got {architecture!r}")
        super().__init__()
        self.in_channels = in_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.is_last = is_last
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = 1 if is_last or architecture == "skip" else 0
        common = dict(conv_clamp=conv_clamp, channels_last=self.channels_last)
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn([out_channels, *side_lengths(resolution)]))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim, resolution, up=2, resample_filter=resample_filter,
                **common, **layer_kwargs,
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, **common, **layer_kwargs)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, **common)
        if in_channels != 0 and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, kernel_size=1, bias=False, up=2, resample_filter=resample_filter,
                channels_last=self.channels_last,
            )

    def forward(self, x, img, ws, force_fp32=False, fused_modconv=None, **layer_kwargs):
        misc.assert_shape(ws, [None, self.num_conv + self.num_torgb, self.w_dim])
        w = iter(ws.unbind(dim=1))
        layout = ops.compute_format(self.use_fp16 and not force_fp32, self.channels_last, ws.device)
        if fused_modconv is None:
            fused_modconv = not self.training and (layout["dtype"] == torch.float32 or ws.shape[0] == 1)
        layer_kwargs["fused_modconv"] = fused_modconv

        if self.in_channels == 0:
            x = self.const.expand(ws.shape[0], *self.const.shape).to(**layout)
            x = self.conv1(x, next(w), **layer_kwargs)
        elif self.architecture == "resnet":
            x = x.to(**layout)
            shortcut = self.skip(x, gain=SQRT_HALF)
            x = self.conv0(x, next(w), **layer_kwargs)
            x = shortcut + self.conv1(x, next(w), gain=SQRT_HALF, **layer_kwargs)
        else:
            x = self.conv0(x.to(**layout), next(w), **layer_kwargs)
            x = self.conv1(x, next(w), **layer_kwargs)

        if img is not None:
            img = upfirdn2d.upsample2d(img, self.resample_filter)
        if self.num_torgb:
            rgb = self.torgb(x, next(w), fused_modconv=fused_modconv).to(torch.float32)
            img = rgb if img is None else img + rgb
        return x, img


@persistence.persistent_class
class SynthesisNetwork(torch.nn.Module):
    """Styles to images. ws [N, L, w_dim] -> [N, C, H, W] float32"""

    def __init__(
        self,
        w_dim,
        img_resolution,        # power of two, or [H, W], see block_sizes
        img_channels,
        channel_base=32768,    # channels times resolution
        channel_max=512,       # upper bound on channels
        num_fp16_res=0,        # how many of the highest levels use half precision
        **block_kwargs,        # further arguments of SynthesisBlock
    ):
        sizes = block_sizes(img_resolution)
        super().__init__()
        last = max(sizes)
        self.w_dim = w_dim
        self.img_resolution = sizes[last]
        self.img_resolution_log2 = last.bit_length() - 1
        self.img_channels = img_channels
        self.block_resolutions = list(sizes)  # levels of the blocks, under the name that hosts know
        self.num_ws = 0
        in_channels = 0
        for level, resolution in sizes.items():
            out_channels = block_channels(resolution, channel_base, channel_max)
            block = SynthesisBlock(
                in_channels, out_channels, w_dim=w_dim, resolution=resolution, img_channels=img_channels,
                is_last=level == last, use_fp16=uses_fp16(level, last, num_fp16_res), **block_kwargs,
            )
            self.num_ws += block.num_conv + (block.num_torgb if level == last else 0)
            setattr(self, f"b{level}", block)
            in_channels = out_channels

    def forward(self, ws, **block_kwargs):
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        ws = ws.to(torch.float32)
        x = img = None
        first = 0
        for level in self.block_resolutions:
            block = getattr(self, f"b{level}")
            # The last style of a block, for its RGB output, is also the first of the next block.
            x, img = block(x, img, ws[:, first : first + block.num_conv + block.num_torgb], **block_kwargs)
            first += block.num_conv
        return img


@persistence.persistent_class
class Generator(torch.nn.Module):
    """Mapping followed by synthesis. z [N, z_dim], c [N, c_dim] -> image [N, C, H, W], nominally -1..1"""

    def __init__(
        self,
        z_dim,
        c_dim,                 # 0: unconditional
        w_dim,
        img_resolution,        # power of two, or [H, W], see block_sizes
        img_channels,
        mapping_kwargs={},     # further arguments of MappingNetwork
        synthesis_kwargs={},   # further arguments of SynthesisNetwork
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_channels = img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.img_resolution = self.synthesis.img_resolution
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, num_ws=self.num_ws, **mapping_kwargs)

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)


@persistence.persistent_class
class DiscriminatorBlock(torch.nn.Module):
    """All layers of one resolution. x [N, I, H, W] or None, img [N, C, H, W] or None -> x [N, O, H/2, W/2], img"""

    def __init__(
        self,
        in_channels,                   # 0: first block, starts from the image
        tmp_channels,
        out_channels,
        resolution,                    # of the input: side, or [H, W]
        img_channels,
        first_layer_idx,               # number of this block's first layer, for Freeze-D
        architecture="resnet",         # orig, skip or resnet (Karras et al. 2020a, Figure 7)
        activation="lrelu",
        resample_filter=[1, 3, 3, 1],
        conv_clamp=None,
        use_fp16=False,                # half precision on accelerators?
        fp16_channels_last=False,      # memory layout of half-precision activations
        freeze_layers=0,               # layers with a lower number are not trained
    ):
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"architecture must be orig, skip or resnet, got {architecture!r}")
        super().__init__()
        self.in_channels = in_channels
        self.resolution = resolution
        self.img_channels = img_channels
        self.first_layer_idx = first_layer_idx
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(resample_filter))
        self.num_layers = 0

        def layer(*args, **kwargs):
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            self.num_layers += 1
            return Conv2dLayer(*args, trainable=trainable, channels_last=self.channels_last, **kwargs)

        rectified = dict(activation=activation, conv_clamp=conv_clamp)
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = layer(img_channels, tmp_channels, kernel_size=1, **rectified)
        self.conv0 = layer(tmp_channels, tmp_channels, kernel_size=3, **rectified)
        self.conv1 = layer(
            tmp_channels, out_channels, kernel_size=3, down=2, resample_filter=resample_filter, **rectified
        )
        if architecture == "resnet":
            self.skip = layer(
                tmp_channels, out_channels, kernel_size=1, bias=False, down=2, resample_filter=resample_filter
            )

    def forward(self, x, img, force_fp32=False):
        device = (img if x is None else x).device
        layout = ops.compute_format(self.use_fp16 and not force_fp32, self.channels_last, device)
        x = None if x is None else x.to(**layout)
        if self.in_channels == 0 or self.architecture == "skip":
            img = img.to(**layout)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = upfirdn2d.downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            shortcut = self.skip(x, gain=SQRT_HALF)
            x = shortcut + self.conv1(self.conv0(x), gain=SQRT_HALF)
        else:
            x = self.conv1(self.conv0(x))
        return x, img


@persistence.persistent_class
class MinibatchStdLayer(torch.nn.Module):
    """Append the deviation within groups of the batch as channels (Karras et al. 2018, section 3)."""

    def __init__(
        self,
        group_size,       # samples per group; None: the whole batch
        num_channels=1,   # channels to append, each from an equal share of the input channels
    ):
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x):
        n, c, h, w = x.shape
        size = n if self.group_size is None else min(self.group_size, n)
        if n % size or c % self.num_channels:
            raise ValueError(
                f"batch of {n} with {c} channels does not split into groups of {size} and {self.num_channels} shares"
            )
        y = x.reshape(size, -1, self.num_channels, c // self.num_channels, h, w)      # [G, N/G, F, C/F, H, W]
        deviation = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [N/G, F]
        y = deviation.repeat(size, 1)[:, :, None, None].expand(-1, -1, h, w)          # [N, F, H, W]
        return torch.cat([x, y.to(x.dtype)], dim=1)


@persistence.persistent_class
class DiscriminatorEpilogue(torch.nn.Module):
    """Last activations to logits. x [N, I, H, W], img [N, C, H, W] (skip only), cmap [N, cmap_dim] -> [N, 1]"""

    def __init__(
        self,
        in_channels,
        cmap_dim,                # width of the mapped label; 0: unconditional
        resolution,              # of the input: side, or [H, W]
        img_channels,
        architecture="resnet",   # orig, skip or resnet
        mbstd_group_size=4,      # of MinibatchStdLayer
        mbstd_num_channels=1,    # of MinibatchStdLayer; 0: none
        activation="lrelu",
        conv_clamp=None,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.cmap_dim = cmap_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.architecture = architecture
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, kernel_size=1, activation=activation)
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, kernel_size=3, activation=activation, conv_clamp=conv_clamp
        )
        height, width = side_lengths(resolution)
        self.fc = FullyConnectedLayer(in_channels * height * width, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, 1 if cmap_dim == 0 else cmap_dim)

    def forward(self, x, img, cmap, force_fp32=False):
        misc.assert_shape(x, [None, self.in_channels, *side_lengths(self.resolution)])
        x = x.to(torch.float32)
        if self.architecture == "skip":
            x = x + self.fromrgb(img.to(torch.float32))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if self.cmap_dim > 0:
            x = (x * cmap).sum(dim=1, keepdim=True) / self.cmap_dim**0.5
        return x


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Images to logits, projected on the label if there is one. img [N, C, H, W], c [N, c_dim] -> [N, 1]"""

    def __init__(
        self,
        c_dim,                   # 0: unconditional
        img_resolution,          # power of two, or [H, W], see block_sizes
        img_channels,
        architecture="resnet",   # orig, skip or resnet (Karras et al. 2020a, Figure 7)
        channel_base=32768,      # channels times resolution
        channel_max=512,         # upper bound on channels
        num_fp16_res=0,          # how many of the highest levels use half precision
        conv_clamp=None,         # bound on the magnitude of activations
        cmap_dim=None,           # width of the mapped label; None: channels of the last block
        block_kwargs={},         # further arguments of DiscriminatorBlock
        mapping_kwargs={},       # further arguments of MappingNetwork
        epilogue_kwargs={},      # further arguments of DiscriminatorEpilogue
    ):
        sizes = block_sizes(img_resolution)
        if len(sizes) == 1:
            height, width = side_lengths(img_resolution)
            raise ValueError(f"a discriminator needs images of at least 8x8 pixels, got {width}x{height}")
        super().__init__()
        first = max(sizes)
        self.c_dim = c_dim
        self.img_resolution = sizes[first]
        self.img_resolution_log2 = first.bit_length() - 1
        self.img_channels = img_channels
        self.block_resolutions = sorted(sizes, reverse=True)[:-1]  # levels of the blocks but the last, b4
        channels = {level: block_channels(resolution, channel_base, channel_max) for level, resolution in sizes.items()}
        cmap_dim = 0 if c_dim == 0 else channels[4] if cmap_dim is None else cmap_dim
        common = dict(img_channels=img_channels, architecture=architecture, conv_clamp=conv_clamp)
        num_layers = 0
        for level in self.block_resolutions:
            block = DiscriminatorBlock(
                channels[level] if level < first else 0, channels[level], channels[level // 2], resolution=sizes[level],
                first_layer_idx=num_layers, use_fp16=uses_fp16(level, first, num_fp16_res), **common, **block_kwargs,
            )
            setattr(self, f"b{level}", block)
            num_layers += block.num_layers
        if c_dim > 0:
            self.mapping = MappingNetwork(
                z_dim=0, c_dim=c_dim, w_dim=cmap_dim, num_ws=None, w_avg_beta=None, **mapping_kwargs
            )
        self.b4 = DiscriminatorEpilogue(channels[4], cmap_dim, sizes[4], **common, **epilogue_kwargs)

    def forward(self, img, c, **block_kwargs):
        misc.assert_shape(img, [None, self.img_channels, *side_lengths(self.img_resolution)])
        x = None
        for level in self.block_resolutions:
            x, img = getattr(self, f"b{level}")(x, img, **block_kwargs)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, img, cmap, **block_kwargs)
