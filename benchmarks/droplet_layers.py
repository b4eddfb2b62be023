"""Four published layers that put a style into a synthesis network, in one generator that differs in nothing else.

adain       StyleGAN (Karras et al. 2019, section 2): normalise every feature map, then scale and shift it by a style
spade       Park et al. 2019 (arXiv:1903.07291): the same with a scale and a shift that vary over the image
modulated   StyleGAN2 (Karras et al. 2020, section 2.2): scale the inputs, divide by the deviation that is expected
spatial     SSN (Hong et al. 2020, Eqs. 1 and 12-14): the same with a scale that varies over the image

The first and the third know one style for the whole image, so their generator has a grid of one block; the others have
4x4. Letters in shapes: N batch, I/O channels in and out, H W pixels, bw numbers of a style, r side of a style map.
"""

from __future__ import annotations

from typing import Any

import torch

from dnnlib.util import UserError
from ssn_plugin.networks import SpatialSynthesisLayer, SSNGenerator
from ssn_plugin.spade import AdaINLayer, SpadeLayer
from torch_utils import persistence
from training.networks import SynthesisLayer


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
