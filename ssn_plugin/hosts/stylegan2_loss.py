"""StyleGAN2's loss with its terms as methods, whatever the host.

This project's own class has them. Any other host computes them within one long `accumulate_gradients`, so what the
plugin needs of them is written here for its class.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import softplus

from torch_utils import training_stats
from torch_utils.ops import conv2d_gradfix
from training import loss

__all__ = ["ReferenceLoss", "StyleGAN2Loss", "first_derivatives_only"]


class ReferenceLoss(loss.StyleGAN2Loss):
    """The loss of a host that lacks them, with the terms of this project's `training.loss.StyleGAN2Loss`."""

    def generator_loss(self, img: torch.Tensor, c: torch.Tensor, reals: Any = None) -> torch.Tensor:
        logits = self.run_D(img, c, sync=False)
        training_stats.report("Loss/scores/fake", logits)
        training_stats.report("Loss/signs/fake", logits.sign())
        losses = softplus(-logits)
        training_stats.report("Loss/G/loss", losses)
        return losses

    def path_length_loss(self, lengths: torch.Tensor, weight: float) -> torch.Tensor:
        pl_mean = self.pl_mean.lerp(lengths.mean(), self.pl_decay)
        self.pl_mean.copy_(pl_mean.detach())
        penalty = (lengths - pl_mean).square()
        training_stats.report("Loss/pl_penalty", penalty)
        losses = penalty * weight
        training_stats.report("Loss/G/reg", losses)
        return losses


def first_derivatives_only() -> AbstractContextManager[Any]:
    """Where nothing is differentiated twice: lets this project's convolutions use torch's own derivatives."""
    has_choice = hasattr(conv2d_gradfix, "first_derivatives_only")
    return conv2d_gradfix.first_derivatives_only() if has_choice else contextlib.nullcontext()


if TYPE_CHECKING or hasattr(loss.StyleGAN2Loss, "path_length_loss"):
    from training.loss import StyleGAN2Loss
else:
    StyleGAN2Loss = ReferenceLoss
