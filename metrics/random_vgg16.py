"""A VGG16 with fixed random weights: image features where no pretrained file can be had.

Naeem et al. 2020 (arXiv:2002.09797) measure with the features of a randomly initialised VGG16. The weights come from
numpy's frozen `RandomState`, so they are the same with every version of torch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

# Channels of the first ten of the 13 convolutions of VGG16 (Simonyan and Zisserman 2015), by block; a 2x2 maximum lies
# between blocks. On photographs the fifth block, with random weights, told distorted images apart only half as well.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))
NUM_FEATURES = BLOCKS[-1][-1]
MIN_RESOLUTION = 32    # below it the last block sees little but zero padding
MAX_RESOLUTION = 128   # larger images are averaged down: the cost grows with the square


class RandomVGG16(torch.nn.Module):
    """He-normal weights, no biases. The features are the spatial means of the last activation of the fourth block.

    Each activation of that block sees 92 x 92 pixels.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        rng = np.random.RandomState(seed)
        in_channels = 3
        for b, widths in enumerate(BLOCKS):
            for i, out_channels in enumerate(widths):
                std = np.sqrt(2 / (in_channels * 9))   # keeps the second moment through the rectifiers
                weight = (rng.randn(out_channels, in_channels, 3, 3) * std).astype(np.float32)
                self.register_buffer(f"conv{b + 1}_{i + 1}", torch.from_numpy(weight))
                in_channels = out_channels

    def forward(
        self,
        img: torch.Tensor,              # [N, 3, H, W] in 0..255
        return_features: bool = True,   # accepted because the pretrained detectors take it
    ) -> torch.Tensor:                  # [N, 512]
        return self.maps(fit_resolution(img.to(torch.float32)))[-1].mean(dim=[2, 3])

    def maps(self, img: torch.Tensor, num_blocks: int = len(BLOCKS)) -> list[torch.Tensor]:
        """The last activations of the first blocks, for images [N, 3, H, W] in 0..255 of any size."""
        x = img.to(torch.float32) / 127.5 - 1
        outputs: list[torch.Tensor] = []
        for b, widths in enumerate(BLOCKS[:num_blocks]):
            x = F.max_pool2d(x, 2) if b > 0 else x
            for i in range(len(widths)):
                x = F.relu(F.conv2d(x, getattr(self, f"conv{b + 1}_{i + 1}"), padding=1))
            outputs.append(x)
        return outputs


def fit_resolution(x: torch.Tensor) -> torch.Tensor:
    """Bring the longer side of `x` `[N, C, H, W]` between MIN_RESOLUTION and MAX_RESOLUTION, keeping the aspect."""
    side = max(x.shape[2:])
    target = min(max(side, MIN_RESOLUTION), MAX_RESOLUTION)
    if target == side:
        return x
    size = [max(round(length * target / side), 1) for length in x.shape[2:]]
    return F.interpolate(x, size=size, mode="area" if target < side else "nearest")
