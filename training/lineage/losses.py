"""Losses of the ancestors: growing networks on a schedule, Wasserstein with gradient penalty, pyramids of images.

Letters in shapes: N batch, C channels, H W pixels, L layers.
"""

from __future__ import annotations

from typing import Any

import torch

from dnnlib.util import UserError
from torch_utils import misc, training_stats
from training.lineage.growing import fade_reals, nimg_at, stage_at
from training.loss import Reals, StyleGAN2Loss, report_logits

DRIFT = 0.001   # weight of the squared logits of real images, which keeps them near zero (Karras et al. 2018, A.1)


class GrowingLoss(StyleGAN2Loss):
    """StyleGAN2's losses for networks that grow: moves their stage on as real images are seen.

    `nimg` counts those, all processes together. With fade_kimg=0 all levels are in use from the start.
    """

    def __init__(
        self,
        *args: Any,
        fade_kimg: float = 0,    # thousands of images in which a level fades in
        hold_kimg: float = 0,    # thousands of images for which it then stays
        first_stage: int = 0,    # where growing begins: 0 is 4x4 pixels, 1 is 8x8
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.fade_nimg, self.hold_nimg = 1000 * fade_kimg, 1000 * hold_kimg
        self.first_stage = first_stage
        self.nimg = 0
        self.nimg_of_step = 0    # those that the current step has seen so far
        if self.grows:
            self.last_stage = len(unwrapped(self.G_synthesis).block_resolutions) - 1
            self.take_up_stage()

    @property
    def grows(self) -> bool:
        return self.fade_nimg > 0

    def take_up_stage(self) -> None:
        """Begin at the first stage, or where networks that were resumed have come to."""
        stage = float(unwrapped(self.G_synthesis).stage)
        if stage < self.last_stage:
            self.nimg = nimg_at(stage, self.fade_nimg, self.hold_nimg, self.first_stage)
        self.set_stage()

    def state_dict(self) -> dict[str, Any]:
        return dict(super().state_dict(), nimg=self.nimg)

    def accumulate_gradients(
        self, phase: str, real_img: torch.Tensor, real_c: torch.Tensor, gen_z: torch.Tensor, gen_c: torch.Tensor,
        sync: bool, gain: float,
    ) -> None:
        if self.grows:
            real_img = self.as_drawn_now(real_img)
        self.accumulate(phase, real_img, real_c, gen_z, gen_c, sync, gain)
        if self.grows and phase in ("Dmain", "Dboth"):
            self.count(len(real_img), sync)

    def accumulate(self, *args: Any) -> None:
        """The gradients of a phase, of real images that are as coarse as the generated ones."""
        super().accumulate_gradients(*args)

    def as_drawn_now(self, real_img: torch.Tensor) -> torch.Tensor:
        D = unwrapped(self.D)
        return fade_reals(real_img, float(D.stage), D.sizes)

    def count(self, num_images: int, sync: bool) -> None:
        """Count the real images of a step, and move the stage on once it is complete."""
        self.nimg_of_step += num_images
        if sync:
            self.nimg += self.nimg_of_step * num_processes()
            self.nimg_of_step = 0
            self.set_stage()

    def set_stage(self) -> None:
        stage = stage_at(self.nimg, self.last_stage, self.fade_nimg, self.hold_nimg, self.first_stage)
        for module in (self.G_synthesis, self.D):
            unwrapped(module).stage.fill_(stage)
        training_stats.report0("Progress/stage", stage)


class WGANGPLoss(GrowingLoss):
    """Wasserstein loss with gradient penalty (Gulrajani et al. 2017, arXiv:1704.00028; Karras et al. 2018, A.1).

    One step of the discriminator for each of the generator's. Images are lists of levels, here of a single one.
    """

    def __init__(self, *args: Any, penalty_weight: float = 10, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "style_mixing_prob": 0, "pl_weight": 0, "r1_gamma": 0})
        self.penalty_weight = penalty_weight

    def generate(self, z: torch.Tensor, c: torch.Tensor, sync: bool) -> list[torch.Tensor]:
        return [self.run_G(z, c, sync)[0]]

    def judge(self, levels: list[torch.Tensor], c: torch.Tensor, sync: bool) -> torch.Tensor:
        """Logits [N, 1]"""
        return self.run_D(levels[0], c, sync)

    def real_levels(self, real_img: torch.Tensor) -> list[torch.Tensor]:
        return [real_img]

    def accumulate(
        self, phase: str, real_img: torch.Tensor, real_c: torch.Tensor, gen_z: torch.Tensor, gen_c: torch.Tensor,
        sync: bool, gain: float,
    ) -> None:
        if phase in ("Gmain", "Gboth"):
            self.backward(self.generator_main(gen_z, gen_c, sync), gain)
        elif phase in ("Dmain", "Dboth"):
            with torch.no_grad():
                fakes = self.generate(gen_z, gen_c, sync=False)
            reals = self.real_levels(real_img)
            self.backward(self.critic(reals, real_c, fakes, gen_c), gain)
            # Only the last backward pass of a phase may synchronise gradients across processes.
            self.backward(self.penalty(reals, real_c, fakes, sync), gain)

    def generator_main(
        self, gen_z: torch.Tensor, gen_c: torch.Tensor, sync: bool, reals: Reals | None = None
    ) -> torch.Tensor:
        """-D(G(z)). [N, 1]"""
        logits = self.judge(self.generate(gen_z, gen_c, sync), gen_c, sync=False)
        report_logits("fake", logits)
        training_stats.report("Loss/G/loss", -logits)
        return -logits

    def critic(
        self, reals: list[torch.Tensor], real_c: torch.Tensor, fakes: list[torch.Tensor], gen_c: torch.Tensor
    ) -> torch.Tensor:
        """D(G(z)) - D(x), and the drift of D(x). [N, 1]"""
        fake, real = self.judge(fakes, gen_c, sync=False), self.judge(reals, real_c, sync=False)
        report_logits("fake", fake)
        report_logits("real", real)
        loss = fake - real + DRIFT * real.square()
        training_stats.report("Loss/D/loss", loss)
        return loss

    def penalty(
        self, reals: list[torch.Tensor], c: torch.Tensor, fakes: list[torch.Tensor], sync: bool
    ) -> torch.Tensor:
        """The gradient penalty at images between real and generated ones. [N]"""
        share = torch.rand([len(reals[0]), 1, 1, 1], device=reals[0].device)
        between = [real.lerp(fake, share).requires_grad_() for real, fake in zip(reals, fakes, strict=True)]
        penalty = gradient_penalty(between, self.judge(between, c, sync))
        training_stats.report("Loss/gradient_penalty", penalty)
        return self.penalty_weight * penalty


class MSGLoss(WGANGPLoss):
    """WGAN-GP on pyramids: gradients reach every resolution of the generator at once (Karnewar and Wang 2020)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.augment_pipe is not None:
            raise UserError("pyramids of images cannot be augmented: use --aug=noaug")

    def generate(self, z: torch.Tensor, c: torch.Tensor, sync: bool) -> list[torch.Tensor]:
        with misc.ddp_sync(self.G_mapping, sync):
            ws = self.G_mapping(z, c)
        with misc.ddp_sync(self.G_synthesis, sync):
            return self.G_synthesis(ws, all_levels=True)

    def judge(self, levels: list[torch.Tensor], c: torch.Tensor, sync: bool) -> torch.Tensor:
        with misc.ddp_sync(self.D, sync):
            return self.D(levels, c)

    def real_levels(self, real_img: torch.Tensor) -> list[torch.Tensor]:
        return unwrapped(self.D).make_pyramid(real_img)


def gradient_penalty(levels: list[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """(|d logit / d image| - 1)^2 per sample, the norm over all levels of a pyramid. [N], differentiable

    Gulrajani et al. 2017, Eq. 3.  logits: [N, 1], computed from the levels.
    """
    grads = torch.autograd.grad(logits.sum(), levels, create_graph=True)
    squares = sum(grad.square().sum(dim=[1, 2, 3]) for grad in grads)
    return ((squares + 1e-12).sqrt() - 1).square()


def num_processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def unwrapped(module: torch.nn.Module) -> Any:
    """The module itself where several processes train: their wrapper hides its attributes."""
    return getattr(module, "module", module)
