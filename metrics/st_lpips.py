"""ST-LPIPS: perceptual distance that small shifts do not mislead, with weights that a pip package brings along.

Ghildyal and Liu 2022 (arXiv:2207.13686): LPIPS (Zhang et al. 2018, arXiv:1801.03924) on an AlexNet whose strides are
preceded by a low-pass filter. Their package `stlpips-pytorch` holds the weights; nothing of its code runs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dnnlib.util import UserError

from .packaged_weights import PackagedWeights

WEIGHTS = PackagedWeights(
    package="stlpips_pytorch", project="stlpips-pytorch", file="weights/vST0.0/alex_shift_tolerant.pth",
    sha256="b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee")
MIN_SIDE = 24    # pixels; smaller maps cannot be reflected at their borders


class STLPIPS(torch.nn.Module):
    """Images to vectors whose squared distance is the perceptual distance."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        for name, value in weights.items():
            self.register_buffer(name.replace(".", "__"), value)

    def forward(
        self,
        img: torch.Tensor,             # [N, 3, H, W] in 0..255, at least 24x24
        resize_images: bool = False,   # accepted because the VGG16 of LPIPS takes both
        return_lpips: bool = True,
    ) -> torch.Tensor:                 # [N, F], F depends on the size
        """LPIPS is, summed over layers, the spatial mean of sum_c w_c (a_c - b_c)^2 with a, b of unit length."""
        if min(img.shape[2:]) < MIN_SIDE:
            raise UserError(f"ST-LPIPS needs images of at least {MIN_SIDE}x{MIN_SIDE} pixels, "
                            f"got {img.shape[3]}x{img.shape[2]}")
        parts = []
        for i, x in enumerate(self.activations(img.to(torch.float32) / 127.5 - 1)):
            x = x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            weight = self.tensor(f"lin{i}.model.1.weight") / (x.shape[2] * x.shape[3])
            parts.append((x * weight.clamp(min=0).sqrt()).flatten(1))
        return torch.cat(parts, dim=1)

    def activations(self, img: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the five layers for images in -1..1."""
        x = (img - self.tensor("scaling_layer.shift")) / self.tensor("scaling_layer.scale")
        outputs = [F.relu(self.downsample(self.convolve(x, "net.slice1.0", padding=2), "net.slice1.1"))]
        for pool, layer, padding in (("net.slice2.4", "net.slice2.5", 2), ("net.slice3.8", "net.slice3.9", 1)):
            x = self.downsample(F.max_pool2d(outputs[-1], 3, stride=1), pool)
            outputs.append(F.relu(self.convolve(x, layer, padding)))
        for layer in ("net.slice4.11", "net.slice5.13"):
            outputs.append(F.relu(self.convolve(outputs[-1], layer, padding=1)))
        return outputs

    def convolve(self, x: torch.Tensor, name: str, padding: int) -> torch.Tensor:
        return F.conv2d(x, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), padding=padding)

    def downsample(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """Low-pass filter, then every second pixel (Zhang 2019, arXiv:1904.11486)."""
        kernel = self.tensor(f"{name}.filt")
        return F.conv2d(F.pad(x, [2] * 4, mode="reflect"), kernel, stride=2, groups=len(kernel))

    def tensor(self, name: str) -> torch.Tensor:
        return self.get_buffer(name.replace(".", "__"))


def load() -> STLPIPS:
    """The network with its weights. OSError where the package is missing, ValueError where the file is another one."""
    return STLPIPS(WEIGHTS.read()).eval().requires_grad_(False)
