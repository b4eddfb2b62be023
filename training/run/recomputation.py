"""Activation checkpointing: memory for time in the backward pass (Chen et al. 2016, arXiv:1604.06174).

Blocks keep their inputs and compute what is between them once more when its derivative is due, random numbers included.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence

import torch
from torch.utils.checkpoint import checkpoint


def resolution_blocks(*networks: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks `b4`, `b8`, ... of networks, each of which does everything that is done at one resolution."""
    return [child for network in networks for name, child in network.named_children() if re.fullmatch(r"b\d+", name)]


@contextlib.contextmanager
def recomputing(blocks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Within the context, calls of `blocks` keep their arguments alone for the backward pass.

    Results and derivatives, also second ones, are the same numbers. Afterwards the blocks are as they were, so that
    copies and files of them know nothing of it.
    """
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # which brings that of the class back
