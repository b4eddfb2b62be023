"""StyleGAN2's losses with the terms on blocks of Spatially Stochastic Networks (arXiv:2006.05394)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch

import dnnlib
from ssn_plugin import distortion, distortion_spaces
from ssn_plugin.block_grid import finest_grid, first_block
from ssn_plugin.errors import UserError
from ssn_plugin.hosts.stylegan2_loss import StyleGAN2Loss, first_derivatives_only
from ssn_plugin.networks import side_lengths
from ssn_plugin.path_length import random_block_path_lengths
from torch_utils import misc, training_stats

# Measure of what changed outside the redrawn block: (before, after [N, C, H, W], resampled [N, H, W] bool) -> [N].
OutsideChange = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class DistortionLoss(StyleGAN2Loss):
    """Adds `lambda * E[D] - mu * E[R(D_in)]` to the generator's main phase.

    D and D_in compare G(z) with G(z with one block redrawn). Both images share noise maps and label, and use neither
    style mixing nor truncation. G(z) belongs to the main pass and the redrawn images join it, so the term needs no pass
    of its own; the other images of that pass have mixed styles as always. The block is uniform over the finest grid:
    coarser ones hold what blocks share, so their redraw may change everything. The single block of a 1x1 grid has no
    outside.

    D, the distortion (Hong et al. 2020, Eq. 2), is the mean squared change outside the block, see
    `ssn_plugin.distortion`; the change in another space, see `ssn_plugin.distortion_spaces`; or a function of your own:
    `distortion_function="my_module.lpips_outside"` names one that takes the images before and after [N, C, H, W] in
    -1..1 and the mask [N, H, W] bool of the pixels outside, which should stay, and returns [N].

    D_in, the diversity, is the mean squared change inside the block. Without a reward R for it the cheapest way to a
    low distortion is a block that does nothing. R is min(D_in, tau), or tau times the logarithm of that, which wakes
    blocks that do nothing yet, see `ssn_plugin.distortion.diversity_reward`. The cap tau applies to every pair of
    images by itself: one whose block changes enough already feels no force, and cannot make up for a pair whose block
    does nothing.

    Over the first `distortion_warmup` thousand images lambda grows from 0. Blocks that are held still before they have
    learnt to show anything may never do so.

    If `pl_outside_weight` is not 1, path length regularisation is that of single blocks, in which a pixel outside the
    block weighs this many times one inside, see `ssn_plugin.path_length`.

    The settings have no defaults here: those of the cfgs stand in `ssn_plugin.config`. The last three may be left out.
    """

    draws_on_device = False  # as in `training.loss.Loss`, which not every host has

    def __init__(
        self,
        device: torch.device,
        G_mapping: torch.nn.Module,
        G_synthesis: torch.nn.Module,
        D: torch.nn.Module,
        *,
        distortion_weight: float,            # lambda; 0 switches the term off
        distortion_warmup: float,            # thousands of images over which lambda grows from 0, evenly
        distortion_interval: int,            # compute both terms at every k-th optimiser step only, with k-fold weight
        distortion_reduction: str,           # "mean" over the pixels outside, or "sum" of the means of blocks
        distortion_batch_shrink: int,        # redraw a block of 1/n of the batch, as pl_batch_shrink does
        diversity_weight: float,             # mu; 0 switches the reward off
        diversity_cap: float,                # tau: more change than this inside the block earns nothing
        diversity_reward: str,               # shape of R below the cap: "linear" or "log"
        pl_outside_weight: float = 1,        # of pixels outside a block in its path length; 1: StyleGAN2's path length
        distortion_space: str = "pixels",    # one of `ssn_plugin.config.SPACES`; the others know no reduction
        distortion_function: str | None = None,  # dotted name of another D, which replaces space and reduction
        **stylegan2_kwargs: Any,             # the rest of StyleGAN2Loss, whose defaults belong to the host
    ):
        super().__init__(device=device, G_mapping=G_mapping, G_synthesis=G_synthesis, D=D, **stylegan2_kwargs)
        distortion.diversity_reward(torch.ones(1), 1, diversity_reward)  # refuses a wrong one before training begins
        self.distortion_weight = distortion_weight
        self.distortion_warmup = distortion_warmup
        self.distortion_interval = distortion_interval
        self.distortion_batch_shrink = distortion_batch_shrink
        self.diversity_weight = diversity_weight
        self.diversity_cap = diversity_cap
        self.diversity_reward = diversity_reward
        self.pl_outside_weight = pl_outside_weight
        self.block_pl_weight = 0.0
        if pl_outside_weight != 1:  # the host is to leave the term to this class
            self.block_pl_weight, self.pl_weight = self.pl_weight, 0
        self.main_steps = 0   # optimiser steps of the generator so far
        self.main_images = 0  # that they were made with, on all GPUs together
        grids = unwrapped(G_synthesis).block_grid  # [[rows, cols], ...]
        self.block_grid, self.first_block = finest_grid(grids), first_block(grids)
        self.num_blocks = self.block_grid[0] * self.block_grid[1]  # of that grid, numbered from `first_block`
        self.outside_change = self._outside_change(distortion_reduction, distortion_space, distortion_function)
        self.is_in_pixels = distortion_space == "pixels" and distortion_function is None
        self.has_own_distortion = distortion_function is not None

    def _outside_change(self, reduction: str, space: str, function: str | None) -> OutsideChange:
        if function is not None:
            return load_outside_change(function)
        if space != "pixels":
            return distortion_spaces.outside_change_in(space, self.block_grid, self.device)
        if reduction == "mean":
            return distortion.mean_outside_change
        if reduction == "sum":
            return functools.partial(distortion.sum_outside_change, block_grid=self.block_grid)
        raise UserError(f"distortion reduction must be 'mean' or 'sum', got {reduction!r}")

    def accumulate_gradients(
        self,
        phase: str,
        real_img: torch.Tensor,
        real_c: torch.Tensor,
        gen_z: torch.Tensor,
        gen_c: torch.Tensor,
        sync: bool,
        gain: float,
    ) -> None:
        # Only the last backward pass of a phase may synchronise gradients across GPUs.
        with_block_lengths = phase in ("Greg", "Gboth") and self.block_pl_weight != 0
        rest: str | None = phase
        if phase in ("Gmain", "Gboth") and self.pairs_due():
            rest = "Greg" if phase == "Gboth" else None
            is_last = rest is None or (self.pl_weight == 0 and not with_block_lengths)
            # Only some hosts know a loss that compares generated images with real ones.
            pairs = dict(reals=(real_img, real_c)) if getattr(self, "is_paired", False) else {}
            self.back_propagate_main(gen_z, gen_c, sync and is_last, gain, **pairs)
        if rest is not None:
            super().accumulate_gradients(rest, real_img, real_c, gen_z, gen_c, sync and not with_block_lengths, gain)
        if with_block_lengths:
            self.block_path_length(gen_z, gen_c, sync).mean().mul(gain).backward()
        self.count_part(phase, len(gen_z), sync)

    def back_propagate_main(
        self, gen_z: torch.Tensor, gen_c: torch.Tensor, sync: bool, gain: float, **pairs: Any
    ) -> None:
        """The generator's main phase with the terms on blocks: one pass for all images, and one back."""
        with first_derivatives_only():
            img, redrawn_img, blocks = self.run_G_with_redraws(gen_z, gen_c, sync)
            block_loss = self.block_loss(img[: len(blocks)], redrawn_img, blocks)
            loss = self.generator_loss(img, gen_c, **pairs).mean()
            (loss * gain + block_loss * (gain * self.distortion_interval)).backward()

    def state_dict(self) -> dict[str, Any]:
        return dict(super().state_dict(), main_steps=self.main_steps, main_images=self.main_images)

    def graph_key(self, phase: str) -> Hashable | None:
        """Whether the terms on blocks are due.

        None where Python decides more: while lambda grows, in a distortion function of the user's, where one of several
        grids is drawn for the path lengths, and in subclasses.
        """
        if type(self) is not DistortionLoss or not self.has_work(phase):
            return None
        if phase not in ("Gmain", "Gboth"):
            return ()
        is_growing = self.main_images < self.distortion_warmup * 1000
        chooses_grid = phase == "Gboth" and self.block_pl_weight != 0
        is_due = self.pairs_due()
        return None if is_growing or chooses_grid or (is_due and self.has_own_distortion) else (is_due,)

    def count_part(self, phase: str, num_images: int, sync: bool) -> None:
        """Count the images and steps of the generator's main phase."""
        if phase in ("Gmain", "Gboth"):
            self.main_images += num_images * num_processes()
            self.main_steps += sync  # after the last accumulation round an optimiser step follows

    def block_loss(self, before: torch.Tensor, after: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        """lambda * E[D] - mu * E[R(D_in)] of pairs [n, C, H, W] with these blocks [n] redrawn, a number."""
        resampled = distortion.block_mask(blocks, self.block_grid, *before.shape[2:])
        outside = self.outside_change(before, after, resampled)               # [n]
        with torch.set_grad_enabled(self.diversity_weight != 0):              # else only reported
            inside = distortion.mean_inside_change(before, after, resampled)  # [n]
        training_stats.report("Loss/ssn/distortion", outside)
        training_stats.report("Loss/ssn/diversity", inside)
        if not self.is_in_pixels:
            with torch.no_grad():
                in_pixels = distortion.mean_outside_change(before, after, resampled)
            training_stats.report("Loss/ssn/distortion_in_pixels", in_pixels)
        reward = distortion.diversity_reward(inside, self.diversity_cap, self.diversity_reward)
        return (self.current_distortion_weight() * outside - self.diversity_weight * reward).mean()

    def block_path_length(self, gen_z: torch.Tensor, gen_c: torch.Tensor, sync: bool) -> torch.Tensor:
        """StyleGAN2's path length loss, of one block per image, for a part of the batch. [n]"""
        n = max(len(gen_z) // self.pl_batch_shrink, 1)
        img, ws = self.run_G(gen_z[:n], gen_c[:n], sync=sync)
        lengths = random_block_path_lengths(img, ws, unwrapped(self.G_synthesis).block_grid, self.pl_outside_weight)
        # Distributed training waits for a gradient of every parameter, zero where the penalty has none.
        return self.path_length_loss(lengths, self.block_pl_weight) + img[:, 0, 0, 0] * 0

    def current_distortion_weight(self) -> float:
        """Lambda, or the share of it that warm-up has reached."""
        warmup_images = self.distortion_warmup * 1000
        return self.distortion_weight * (min(self.main_images / warmup_images, 1) if warmup_images else 1)

    def pairs_due(self) -> bool:
        """Does the current optimiser step include a term? Not the distortion where nothing lies outside a block."""
        wanted = (self.distortion_weight != 0 and self.num_blocks > 1) or self.diversity_weight != 0
        return wanted and self.main_steps % self.distortion_interval == 0

    def run_G_with_redraws(
        self, z: torch.Tensor, c: torch.Tensor, sync: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The generator's pass over N latents, the first n without style mixing and once more with a block redrawn.

        Returns images [N, C, H, W], the redrawn images [n, C, H, W], which have the noise maps and labels of the first
        n, and their blocks [n], numbered within the finest grid.
        """
        n = max(len(z) // self.distortion_batch_shrink, 1)
        blocks = torch.randint(self.num_blocks, [n], device=z.device)
        redrawn = distortion.redraw_one_block(z[:n], self.first_block + blocks, self.first_block + self.num_blocks)
        noise = [torch.randn([len(z), 1, *side_lengths(resolution)], device=z.device)
                 for resolution in unwrapped(self.G_synthesis).noise_resolutions]
        with misc.ddp_sync(self.G_mapping, sync):
            ws = self.mix_styles_from(n, self.G_mapping(z, c), z, c)
            redrawn_ws = self.G_mapping(redrawn, c[:n], skip_w_avg_update=True)  # z counts towards the mean already
        with misc.ddp_sync(self.G_synthesis, sync):
            img = self.G_synthesis(torch.cat([ws, redrawn_ws]), noise=[torch.cat([x, x[:n]]) for x in noise])
        return img[: len(z)], img[len(z) :], blocks

    def mix_styles_from(self, first: int, ws: torch.Tensor, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """StyleGAN2's style mixing of latents [N, L, w_dim], except for the samples before `first`.

        The host mixes whole batches, some hosts only within `run_G`. This one also decides whether to mix before it
        draws anything else.
        """
        num_ws = ws.shape[1]
        if first == len(ws) or num_ws < 2 or self.style_mixing_prob <= 0:
            return ws
        if self.draws_on_device:
            start = torch.randint(1, num_ws, [], device=ws.device)
            mixes = torch.rand([], device=ws.device) < self.style_mixing_prob
            is_mixed = (torch.arange(num_ws, device=ws.device) >= start) & mixes                             # [L]
        elif float(torch.rand([])) >= self.style_mixing_prob:  # on the CPU: no step has to wait for a GPU
            return ws
        else:
            is_mixed = torch.arange(num_ws, device=ws.device) >= int(torch.randint(1, num_ws, []))
        other = self.G_mapping(torch.randn_like(z[first:]), c[first:], skip_w_avg_update=True)
        mixed = torch.where(is_mixed[:, None], other, ws[first:])
        return torch.cat([ws[:first], mixed])


def load_outside_change(name: str) -> OutsideChange:
    """The function (before, after, outside) -> [N] of this dotted name, see `DistortionLoss`."""
    try:
        function = dnnlib.util.get_obj_by_name(name)
    except (ImportError, AttributeError) as err:
        raise UserError(f"distortion function {name} cannot be imported: {err}") from err
    if not callable(function):
        raise UserError(f"distortion function {name} must be a function, got {type(function).__name__}")

    def outside_change(before: torch.Tensor, after: torch.Tensor, resampled: torch.Tensor) -> torch.Tensor:
        change = function(before, after, ~resampled)
        if change.shape != before.shape[:1]:
            raise UserError(f"{name} must return one number per image [{len(before)}], got {[*change.shape]}")
        return change

    return outside_change


def num_processes() -> int:
    """Number of processes that train together; 1 where training is not distributed."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def unwrapped(module: torch.nn.Module) -> Any:
    """The module inside the wrapper of distributed training, which hides its attributes; or the module itself."""
    return getattr(module, "module", module)
