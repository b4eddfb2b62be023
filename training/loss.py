"""The losses of StyleGAN2, one small function per term.

Letters in shapes: N batch, L synthesis layers (`num_ws`), C channels, H W pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.functional import relu, softplus

from dnnlib.util import UserError
from torch_utils import misc, training_stats
from torch_utils.ops import conv2d_gradfix


class Adversarial(NamedTuple):
    """The two players' losses, as functions of logits: of generated images for both, and of real ones."""

    generator: Callable[[torch.Tensor], torch.Tensor]
    fake: Callable[[torch.Tensor], torch.Tensor]
    real: Callable[[torch.Tensor], torch.Tensor]


ADVERSARIAL = {
    # Non-saturating, Goodfellow et al. 2014 (arXiv:1406.2661), section 3.
    "logistic": Adversarial(lambda x: softplus(-x), softplus, lambda x: softplus(-x)),
    # Lim and Ye 2017 (arXiv:1705.02894), Eqs. 4 and 5: what is told apart by a margin of 1 costs nothing.
    "hinge": Adversarial(lambda x: -x, lambda x: relu(1 + x), lambda x: relu(1 - x)),
}


PAIRED = "relativistic"   # the adversarial loss in which each generated image is compared with a real one
Reals = tuple[torch.Tensor, torch.Tensor]   # images [N, C, H, W] and labels [N, c_dim]


class Loss:
    """What the training loop asks of a loss."""

    draws_on_device = False  # draw on the device, so that every step runs the same operations, as CUDA graphs need it?

    def accumulate_gradients(
        self,
        phase: str,              # 'Gmain', 'Greg', 'Gboth', 'Dmain', 'Dreg' or 'Dboth'
        real_img: torch.Tensor,  # [N, C, H, W] in -1..1
        real_c: torch.Tensor,    # [N, c_dim]
        gen_z: torch.Tensor,     # [N, z_dim]
        gen_c: torch.Tensor,     # [N, c_dim]
        sync: bool,              # does an optimizer step follow? Then gradients are synchronised across processes
        gain: float,             # multiplies every term; the interval of a lazy phase
    ) -> None:
        """Add the gradients of one phase to the `.grad` of the module that the phase trains."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Numbers and tensors that training moves, for a run that carries on. Settings are none of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set what `state_dict` names; further entries are ignored. ValueError for one that is missing."""
        kept = self.state_dict()
        for name in sorted(kept.keys() - state.keys()):
            raise UserError(f"the saved state is that of another run: it has no loss.{name}")
        for name, value in kept.items():
            if isinstance(value, torch.Tensor):
                value.copy_(state[name])  # in place: a CUDA graph may hold it
            else:
                setattr(self, name, state[name])

    def graph_key(self, phase: str) -> Hashable | None:
        """What besides shapes and `gain` decides which operations the next call for this phase runs.

        Calls with equal keys must run the same ones, with `draws_on_device` set. None: never replay them.
        """
        return None

    def count_part(self, phase: str, num_images: int, sync: bool) -> None:
        """Do what Python does in `accumulate_gradients`, for a call whose operations a CUDA graph replays."""


class StyleGAN2Loss(Loss):
    """Non-saturating logistic loss with R1 and path length regularisation (Karras et al. 2020).

    With `adversarial="relativistic"` the loss of Huang et al. 2024 (arXiv:2501.05441): a real and a generated image are
    compared in pairs, and R2, R1's like at generated images, has the weight of R1.
    A discriminator may give several logits per image, [N, K] in place of [N, 1]: their losses are averaged.
    `run_G`, `run_D` and `accumulate_gradients` are the methods to override. The networks may be wrapped for
    distributed training, so nothing but calling them is assumed. `pl_mean` is the running mean of path lengths.
    """

    def __init__(
        self,
        device: torch.device,
        G_mapping: torch.nn.Module,
        G_synthesis: torch.nn.Module,
        D: torch.nn.Module,
        augment_pipe: torch.nn.Module | None = None,  # applied to everything the discriminator sees
        style_mixing_prob: float = 0.9,  # chance that a batch mixes two latents
        r1_gamma: float = 10,            # weight of R1; 0 switches it off
        pl_batch_shrink: int = 2,        # path lengths use 1/pl_batch_shrink of the batch
        pl_decay: float = 0.01,          # how fast pl_mean follows the batch
        pl_weight: float = 2,            # weight of the path length penalty; 0 switches it off
        adversarial: str = "logistic",   # key of ADVERSARIAL, or PAIRED
    ):
        super().__init__()
        self.device = device
        self.G_mapping = G_mapping
        self.G_synthesis = G_synthesis
        self.D = D
        self.augment_pipe = augment_pipe
        self.style_mixing_prob = style_mixing_prob
        self.r1_gamma = r1_gamma
        self.pl_batch_shrink = pl_batch_shrink
        self.pl_decay = pl_decay
        self.pl_weight = pl_weight
        self.pl_mean = torch.zeros([], device=device)
        self.is_paired = adversarial == PAIRED
        if adversarial not in ADVERSARIAL and not self.is_paired:
            raise UserError(f"adversarial loss must be one of {', '.join([*ADVERSARIAL, PAIRED])}, got {adversarial!r}")
        self.adversarial = ADVERSARIAL.get(adversarial, ADVERSARIAL["logistic"])

    def state_dict(self) -> dict[str, Any]:
        return dict(super().state_dict(), pl_mean=self.pl_mean)

    def run_G(self, z: torch.Tensor, c: torch.Tensor, sync: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, C, H, W] and the latents [N, L, w_dim] they were made from, styles mixed."""
        with misc.ddp_sync(self.G_mapping, sync):
            ws = self.G_mapping(z, c)
            if self.style_mixing_prob > 0:
                ws = self.mix_styles(ws, z, c)
        with misc.ddp_sync(self.G_synthesis, sync):
            img = self.G_synthesis(ws)
        return img, ws

    def run_D(self, img: torch.Tensor, c: torch.Tensor, sync: bool) -> torch.Tensor:
        """Logits [N, 1] of images that are augmented first."""
        if self.augment_pipe is not None:
            img = self.augment_pipe(img)
        with misc.ddp_sync(self.D, sync):
            return self.D(img, c)

    def mix_styles(self, ws: torch.Tensor, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Replace the layers from a random one on by those of fresh latents, the same layers for the whole batch."""
        num_ws = ws.shape[1]
        if num_ws < 2:
            return ws
        if self.draws_on_device:
            is_mixed = random_tail(num_ws, self.style_mixing_prob, ws.device)
            return torch.where(is_mixed[:, None], self.G_mapping(torch.randn_like(z), c, skip_w_avg_update=True), ws)
        # Both numbers are drawn on the CPU: reading them from a GPU would make every step wait for it.
        cut = int(torch.randint(1, num_ws, []))
        if float(torch.rand([])) >= self.style_mixing_prob:
            return ws
        other = self.G_mapping(torch.randn_like(z), c, skip_w_avg_update=True)
        return torch.cat([ws[:, :cut], other[:, cut:]], dim=1)

    def graph_key(self, phase: str) -> Hashable | None:
        """Nothing decides. None for a subclass, which may decide anything, until it has a method of its own."""
        return () if type(self) is StyleGAN2Loss and self.has_work(phase) else None

    def has_work(self, phase: str) -> bool:
        """Does the phase run anything at all?"""
        return not (phase == "Greg" and self.pl_weight == 0 or phase == "Dreg" and self.r1_gamma == 0)

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
        G_main = phase in ("Gmain", "Gboth")
        G_reg = phase in ("Greg", "Gboth") and self.pl_weight != 0
        D_main = phase in ("Dmain", "Dboth")
        D_reg = phase in ("Dreg", "Dboth") and self.r1_gamma != 0

        # Only the last backward pass of a phase may synchronise gradients across processes.
        if G_main:
            with conv2d_gradfix.first_derivatives_only():
                pairs = dict(reals=(real_img, real_c)) if self.is_paired else {}
                self.backward(self.generator_main(gen_z, gen_c, sync=sync and not G_reg, **pairs), gain)
        if G_reg:
            self.backward(self.generator_path_length(gen_z, gen_c, sync=sync), gain)
        if self.is_paired and (D_main or D_reg):
            with contextlib.nullcontext() if D_reg else conv2d_gradfix.first_derivatives_only():
                self.backward(self.discriminator_pairs(
                    gen_z, gen_c, (real_img, real_c), sync, with_main=D_main, with_penalties=D_reg), gain)
            return
        fake_loss = None
        if D_main:
            with conv2d_gradfix.first_derivatives_only():
                fake_loss = self.discriminator_fake(gen_z, gen_c, sync=False)
                self.backward(fake_loss, gain)
        if D_main or D_reg:
            with contextlib.nullcontext() if D_reg else conv2d_gradfix.first_derivatives_only():
                self.backward(self.discriminator_real(real_img, real_c, sync, fake_loss, with_r1=D_reg), gain)

    def backward(self, loss: torch.Tensor, gain: float) -> None:
        """Back-propagate the batch mean of a per-sample loss, times `gain`."""
        loss.mean().mul(gain).backward()

    def generator_main(
        self, gen_z: torch.Tensor, gen_c: torch.Tensor, sync: bool, reals: Reals | None = None
    ) -> torch.Tensor:
        """-log sigmoid(D(G(z))), or its like: generated images should look real. [N, 1]"""
        img, _ws = self.run_G(gen_z, gen_c, sync=sync)
        return self.generator_loss(img, gen_c, reals)

    def generator_loss(self, img: torch.Tensor, c: torch.Tensor, reals: Reals | None = None) -> torch.Tensor:
        """-log sigmoid(D(img)) of generated images, or its like; of pairs with `reals` in the paired loss. [N, 1]"""
        logits = self.run_D(img, c, sync=False)
        report_logits("fake", logits)
        if reals is None:
            loss = self.adversarial.generator(logits)
        else:
            with torch.no_grad():   # real images do not depend on the generator
                real_logits = self.run_D(*reals, sync=False)
            loss = pair_loss(better=logits, worse=real_logits)
        training_stats.report("Loss/G/loss", loss)
        return loss

    def generator_path_length(self, gen_z: torch.Tensor, gen_c: torch.Tensor, sync: bool) -> torch.Tensor:
        """(length - running mean)^2: equal steps in w should change the image equally much. [n], n a part of N"""
        num = max(len(gen_z) // self.pl_batch_shrink, 1)
        img, ws = self.run_G(gen_z[:num], gen_c[:num], sync=sync)
        return self.path_length_loss(path_lengths(img, ws), self.pl_weight) + anchor(img)

    def path_length_loss(self, lengths: torch.Tensor, weight: float) -> torch.Tensor:
        """weight * (length - running mean)^2; moves the mean towards the lengths [n]. [n]"""
        # The new mean enters the penalty with its gradient; what is kept for the next step has none.
        pl_mean = self.pl_mean.lerp(lengths.mean(), self.pl_decay)
        self.pl_mean.copy_(pl_mean.detach())
        penalty = (lengths - pl_mean).square()
        training_stats.report("Loss/pl_penalty", penalty)
        loss = penalty * weight
        training_stats.report("Loss/G/reg", loss)
        return loss

    def discriminator_fake(self, gen_z: torch.Tensor, gen_c: torch.Tensor, sync: bool) -> torch.Tensor:
        """-log(1 - sigmoid(D(G(z)))), or its like: generated images should be told from real ones. [N, 1]"""
        with torch.no_grad():
            img, _ws = self.run_G(gen_z, gen_c, sync=False)
        logits = self.run_D(img, gen_c, sync=sync)
        report_logits("fake", logits)
        return self.adversarial.fake(logits)

    def discriminator_pairs(
        self,
        gen_z: torch.Tensor,
        gen_c: torch.Tensor,
        reals: Reals,
        sync: bool,
        with_main: bool,
        with_penalties: bool,
    ) -> torch.Tensor:
        """-log sigmoid(D(x) - D(G(z))): a real image should look more real than a generated one; R1 and R2. [N, 1]"""
        with torch.no_grad():
            fake_img, _ws = self.run_G(gen_z, gen_c, sync=False)
        fake_img = fake_img.detach().requires_grad_(with_penalties)
        real_img = reals[0].detach().requires_grad_(with_penalties)
        fake_logits = self.run_D(fake_img, gen_c, sync=False)
        real_logits = self.run_D(real_img, reals[1], sync=sync)
        report_logits("fake", fake_logits)
        report_logits("real", real_logits)
        loss = anchor(fake_logits) + anchor(real_logits)
        if with_main:
            main_loss = pair_loss(better=real_logits, worse=fake_logits)
            training_stats.report("Loss/D/loss", main_loss)
            loss = loss + main_loss
        if with_penalties:
            r1, r2 = r1_penalty(real_img, real_logits), r1_penalty(fake_img, fake_logits)
            training_stats.report("Loss/r1_penalty", r1)
            training_stats.report("Loss/r2_penalty", r2)
            reg_loss = (r1 + r2) * (self.r1_gamma / 2)
            training_stats.report("Loss/D/reg", reg_loss)
            loss = loss + reg_loss[:, None]
        return loss

    def discriminator_real(
        self,
        real_img: torch.Tensor,
        real_c: torch.Tensor,
        sync: bool,
        fake_loss: torch.Tensor | None,  # [N, 1] of the same phase, for the statistics; None leaves out the main term
        with_r1: bool,
    ) -> torch.Tensor:
        """-log sigmoid(D(x)), or its like, of real images and their R1 penalty, which share one pass. [N, 1]"""
        real_img = real_img.detach().requires_grad_(with_r1)
        logits = self.run_D(real_img, real_c, sync=sync)
        report_logits("real", logits)
        loss = anchor(logits)
        if fake_loss is not None:
            real_loss = self.adversarial.real(logits)
            training_stats.report("Loss/D/loss", fake_loss.detach() + real_loss)
            loss = loss + real_loss
        if with_r1:
            penalty = r1_penalty(real_img, logits)
            training_stats.report("Loss/r1_penalty", penalty)
            reg_loss = penalty * (self.r1_gamma / 2)
            training_stats.report("Loss/D/reg", reg_loss)
            loss = loss + reg_loss[:, None]
        return loss


def pair_loss(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(better - worse) of logits [N, K]: image i of one kind should look more real than i of the other.

    Jolicoeur-Martineau 2018 (arXiv:1807.00734); RpGAN in section 2 of Huang et al. 2024 (arXiv:2501.05441).
    """
    return softplus(worse - better)


def random_tail(num_ws: int, prob: float, device: torch.device) -> torch.Tensor:
    """With probability `prob`, True from a random layer after the first on; otherwise all False. [L] bool"""
    start = torch.randint(1, num_ws, [], device=device)
    return (torch.arange(num_ws, device=device) >= start) & (torch.rand([], device=device) < prob)


def path_lengths(img: torch.Tensor, ws: torch.Tensor) -> torch.Tensor:
    """How far random directions of image space reach back into w, per image.

    sqrt(mean over layers of |d sum(img * y) / d w_l|^2) with y unit normal noise divided by sqrt(H * W).
    img: [N, C, H, W], computed from ws: [N, L, w_dim].  Returns [N], differentiable.
    Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", section 3.2.
    """
    noise = torch.randn_like(img) / (img.shape[2] * img.shape[3]) ** 0.5
    with conv2d_gradfix.no_weight_gradients():
        (grad,) = torch.autograd.grad((img * noise).sum(), ws, create_graph=True)   # [N, L, w_dim]
    return grad.square().sum(dim=2).mean(dim=1).sqrt()


def r1_penalty(real_img: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Squared norm of the discriminator's gradient at the real images (Mescheder et al. 2018, R1).

    logits: [N, 1], computed from real_img: [N, C, H, W].  Returns [N], differentiable.
    """
    with conv2d_gradfix.no_weight_gradients():
        (grad,) = torch.autograd.grad(logits.sum(), real_img, create_graph=True)    # [N, C, H, W]
    return grad.square().sum(dim=[1, 2, 3])


def anchor(output: torch.Tensor) -> torch.Tensor:
    """Zero per sample that depends on the output of a network, [N] for images and [N, 1] for logits.

    Added to a loss built from gradients, it gives every parameter a gradient, zero where the loss has none:
    distributed training waits for all of them.
    """
    return output[:, 0, 0, 0] * 0 if output.ndim == 4 else output * 0


def report_logits(kind: str, logits: torch.Tensor) -> None:
    """Record the scores and signs of logits [N, 1]; `kind` is 'fake' or 'real'."""
    training_stats.report(f"Loss/scores/{kind}", logits)
    training_stats.report(f"Loss/signs/{kind}", logits.sign())
