"""SPADE in the place of spatial modulation: the generator that SSNs are compared with in Figure 4 of their paper.

Park, Liu, Wang, Zhu 2019, "Semantic Image Synthesis with Spatially-Adaptive Normalization" (arXiv:1903.07291), on a
grid of latents: Hong et al. 2020 (arXiv:2006.05394), Figure 4. Everything but the styled 3x3 convolutions is that of
`ssn_plugin.networks`, so these networks open only where the plugin stands.

Letters in shapes: N batch, I/O/C channels in, out and in general, H W pixels, bw numbers of a style, r side of a style
map.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ssn_plugin.errors import UserError
from ssn_plugin.networks import (
    Conv2dLayer,
    FullyConnectedLayer,
    SpatialSynthesisBlock,
    SpatialSynthesisLayer,
    SpatialSynthesisNetwork,
    SSNGenerator,
    resize,
)
from torch_utils import persistence
from torch_utils.ops import bias_act, conv2d_resample


@persistence.persistent_class  # so that snapshots can be read without running code
class StyledInstanceNorm(torch.nn.Module):
    """Normalise every feature map of every image, then scale and shift it. x [N, C, H, W] -> [N, C, H, W]

    y = scale * (x - mean) / deviation + shift, with scale and shift [N, C, r, r] enlarged to the image.
    """

    def forward(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, dim=[2, 3], unbiased=False, keepdim=True)
        gain = scale * (variance + 1e-8).rsqrt()  # on the small map: enlarging is linear, and x is passed over once
        return torch.addcmul(resize(shift - gain * mean, x.shape[2:]), x, resize(gain, x.shape[2:]))


@persistence.persistent_class  # what derives from a persistent class must be one, or networks cannot be copied
class AdaINLayer(SpatialSynthesisLayer):
    """Convolution, noise, bias and activation; then instance normalisation, and the scale and shift of a style.

    The order is StyleGAN's. x [N, I, H/up, W/up], encoded [N, bw, r, r] -> [N, O, H, W]
    """

    def __init__(self, in_channels: int, out_channels: int, block_w_dim: int, resolution: int, **kwargs: Any):
        super().__init__(in_channels, out_channels, block_w_dim, resolution, **kwargs)
        self.weight_gain = 1 / math.sqrt(self.weight[0].numel())  # no demodulation takes it out
        self.norm = StyledInstanceNorm()

    def make_affine(self, in_channels: int, out_channels: int, block_w_dim: int) -> torch.nn.Module:
        return FullyConnectedLayer(block_w_dim, 2 * out_channels)

    def scale_and_shift(self, encoded: torch.Tensor) -> torch.Tensor:
        """[N, bw, r, r] -> [N, 2*O, r, r], scales less one before shifts."""
        return self.affine.forward_map(encoded)

    def forward(self, x, encoded, noise_mode="random", noise=None, mask=None, gain=1, overwrite=False):
        if mask is not None:
            raise UserError(f"{type(self).__name__} cannot blend two latents, got a mask")
        y = conv2d_resample.conv2d_resample(
            x, self.weight * self.weight_gain, f=self.resample_filter, up=self.up, padding=self.weight.shape[2] // 2,
            flip_weight=self.up == 1,
        )
        noise = self.scaled_noise(len(x), noise_mode, noise)
        y = bias_act.bias_act(y if noise is None else y + noise, self.bias, act=self.activation)
        scale, shift = self.scale_and_shift(encoded).chunk(2, dim=1)
        return self.norm(y, gain * (1 + scale), gain * shift)


@persistence.persistent_class
class SpadeLayer(AdaINLayer):
    """AdaIN whose scale and shift vary over the image: two 3x3 convolutions predict them from the style map.

    As published but for three things: the map is the grid of styles, enlarged, where SPADE has semantic labels; scale
    and shift are predicted at the resolution of that map and enlarged; and the statistics are those of one image (the
    published code offers them beside those of the batch), so that AdaIN differs in nothing but space.
    """

    def make_affine(self, in_channels: int, out_channels: int, block_w_dim: int) -> torch.nn.Module:
        return torch.nn.Sequential(
            Conv2dLayer(block_w_dim, block_w_dim, kernel_size=3, activation="relu"),
            Conv2dLayer(block_w_dim, 2 * out_channels, kernel_size=3),
        )

    def scale_and_shift(self, encoded: torch.Tensor) -> torch.Tensor:
        return self.affine(encoded)


@persistence.persistent_class
class SpadeBlock(SpatialSynthesisBlock):
    layer_class = SpadeLayer


@persistence.persistent_class
class SpadeSynthesisNetwork(SpatialSynthesisNetwork):
    block_class = SpadeBlock


@persistence.persistent_class
class SpadeGenerator(SSNGenerator):
    """`SSNGenerator` with SPADE layers. z [N, B*bz], c [N, c_dim] -> image [N, C, H, W]

    The RGB outputs stay what they are: modulated, without normalisation. A block reaches the whole image through the
    statistics of the feature maps, which no distance limits.
    """

    synthesis_class = SpadeSynthesisNetwork
