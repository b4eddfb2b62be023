"""Generators of Progressive GAN and StyleGAN, and discriminators that grow or see all resolutions at once.

What differs from StyleGAN2 is a layer or a connection; the rest is that of `training.networks`. All generators offer
what the host asks of one: `mapping`, `synthesis`, `num_ws`, and so on.

Letters in shapes: N batch, I/O channels in and out, C image channels, H W pixels, L layers (num_ws).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample
from training.lineage.growing import enlarge, fade, reduce, split_stage
from training.networks import (
    Conv2dLayer,
    Discriminator,
    FullyConnectedLayer,
    MappingNetwork,
    MinibatchStdLayer,
    SynthesisLayer,
    ToRGBLayer,
    block_channels,
    block_sizes,
    normalize_2nd_moment,
    side_lengths,
)

BOX = [1, 1]  # filter that repeats pixels upwards and averages them downwards


# Layers.


def instance_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """scale * (x - mean) / deviation + shift, over the positions of every feature map of every sample. [N, C, H, W]

    scale, shift: [N, C, 1, 1].  Karras et al. 2019 (arXiv:1812.04948), Eq. 1.
    """
    variance, mean = torch.var_mean(x, dim=[2, 3], unbiased=False, keepdim=True)
    gain = scale * (variance + 1e-8).rsqrt()
    return torch.addcmul(shift - gain * mean, x, gain)


@persistence.persistent_class
class AdaINLayer(SynthesisLayer):
    """Convolution, noise, bias, activation, then the moments of a style. [N, I, H/up, W/up], [N, w_dim] -> [N, O, H, W]

    Karras et al. 2019, section 2 and Figure 1b.
    """

    def __init__(self, in_channels, out_channels, w_dim, resolution, **kwargs):
        super().__init__(in_channels, out_channels, w_dim, resolution, **kwargs)
        self.weight_gain = 1 / math.sqrt(self.weight[0].numel())  # no demodulation takes it out
        self.affine = FullyConnectedLayer(w_dim, 2 * out_channels)

    def forward(self, x, w, noise_mode="random", fused_modconv=True, gain=1):
        y = conv2d_resample.conv2d_resample(
            x, self.weight * self.weight_gain, f=self.resample_filter, up=self.up, padding=self.padding,
            flip_weight=self.up == 1,
        )
        return self.stylise(y, w, noise_mode)

    def stylise(self, y, w, noise_mode):
        """Everything after the convolution."""
        noise = self.noise(len(y), noise_mode)
        y = bias_act.bias_act(y if noise is None else y + noise, self.bias, act=self.activation)
        scale, shift = self.affine(w)[:, :, None, None].chunk(2, dim=1)
        return instance_norm(y, 1 + scale, shift)


@persistence.persistent_class
class AdaINInput(torch.nn.Module):
    """The learned constant with noise, bias, activation and style: StyleGAN's first layer has no convolution."""

    def __init__(self, channels, w_dim, resolution):
        super().__init__()
        self.const = torch.nn.Parameter(torch.ones([channels, *side_lengths(resolution)]))
        self.bias = torch.nn.Parameter(torch.zeros([channels]))
        self.register_buffer("noise_const", torch.randn(side_lengths(resolution)))
        self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.affine = FullyConnectedLayer(w_dim, 2 * channels)
        self.activation, self.use_noise = "lrelu", True

    noise, stylise = SynthesisLayer.noise, AdaINLayer.stylise

    def forward(self, w, noise_mode="random"):
        return self.stylise(self.const.expand(len(w), *self.const.shape), w, noise_mode)


# Generators that grow.


@persistence.persistent_class
class ProGANBlock(torch.nn.Module):
    """Two convolutions, each followed by pixel normalisation. [N, I, H/2, W/2] -> [N, O, H, W]

    The first block takes latents [N, I] instead. Karras et al. 2018, Table 2 and section 4.2.
    """

    def __init__(self, in_channels, out_channels, resolution, is_first):
        super().__init__()
        self.is_first = is_first
        self.resolution = side_lengths(resolution)
        if is_first:
            # A 4x4 convolution of a single pixel is a product. Its gain is a quarter of what its fan-in asks for.
            height, width = self.resolution
            self.dense = FullyConnectedLayer(in_channels, out_channels * height * width, bias=False)
            self.bias = torch.nn.Parameter(torch.zeros([out_channels]))
        else:
            self.conv0 = Conv2dLayer(
                in_channels, out_channels, kernel_size=3, activation="lrelu", up=2, resample_filter=BOX
            )
        self.conv1 = Conv2dLayer(out_channels, out_channels, kernel_size=3, activation="lrelu")

    def forward(self, x):
        if self.is_first:
            x = (self.dense(x) / 4).unflatten(1, [-1, *self.resolution])
            x = bias_act.bias_act(x, self.bias, act="lrelu")
        else:
            x = self.conv0(x)
        return normalize_2nd_moment(self.conv1(normalize_2nd_moment(x)))


@persistence.persistent_class
class StyledBlock(torch.nn.Module):
    """The two styled layers of one level, of StyleGAN (adain) or of its heir with demodulation (demod).

    With demodulation the first block has one layer: nothing is left to normalise in a constant (Karras et al. 2020a,
    section 2.2).
    """

    def __init__(self, in_channels, out_channels, w_dim, resolution, layer):
        super().__init__()
        cls = AdaINLayer if layer == "adain" else SynthesisLayer
        self.is_first = in_channels == 0
        if not self.is_first:
            self.conv0 = cls(in_channels, out_channels, w_dim, resolution, up=2)
        elif layer == "adain":
            self.input = AdaINInput(out_channels, w_dim, resolution)
        else:
            self.const = torch.nn.Parameter(torch.randn([out_channels, *side_lengths(resolution)]))
        self.conv1 = cls(out_channels, out_channels, w_dim, resolution)
        self.num_ws = 1 if self.is_first and layer == "demod" else 2

    def forward(self, x, ws, **layer_kwargs):
        """ws: [N, num_ws, w_dim]"""
        if not self.is_first:
            x = self.conv0(x, ws[:, 0], **layer_kwargs)
        elif self.num_ws == 2:
            x = self.input(ws[:, 0], noise_mode=layer_kwargs.get("noise_mode", "random"))
        else:
            x = self.const.expand(len(ws), *self.const.shape)
        return self.conv1(x, ws[:, -1], **layer_kwargs)


class GrowingSynthesis(torch.nn.Module):
    """What generators that grow have in common: levels, of which those up to `stage` are in use.

    A subclass makes blocks `b4`, `b8`, ... and layers `rgb4`, ...; `walk` yields the activations of level after level.
    """

    def __init__(self, w_dim, img_resolution, img_channels):
        super().__init__()
        sizes = block_sizes(img_resolution)
        self.w_dim = w_dim
        self.img_channels = img_channels
        self.img_resolution = sizes[max(sizes)]
        self.block_resolutions = list(sizes)  # levels
        # All levels are in use until a loss that grows says otherwise.
        self.register_buffer("stage", torch.tensor(len(sizes) - 1.0))

    def walk(self, ws, num_levels, **kwargs) -> Iterator[torch.Tensor]:
        """Images of the first `num_levels` levels, each of its own size, from ws [N, L, w_dim]."""
        raise NotImplementedError

    def forward(self, ws, noise_mode="random", all_levels=False, force_fp32=False, fused_modconv=None):
        """[N, L, w_dim] -> [N, C, H, W] float32, or a list of the images of all levels, the smallest first.

        The last two arguments are accepted for callers that know StyleGAN2.
        """
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        index, share = split_stage(float(self.stage))
        images = list(self.walk(ws.to(torch.float32), index + 1, noise_mode=noise_mode))
        if all_levels:
            return images
        img = images[index] if share == 1 else fade(images[index - 1], images[index], share)
        return enlarge(img, side_lengths(self.img_resolution))


@persistence.persistent_class
class ProGANSynthesis(GrowingSynthesis):
    """Progressive GAN's generator (Karras et al. 2018, Table 2). ws [N, 1, w_dim], which is z of unit length."""

    def __init__(self, w_dim, img_resolution, img_channels, channel_base=16384, channel_max=512):
        super().__init__(w_dim, img_resolution, img_channels)
        self.num_ws = 1
        in_channels = w_dim
        for i, (level, resolution) in enumerate(block_sizes(img_resolution).items()):
            out_channels = block_channels(resolution, channel_base, channel_max)
            setattr(self, f"b{level}", ProGANBlock(in_channels, out_channels, resolution, is_first=i == 0))
            setattr(self, f"rgb{level}", Conv2dLayer(out_channels, img_channels, kernel_size=1))
            in_channels = out_channels

    def walk(self, ws, num_levels, **kwargs):
        x = ws[:, 0]
        for level in self.block_resolutions[:num_levels]:
            x = getattr(self, f"b{level}")(x)
            yield getattr(self, f"rgb{level}")(x)


@persistence.persistent_class
class StyleGANSynthesis(GrowingSynthesis):
    """StyleGAN's generator, with AdaIN (config A) or demodulation (B to D of Karras et al. 2020a, Table 1)."""

    def __init__(
        self, w_dim, img_resolution, img_channels, channel_base=16384, channel_max=512, layer="adain"
    ):
        if layer not in ("adain", "demod"):
            raise ValueError(f"layer must be adain or demod, got {layer!r}")
        super().__init__(w_dim, img_resolution, img_channels)
        self.layer = layer
        self.num_ws = 0
        in_channels = 0
        for level, resolution in block_sizes(img_resolution).items():
            out_channels = block_channels(resolution, channel_base, channel_max)
            block = StyledBlock(in_channels, out_channels, w_dim, resolution, layer)
            setattr(self, f"b{level}", block)
            rgb = (ToRGBLayer(out_channels, img_channels, w_dim) if layer == "demod"
                   else Conv2dLayer(out_channels, img_channels, kernel_size=1))
            setattr(self, f"rgb{level}", rgb)
            self.num_ws += block.num_ws
            in_channels = out_channels

    def walk(self, ws, num_levels, **kwargs):
        x, first = None, 0
        for level in self.block_resolutions[:num_levels]:
            block, rgb = getattr(self, f"b{level}"), getattr(self, f"rgb{level}")
            own = ws[:, first : first + block.num_ws]
            x = block(x, own, **kwargs)
            first += block.num_ws
            yield rgb(x, own[:, -1]) if self.layer == "demod" else rgb(x)


class LineageGenerator(torch.nn.Module):
    """Mapping followed by synthesis, as `training.networks.Generator`. z [N, z_dim], c [N, c_dim] -> [N, C, H, W]"""

    def assemble(self, mapping, synthesis, z_dim, c_dim):
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = synthesis.w_dim
        self.img_channels = synthesis.img_channels
        self.img_resolution = synthesis.img_resolution
        self.num_ws = synthesis.num_ws
        self.synthesis = synthesis
        self.mapping = mapping

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)


@persistence.persistent_class
class ProGANGenerator(LineageGenerator):
    """Latents of unit length, beside which an embedded label stands if there is one, feed the first layer alone."""

    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, synthesis_kwargs={}):
        super().__init__()
        width = z_dim + (z_dim if c_dim else 0)   # w_dim is accepted, as the host gives it, and has no meaning here
        mapping = MappingNetwork(z_dim, c_dim, width, num_ws=1, num_layers=0, embed_features=z_dim)
        synthesis = ProGANSynthesis(width, img_resolution, img_channels, **synthesis_kwargs)
        self.assemble(mapping, synthesis, z_dim, c_dim)


@persistence.persistent_class
class StyleGANGenerator(LineageGenerator):
    """A mapping network of eight layers and a synthesis network that may grow."""

    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs={}, synthesis_kwargs={}):
        super().__init__()
        synthesis = StyleGANSynthesis(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        mapping = MappingNetwork(z_dim, c_dim, w_dim, num_ws=synthesis.num_ws, **mapping_kwargs)
        self.assemble(mapping, synthesis, z_dim, c_dim)


# Discriminators.


@persistence.persistent_class
class GrowingDiscriminator(Discriminator):
    """Progressive GAN's discriminator, which StyleGAN took over. img [N, C, H, W], c [N, c_dim] -> [N, 1]

    A layer from RGB at every level: of those, the ones of the two highest levels in use are at work.
    """

    def __init__(self, c_dim, img_resolution, img_channels, **kwargs):
        super().__init__(c_dim, img_resolution, img_channels, architecture="skip", **kwargs)
        self.sizes = [side_lengths(size) for size in block_sizes(img_resolution).values()]
        self.register_buffer("stage", torch.tensor(len(self.sizes) - 1.0))

    def forward(self, img, c, force_fp32=False):
        misc.assert_shape(img, [None, self.img_channels, *side_lengths(self.img_resolution)])
        index, share = split_stage(float(self.stage))
        levels = [4, *reversed(self.block_resolutions)]
        img = reduce(img.to(torch.float32), self.sizes[index])
        x = self.from_rgb(levels[index], img)
        for i in range(index, 0, -1):
            block = getattr(self, f"b{levels[i]}")
            x = block.conv1(block.conv0(x))
            if i == index and share < 1:
                x = self.from_rgb(levels[i - 1], reduce(img, self.sizes[i - 1])).lerp(x, share)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        last = self.b4
        x = x if last.mbstd is None else last.mbstd(x)
        x = last.out(last.fc(last.conv(x).flatten(1)))
        return x if cmap is None else (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(last.cmap_dim)

    def from_rgb(self, level, img):
        return getattr(self, f"b{level}").fromrgb(img)


@persistence.persistent_class
class MSGDiscriminator(torch.nn.Module):
    """Sees an image at every level at once. img: a list, the smallest first, or [N, C, H, W]; c [N, 0] -> [N, 1]

    Karnewar and Wang 2020 (arXiv:1903.06048), section 2: the image of each level joins the activations there as further
    channels (their phi_simple). An image alone is averaged down to all levels, as real ones are.
    """

    def __init__(self, c_dim, img_resolution, img_channels, channel_base=16384, channel_max=512, mbstd_group_size=4):
        super().__init__()
        if c_dim:
            raise ValueError(f"MSG-GAN knows no labels, got {c_dim} classes")
        sizes = block_sizes(img_resolution)
        self.c_dim = c_dim
        self.img_channels = img_channels
        self.img_resolution = sizes[max(sizes)]
        self.block_resolutions = sorted(sizes, reverse=True)
        self.sizes = [side_lengths(size) for size in sizes.values()]
        channels = {level: block_channels(size, channel_base, channel_max) for level, size in sizes.items()}
        self.mbstd = MinibatchStdLayer(mbstd_group_size)
        for level in self.block_resolutions:
            width = channels[level]
            # The largest image stands alone; every other one joins what comes from the level above.
            joined = width if level == self.block_resolutions[0] else width + img_channels
            if level == self.block_resolutions[0]:
                self.fromrgb = Conv2dLayer(img_channels, width, kernel_size=1, activation="lrelu")
            if level == 4:
                self.conv4_0 = Conv2dLayer(joined + 1, width, kernel_size=3, activation="lrelu")
            else:
                setattr(self, f"conv{level}_0", Conv2dLayer(joined, width, kernel_size=3, activation="lrelu"))
                setattr(self, f"conv{level}_1", Conv2dLayer(
                    width, channels[level // 2], kernel_size=3, activation="lrelu", down=2, resample_filter=BOX))
        height, width = self.sizes[0]
        self.fc = FullyConnectedLayer(channels[4] * height * width, channels[4], activation="lrelu")
        self.out = FullyConnectedLayer(channels[4], 1)

    def forward(self, img, c, force_fp32=False):
        images = self.make_pyramid(img) if isinstance(img, torch.Tensor) else img
        x = None
        for level, image in zip(self.block_resolutions, reversed(images)):
            x = self.fromrgb(image) if x is None else torch.cat([x, image], dim=1)
            x = self.mbstd(x) if level == 4 else x
            x = getattr(self, f"conv{level}_0")(x)
            x = x if level == 4 else getattr(self, f"conv{level}_1")(x)
        return self.out(self.fc(x.flatten(1)))

    def make_pyramid(self, img):
        """The image at every level, the smallest first."""
        misc.assert_shape(img, [None, self.img_channels, *side_lengths(self.img_resolution)])
        return [reduce(img, size) for size in self.sizes]
