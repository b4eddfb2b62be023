"""What a search compares images by: pixels, pixels and edges, or what VGG16 sees."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from metrics import detectors

MAX_PERCEPTUAL_SIDE = 256   # VGG16 saw objects of about this size; larger images are reduced to it
EDGE_WEIGHT = 2.0           # of the gradients, beside the pixels
MIN_EDGE_SIDE = 8           # gradients are compared on images halved down to this


class Distance(Protocol):
    """How far images are from the target: `[N, C, H, W]` in -1..1 -> `[N]`."""

    name: str

    def __call__(self, img: torch.Tensor) -> torch.Tensor: ...


class PixelDistance:
    """Mean squared difference of the pixels."""

    name = "mean squared error"

    def __init__(self, target: torch.Tensor):   # [1, C, H, W] in -1..1
        self.target = target

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        return (img - self.target).square().mean(dim=[1, 2, 3])


class EdgeDistance:
    """Mean squared difference of the pixels and, on every scale, of their gradients.

    Pixels alone accept a blur where an edge should be. Gradients are sensitive to edges, and on coarse scales they
    still tell the way to one that lies a few pixels off.
    """

    name = "squared error of pixels and edges"

    def __init__(self, target: torch.Tensor):   # [1, C, H, W] in -1..1
        self.target = target

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        error = img - self.target   # gradients are linear: those of the difference are the differences of theirs
        total = error.square().mean(dim=[1, 2, 3])
        while True:
            for axis in (2, 3):
                total = total + EDGE_WEIGHT * error.diff(dim=axis).square().mean(dim=[1, 2, 3])
            if min(error.shape[2:]) < 2 * MIN_EDGE_SIDE:
                return total
            error = F.avg_pool2d(error, 2)


class PerceptualDistance:
    """LPIPS (Zhang et al. 2018): squared distance of VGG16 features. Transparency counts by its mean squared error."""

    name = "LPIPS"

    def __init__(self, target: torch.Tensor, vgg16: torch.nn.Module):   # [1, C, H, W] in -1..1
        self.vgg16 = vgg16
        self.alpha = target[:, 3:]
        with torch.no_grad():
            self.features = self._features(target)

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        distance = (self._features(img) - self.features).square().sum(dim=1)
        return distance + (img[:, 3:] - self.alpha).square().sum(dim=1).mean(dim=[1, 2])

    def _features(self, img: torch.Tensor) -> torch.Tensor:
        img = (img[:, :3] + 1) * 127.5
        img = img.expand(-1, 3, -1, -1)   # of gray images
        scale = MAX_PERCEPTUAL_SIDE / max(img.shape[2:])
        if scale < 1:
            img = F.interpolate(img, size=[round(side * scale) for side in img.shape[2:]], mode="area")
        return self.vgg16(img, resize_images=False, return_lpips=True)


def load_vgg16(device: torch.device, verbose: bool = False) -> torch.nn.Module:
    """The detector of `PerceptualDistance`, see `metrics.detectors`."""
    vgg16 = detectors.load(detectors.VGG16_URL, device=device, verbose=verbose)
    for parameter in vgg16.parameters():   # TorchScript has no requires_grad_ for the whole
        parameter.requires_grad_(False)
    return vgg16
