"""Generated images whose latent, label and noise depend on (seed, item index) alone.

Whatever the batch size and however many processes share the work, item i is the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dnnlib.util import UserError
from torch_utils import graphed

# Independent random streams of one seed. A number once given to a purpose stays with it, so results stay repeatable.
STREAM_LATENT = 0
STREAM_NOISE = 1
STREAM_PATH = 2
STREAM_PATCHES = 3
STREAM_SUBSETS = 4

LabelFn = Callable[[int], np.ndarray]


def item_seed(seed: int, stream: int, index: int) -> int:
    """A 63-bit seed for item `index` of a random stream; nearby arguments give unrelated seeds."""
    words = np.random.SeedSequence([seed, stream, index]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def item_generator(seed: int, stream: int, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random generator of item `index`."""
    return torch.Generator(device).manual_seed(item_seed(seed, stream, index))


def draw_latents(
    z_dim: int,
    seed: int,
    indices: Iterable[int],
    num_labels: int = 0,             # draw a label number below this, too
) -> tuple[torch.Tensor, list[int]]:
    """Standard normal latents `[N, z_dim]` on the CPU and one label number per item (empty when `num_labels` is 0)."""
    latents, labels = [], []
    for index in indices:
        gen = item_generator(seed, STREAM_LATENT, index)
        latents.append(torch.randn(z_dim, generator=gen))
        if num_labels:
            labels.append(int(torch.randint(num_labels, [], generator=gen)))
    return torch.stack(latents), labels


def noise_maps(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The fixed noise maps of a network or of its synthesis part, by buffer name, in the order of the convolutions."""
    return {name: buffer for name, buffer in net.named_buffers() if name.split(".")[-1] == "noise_const"}


def draw_noise(
    net: torch.nn.Module, generators: Sequence[torch.Generator], device: torch.device
) -> dict[str, torch.Tensor]:
    """Fresh unit normals for every noise map, one set per generator: name -> `[N, 1, r, r]`."""
    shapes = {name: buffer.shape for name, buffer in noise_maps(net).items()}
    sizes = [shape.numel() for shape in shapes.values()]
    if not sizes:
        return {}
    flat = torch.stack([torch.randn(sum(sizes), generator=gen, device=gen.device) for gen in generators]).to(device)
    maps = zip(shapes.items(), flat.split(sizes, dim=1), strict=True)
    return {name: part.reshape(len(generators), 1, *shape) for (name, shape), part in maps}


def call_with_noise(net: torch.nn.Module, noise: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """Call a network with other noise maps in the place of its fixed ones, by buffer name; those not named stay.

    The network itself is left as it was. A map of shape `[N, 1, r, r]` broadcasts like one of `[r, r]`, so each image
    can have its own. Without maps it is a plain call; on a GPU either may be a CUDA graph, see `torch_utils.graphed`.
    """
    if not noise:
        return graphed.call(net, *args, **kwargs)
    return graphed.call(net, *args, tensors=noise, **{**kwargs, "noise_mode": "const"})


def generate_images(
    G: Any,
    indices: Sequence[int],
    seed: int,
    device: torch.device,
    label_fn: LabelFn | None = None,   # label number -> label vector; needed by conditional networks
    num_labels: int = 0,
    G_kwargs: dict[str, Any] | None = None,
) -> torch.Tensor:
    """Images `[N, C, H, W]` of the given items, nominally in -1..1, not rounded.

    The noise maps are fresh for every image unless `G_kwargs` names another noise mode.
    """
    G_kwargs = dict(G_kwargs or {})
    z, labels = draw_latents(G.z_dim, seed, indices, num_labels if G.c_dim else 0)
    c = torch.zeros([len(indices), 0])
    if G.c_dim:
        if label_fn is None:
            raise UserError(f"the network takes labels of width {G.c_dim}, but no data set with labels was given")
        c = torch.from_numpy(np.stack([label_fn(label) for label in labels]))
    noise = {}
    if G_kwargs.get("noise_mode", "random") == "random":
        noise = draw_noise(G, [item_generator(seed, STREAM_NOISE, i, device) for i in indices], device)
    return call_with_noise(G, noise, z=z.to(device), c=c.to(device), **G_kwargs)


def slerp(
    a: torch.Tensor,           # [N, Z]
    b: torch.Tensor,           # [N, Z]
    t: torch.Tensor | float,   # [N, 1], or one for all
) -> torch.Tensor:             # [N, Z], of unit length
    """Spherical interpolation: the directions of a and b at t = 0 and 1, with constant angular speed between them."""
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    cosine = (a * b).sum(dim=-1, keepdim=True)
    angle = t * torch.acos(cosine.clamp(-1, 1))
    orthogonal = F.normalize(b - cosine * a, dim=-1)
    return F.normalize(a * torch.cos(angle) + orthogonal * torch.sin(angle), dim=-1)


def to_uint8(img: torch.Tensor) -> torch.Tensor:
    """-1..1 -> 0..255 as the host rounds: x * 127.5 + 128, clamped, fraction dropped."""
    return (img * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def to_three_channels(img: torch.Tensor) -> torch.Tensor:
    """What a detector sees of images in 0..255: gray as three equal channels, transparency as white. `[N, 3, H, W]`"""
    if img.shape[1] == 1:
        return img.repeat([1, 3, 1, 1])
    if img.shape[1] == 4:
        opacity = img[:, 3:].float() / 255
        on_white = img[:, :3] * opacity + 255 * (1 - opacity)
        return on_white if img.is_floating_point() else on_white.round().to(img.dtype)
    return img
