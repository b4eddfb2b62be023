"""Four published layers that put a style into a synthesis network, in one generator that differs in nothing else.

adain       StyleGAN (Karras et al. 2019, section 2): normalise every feature map, then scale and shift it by a style
spade       Park et al. 2019 (arXiv:1903.07291): the same with a scale and a shift that vary over the image
modulated   StyleGAN2 (Karras et al. 2020, section 2.2): scale the inputs, divide by the deviation that is expected
spatial     SSN (Hong et al. 2020, Eqs. 1 and 12-14): the same with a scale that varies over the image

The first and the third know one style for the whole image, so their generator has a grid of one block; the others have
4x4. Letters in shapes: N batch, I/O channels in and out, H W pixels, bw numbers of a style, r side of a style map.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from dnnlib.util import UserError
from ssn_plugin.networks import Conv2dLayer, FullyConnectedLayer, SpatialSynthesisLayer, SSNGenerator, resize
from torch_utils import persistence
from torch_utils.ops import bias_act, conv2d_resample
from training.networks import SynthesisLayer


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
        self.affine = self.make_affine(block_w_dim, out_channels)

    def make_affine(self, block_w_dim: int, out_channels: int) -> torch.nn.Module:
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

    def make_affine(self, block_w_dim: int, out_channels: int) -> torch.nn.Module:
        return torch.nn.Sequential(
            Conv2dLayer(block_w_dim, block_w_dim, kernel_size=3, activation="relu"),
            Conv2dLayer(block_w_dim, 2 * out_channels, kernel_size=3),
        )

    def scale_and_shift(self, encoded: torch.Tensor) -> torch.Tensor:
        return self.affine(encoded)


@persistence.persistent_class
class ModulatedLayer(SynthesisLayer):
    """StyleGAN2's own layer, called with the style map of a single block. encoded [N, bw, 1, 1] -> [N, O, H, W]"""

    def forward(self, x, encoded, noise_mode="random", noise=None, mask=None, gain=1, overwrite=False):
        if noise is not None or mask is not None:
            raise UserError("StyleGAN2's layer takes neither noise nor a mask from outside")
        return super().forward(x, encoded[:, :, 0, 0], noise_mode=noise_mode, gain=gain)


LAYERS: dict[str, tuple[type, list[int]]] = {  # class and grid
    "adain": (AdaINLayer, [1, 1]),
    "spade": (SpadeLayer, [4, 4]),
    "modulated": (ModulatedLayer, [1, 1]),
    "spatial": (SpatialSynthesisLayer, [4, 4]),
}


def make_generator(layer: str, **kwargs: Any) -> torch.nn.Module:
    """An SSN generator with one of `LAYERS` in the place of its own layer, and the grid that suits it.

    kwargs: further arguments of `SSNGenerator`. The RGB outputs stay what they are: modulated, without normalisation.
    """
    cls, grid = LAYERS[layer]
    G = SSNGenerator(block_grid=[grid], **kwargs)
    for block in G.synthesis.children():
        for name, own in synthesis_layers(block).items():
            options = dict(own.init_kwargs)
            if not issubclass(cls, SpatialSynthesisLayer):
                del options["demodulation"]
            setattr(block, name, cls(*own.init_args, **options))
    return G


def synthesis_layers(module: torch.nn.Module) -> dict[str, Any]:
    """The styled 3x3 convolutions in a module, by name, in order: what has noise of its own."""
    return {name: layer for name, layer in module.named_modules() if hasattr(layer, "noise_strength")}
