"""How much memory training needs, estimated from the networks without running them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

FLOAT_BYTES = 4

# Fitted to the largest resident size of 25 training processes on a CPU: --cfg=auto (also with fewer channels) and ssn,
# 16 to 256 pixels, 2 to 64 images at a time, with and without augmentation. benchmarks/training_memory.py measures it.
PROCESS_BYTES = 330 * 2**20  # Python, torch and the other libraries
WEIGHT_COPIES = 3.0          # of the larger network, at the peak: gradients, and weights in the layout of a convolution
ACTIVATION_COPIES = 3.3      # of the output of every convolution, at the peak of the phases
ACTIVATION_COPIES_SSN = 4.5  # the same with maps of styles in the place of vectors
ESTIMATE_ERROR = 0.2         # the largest relative error among them


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one process of a training run needs."""

    fixed: int           # whatever the batch
    per_image: int       # for every image that it handles at a time
    snapshot: int        # size of a network snapshot on disk
    state: int           # size of the snapshot and of the two optimizers on disk

    def of_batch(self, batch_gpu: int) -> int:
        """Bytes at the peak when this many images pass at a time."""
        return self.fixed + batch_gpu * self.per_image

    def largest_batch(self, available: int, group: int) -> int:
        """The most images at a time that fit into `available` bytes; 0 if none does.

        group: of the minibatch standard deviation, which takes up to this many images, or a multiple.
        """
        fitting = max(available - self.fixed, 0) // self.per_image
        return fitting - fitting % group if fitting > group else fitting


def estimate_memory(G: Any, D: Any, num_pixels: int, on_gpu: bool) -> MemoryEstimate:
    """The needs of a run with these networks and Adam.

    num_pixels: of an image.  on_gpu: do the blocks that ask for half precision get it?
    """
    G_bytes, D_bytes = (FLOAT_BYTES * sum(param.numel() for param in net.parameters()) for net in (G, D))
    copies = ACTIVATION_COPIES_SSN if hasattr(G, "block_grid") else ACTIVATION_COPIES
    activations = sum(activation_bytes(net, num_pixels, on_gpu) for net in (G.synthesis, D))
    networks = 2 * G_bytes + D_bytes  # the moving average of G is a network of its own
    adam = 2 * (G_bytes + D_bytes)
    return MemoryEstimate(
        fixed=int(PROCESS_BYTES + networks + adam + WEIGHT_COPIES * max(G_bytes, D_bytes)),
        per_image=int(copies * activations),
        snapshot=networks, state=networks + adam,
    )


def activation_bytes(net: Any, num_pixels: int, on_gpu: bool) -> int:
    """Bytes of the outputs of all convolutions for one image. net: a synthesis network or a discriminator."""
    total = 0
    for depth, resolution in enumerate(sorted({4, *net.block_resolutions}, reverse=True)):
        block = getattr(net, f"b{resolution}")  # each has a quarter of the pixels of the one before
        size = 2 if on_gpu and getattr(block, "use_fp16", False) else FLOAT_BYTES
        channels = sum(len(module.weight) for module in block.modules() if is_convolution(module))
        total += size * channels * num_pixels // 4**depth
    return total


def is_convolution(module: torch.nn.Module) -> bool:
    """Has it a kernel `[O, I, k, k]`? A frozen one is a buffer."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 4
