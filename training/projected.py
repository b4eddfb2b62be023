"""A discriminator on frozen features of a pretrained network, for trainings that must be short.

Sauer et al. 2021, "Projected GANs Converge Faster" (arXiv:2111.01007). Feature maps of four sizes go through fixed
random projections, which mix their channels and their sizes, so that a head cannot settle on the few features that tell
real from generated images most easily. Each of the four heads is small. Trained with the hinge loss, without R1.

The features are those of EfficientNet-Lite0 (extra [features]), which the metrics fid_lite and kid_lite use too: judge
such a generator by something else.
"""

import functools

import torch

from metrics import efficientnet_lite0
from torch_utils import misc, persistence
from training.networks import FullyConnectedLayer, side_lengths

HEAD_SIDE = 4           # a head halves its features until the shorter side has at most so many positions
MAX_FEATURE_SIDE = 128  # pixels to which smaller images are enlarged; at 256 a step would take four times as long


@functools.lru_cache(maxsize=4)
def feature_network(device):
    """EfficientNet-Lite0 on a device. It belongs to no network, so that no snapshot holds it.

    UserError where its package is missing.
    """
    return efficientnet_lite0.load().to(device)


def feature_scale(resolution):
    """By how much images are enlarged for the features, whose coarsest are 32 times smaller than the image."""
    return max(MAX_FEATURE_SIDE // max(side_lengths(resolution)), 1)


@persistence.persistent_class
class SpectralConv2d(torch.nn.Module):
    """Convolution whose weight is divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957)."""

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        bias=True,
    ):
        super().__init__()
        self.stride = stride
        self.padding = padding
        fan_in = in_channels * kernel_size**2
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size])
                                         * (2 / fan_in) ** 0.5)
        self.bias = torch.nn.Parameter(torch.zeros([out_channels])) if bias else None
        self.register_buffer("u", torch.nn.functional.normalize(torch.randn([out_channels]), dim=0))

    def forward(self, x):
        return torch.nn.functional.conv2d(x, self.normalized_weight(), self.bias, self.stride, self.padding)

    def normalized_weight(self):
        """The weight divided by u' W v, after one step of the power iteration while training."""
        matrix = self.weight.flatten(1)                                            # [O, I*k*k]
        with torch.no_grad():
            v = torch.nn.functional.normalize(matrix.t() @ self.u, dim=0)
            u = torch.nn.functional.normalize(matrix @ v, dim=0)
            if self.training:
                self.u.copy_(u)
        return self.weight / (u @ matrix @ v)


@persistence.persistent_class
class ProjectedHead(torch.nn.Module):
    """Features of one size to a small map of logits. x [N, I, H, W] -> [N, O, h, w], h and w at most HEAD_SIDE"""

    def __init__(
        self,
        in_channels,
        size,                # [H, W] of the features
        channels,            # of the layers between
        out_channels,        # 1, or the width of the mapped label
    ):
        super().__init__()
        size = list(size)
        self.num_layers = 0
        while min(size) > HEAD_SIDE:
            conv = SpectralConv2d(in_channels, channels, kernel_size=4, stride=2, padding=1, bias=False)
            setattr(self, f"conv{self.num_layers}", conv)
            setattr(self, f"scale{self.num_layers}", torch.nn.Parameter(torch.ones([channels])))
            setattr(self, f"shift{self.num_layers}", torch.nn.Parameter(torch.zeros([channels])))
            self.num_layers += 1
            in_channels, size = channels, [side // 2 for side in size]
        self.out = SpectralConv2d(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x):
        for i in range(self.num_layers):
            x = getattr(self, f"conv{i}")(x)
            # Without running means: a batch is always judged against itself, by which a collapse would show.
            x = torch.nn.functional.batch_norm(
                x, None, None, getattr(self, f"scale{i}"), getattr(self, f"shift{i}"), training=True)
            x = torch.nn.functional.leaky_relu(x, 0.2)
        return self.out(x)


@persistence.persistent_class
class ProjectedDiscriminator(torch.nn.Module):
    """Images to the logits of all heads at all positions. img [N, C, H, W] in -1..1, c [N, c_dim] -> [N, K]"""

    def __init__(
        self,
        c_dim,               # 0: unconditional
        img_resolution,      # side, or [H, W]
        img_channels,        # 1 or 3
        head_channels=64,    # of the layers of the heads
        cmap_dim=64,         # width of the mapped label
    ):
        if img_channels not in (1, 3):
            raise ValueError(f"a projected discriminator needs gray or RGB images, got {img_channels} channels")
        super().__init__()
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.scale = feature_scale(img_resolution)
        channels = efficientnet_lite0.PYRAMID_CHANNELS
        self.num_heads = len(channels)
        out_channels = cmap_dim if c_dim > 0 else 1
        for i, count in enumerate(channels):
            self.register_buffer(f"mix_channels{i}", kaiming(count, count, 1))
            if i + 1 < self.num_heads:
                self.register_buffer(f"mix_sizes{i}", kaiming(count, channels[i + 1], 3))
            size = [max(-(-side * self.scale // 2 ** (i + 2)), 1) for side in side_lengths(img_resolution)]
            setattr(self, f"head{i}", ProjectedHead(count, size, head_channels, out_channels))
        self.embed = FullyConnectedLayer(c_dim, cmap_dim) if c_dim > 0 else None

    def forward(self, img, c, **_ignored):
        misc.assert_shape(img, [None, self.img_channels, *side_lengths(self.img_resolution)])
        logits = [getattr(self, f"head{i}")(x) for i, x in enumerate(self.project(img))]
        if self.embed is not None:
            cmap = self.embed(c)[:, :, None, None]
            logits = [(x * cmap).sum(dim=1, keepdim=True) / cmap.shape[1] ** 0.5 for x in logits]
        return torch.cat([x.flatten(1) for x in logits], dim=1)

    def project(self, img):
        """Random projections of the features of images, finest first (section 3.2 of the paper)."""
        img = img.to(torch.float32).expand(-1, 3, -1, -1) * 127.5 + 127.5
        if self.scale > 1:
            img = torch.nn.functional.interpolate(img, scale_factor=self.scale, mode="bilinear", align_corners=False)
        features = feature_network(img.device).pyramid(img)
        conv2d = torch.nn.functional.conv2d
        features = [conv2d(x, getattr(self, f"mix_channels{i}")) for i, x in enumerate(features)]
        for i in reversed(range(self.num_heads - 1)):
            coarser = conv2d(features[i + 1], getattr(self, f"mix_sizes{i}"), padding=1)
            size = features[i].shape[2:]
            features[i] = features[i] + torch.nn.functional.interpolate(
                coarser, size=size, mode="bilinear", align_corners=False)
        return features


def kaiming(out_channels, in_channels, kernel_size):
    """Random weights that keep the variance of what they filter (He et al. 2015), for a projection that stays fixed."""
    std = (in_channels * kernel_size**2) ** -0.5
    return torch.randn([out_channels, in_channels, kernel_size, kernel_size]) * std
