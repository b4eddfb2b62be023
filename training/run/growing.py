"""Starting a run from networks of a lower resolution, so that nothing changes at first: small images, only enlarged.

The generator's image is that of the file, doubled with the network's own filter: the new levels add nothing yet. The
discriminator judges an image about as that of the file judges it at half the size: the blocks of new levels hand on
colours. Everything new is trained from there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dnnlib.util import UserError
from training.networks import side_lengths

COLOURS = 4096  # of those that the discriminator's new levels hand on as it saw them before


def new_levels(source: Any, network: Any) -> list[int]:
    """Levels, fine to coarse, that a network has beyond those of a file's; none unless it has twice its size or more.

    Raises UserError for a generator whose image cannot stay the same.
    """
    if not hasattr(source, "img_resolution") or not hasattr(network, "img_resolution"):
        return []
    theirs, ours = side_lengths(source.img_resolution), side_lengths(network.img_resolution)
    factor = ours[0] // theirs[0]
    if factor < 2 or factor & (factor - 1) or any(factor * small != large for small, large in zip(theirs, ours)):
        return []
    blocks, known = getattr(network, "synthesis", network), getattr(source, "synthesis", source)
    added = set(getattr(blocks, "block_resolutions", [])) - set(getattr(known, "block_resolutions", []))
    architectures = {getattr(getattr(blocks, f"b{level}", None), "architecture", None) for level in added}
    if None in architectures:   # of another line, which grows in its own way
        return []
    if hasattr(network, "synthesis") and architectures - {"skip"}:
        raise UserError("a generator can only start from one of a lower resolution with --g-arch=skip")
    return sorted(added, reverse=True)


def is_growth(difference: str, name: str, levels: Sequence[int]) -> bool:
    """Is this difference between the networks of a file and of a run one that new levels bring?"""
    if not levels:
        return False
    own = "|".join(f"b{level}" for level in levels)
    former = f"b{levels[-1] // 2}"  # where the image came in
    return re.match(rf"the file lacks {name}\.(synthesis\.)?({own})\.", difference) is not None or re.match(
        rf"only the file has {name}\.{former}\.fromrgb\.", difference) is not None


@torch.no_grad()
def start_unchanged(sources: Mapping[str, Any], networks: Mapping[str, Any], levels: Mapping[str, Sequence[int]]
                    ) -> None:
    """Set the new levels of the networks so that they change nothing. All else has been copied."""
    for name, network in networks.items():
        if levels[name] and hasattr(network, "synthesis"):
            for level in levels[name]:
                torgb = getattr(network.synthesis, f"b{level}").torgb
                torgb.weight.zero_()
                torgb.bias.zero_()
        elif levels[name]:
            start_discriminator(sources[name], network, levels[name])


def start_discriminator(source: Any, network: Any, levels: Sequence[int]) -> None:
    """Let the new blocks hand on what the file's first layer would have made of the image at its size.

    skip: exactly, as the image comes in at every level. resnet: the image comes in at the top, with fewer channels, and
    the shortcuts lead on to the linear map of them that is closest to the former channels over all colours; activation
    and filter change places. orig has no way around its layers, whose new ones start at random.
    """
    blocks = [getattr(network, f"b{level}") for level in levels]
    if blocks[0].architecture == "orig":
        return
    for block in blocks:
        block.conv1.weight.zero_()
        block.conv1.bias.zero_()
    if blocks[0].architecture == "skip":
        return
    former = getattr(source, f"b{levels[-1] // 2}").fromrgb
    first = blocks[0].fromrgb
    count = min(len(first.bias), len(former.bias))
    first.weight[:count] = former.weight[:count].to(first.weight)
    first.bias[:count] = former.bias[:count].to(first.bias)
    colours = torch.rand([COLOURS, network.img_channels, 1, 1], generator=torch.Generator().manual_seed(0)) * 2 - 1
    colours = colours.to(first.weight)
    seen, wanted = (layer.to(colours.device)(colours)[:, :, 0, 0].double().cpu() for layer in (first, former))
    matrix = torch.linalg.lstsq(seen, wanted, driver="gelsd").solution.T    # [channels of the file, of the top]
    for block in blocks[:-1]:  # the first channels stay what they are
        rows, cols = block.skip.weight.shape[:2]
        set_shortcut(block.skip, torch.eye(rows, cols))
    last = blocks[-1].skip.weight
    padded = torch.zeros(last.shape[:2], dtype=matrix.dtype)
    padded[:, :matrix.shape[1]] = matrix
    set_shortcut(blocks[-1].skip, padded)


def set_shortcut(layer: Any, matrix: torch.Tensor) -> None:
    """Make a 1x1 convolution without bias, which the block weakens by sqrt(1/2), multiply by a matrix [O, I]."""
    layer.weight.copy_((matrix * (math.sqrt(2) / layer.weight_gain))[:, :, None, None])
