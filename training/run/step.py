"""One optimisation step: its phases, gradients, running means, moving average and augmentation strength.

The images of a batch are dealt to `batch_size / batch_gpu` parts: image i belongs to part i modulo their number. A part
passes through the networks at once and has random numbers of its own; part k is the work of process k modulo the
number of processes. So a step depends on the batch and on its parts, but not on how many processes share them.

Shapes: N images of a batch on this process.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

import dnnlib
from dnnlib.util import UserError
from torch_utils import misc, training_stats
from training.loss import Loss
from training.run.batches import TrainingData
from training.run.cuda_graphs import GraphedLoss
from training.run.recomputation import recomputing
from training.run.run_options import StepOptions

MOST_SKIPPED_STEPS = 20  # in a row, after which a run ends: its networks will not recover


class PhaseTimer:
    """Measures the latest run of a phase without waiting for the GPU until asked."""

    def __init__(self, device: torch.device):
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else None
        self._seconds = [0.0, 0.0]
        self._has_run = False

    def __enter__(self) -> None:
        self._mark(0)

    def __exit__(self, *exc_info: object) -> None:
        self._mark(1)
        self._has_run = True

    def _mark(self, which: int) -> None:
        if self._events is not None:
            self._events[which].record()
        else:
            self._seconds[which] = time.perf_counter()

    def take_milliseconds(self) -> list[float]:
        """Duration of the latest run since the last call; empty if there was none."""
        if not self._has_run:
            return []
        self._has_run = False
        if self._events is None:
            return [(self._seconds[1] - self._seconds[0]) * 1000]
        self._events[1].synchronize()
        return [self._events[0].elapsed_time(self._events[1])]


@dataclasses.dataclass
class Phase:
    """A part of a step that trains one network with one optimizer; main and lazy phases share the optimizer."""

    name: str                    # as in `Loss.accumulate_gradients`
    module: torch.nn.Module
    opt: torch.optim.Optimizer
    interval: int                # runs in every interval-th step, with its loss multiplied by the interval
    timer: PhaseTimer


class AdaController:
    """Adapts the strength of the augmentation so that a target share of real images is told to be real.

    r = mean sign of the discriminator's output for real images is a measure of overfitting; every `interval` steps p
    moves by a constant towards the side where r meets the target (Karras et al. 2020, adaptive augmentation).
    """

    def __init__(
        self,
        augment_pipe: Any,  # module with the buffer p
        target: float,                  # of r
        batch_size: int,
        interval: int = 4,              # steps between two changes
        kimg: float = 500,              # thousands of images in which p may go from 0 to 1
    ):
        if interval < 1 or kimg <= 0:
            raise UserError(f"ada_interval must be at least 1 and ada_kimg above 0, got {interval} and {kimg}")
        self.augment_pipe = augment_pipe
        self.target = target
        self.interval = interval
        self.p_step = batch_size * interval / (kimg * 1000)
        self.signs = training_stats.Collector(regex="Loss/signs/real")

    def update(self, num_steps: int) -> None:
        """Change p if it is time to, `num_steps` being the number of steps taken so far."""
        if num_steps % self.interval != 0:
            return
        self.signs.update()
        excess = self.signs["Loss/signs/real"] - self.target
        if math.isfinite(excess):  # NaN where nothing was reported or the discriminator broke down: leave p
            self.augment_pipe.p.add_(float(np.sign(excess)) * self.p_step).clamp_(min=0)


@dataclasses.dataclass
class TrainingState:
    """Everything that a step changes. What is random in a step follows from the seed and from `cur_nimg`."""

    G: Any                     # the networks, of the classes that the options name
    D: Any
    G_ema: Any                 # moving average of G, in eval mode
    augment_pipe: Any          # its buffer p changes; None without augmentation
    loss: Loss                 # may hold running means
    phases: list[Phase]        # with the optimizers
    ada: AdaController | None
    graphs: GraphedLoss | None = None  # the loss, run as CUDA graphs
    recomputed: Sequence[torch.nn.Module] = ()  # whose activations are not kept for the backward pass
    cur_nimg: int = 0          # real images seen, all processes together
    batch_idx: int = 0         # steps taken
    skipped_steps: int = 0     # those of them that had a phase without an optimizer step
    skipped_in_a_row: int = 0

    def running_means(self) -> list[torch.Tensor]:
        """What forward passes move towards the batch: the mean style of G, the mean path length of the loss."""
        means = [buffer for name, buffer in self.G.named_buffers() if name.split(".")[-1] == "w_avg"]
        return [*means, self.loss.pl_mean] if hasattr(self.loss, "pl_mean") else means


def train_step(state: TrainingState, data: TrainingData, options: StepOptions) -> None:
    """Run all phases that are due, then update the moving average and the strength of the augmentation.

    A phase whose gradients are not finite changes nothing, and the moving average then waits for the next step. Raises
    ValueError after `MOST_SKIPPED_STEPS` such steps in a row.
    """
    seed_draws(options.random_seed, state.cur_nimg, 0, options.rank)  # for data sets that draw at random
    real_img, real_c = data.next_batch()
    taken = [
        run_phase(state, number, real_img, real_c, data, options)
        for number, phase in enumerate(state.phases) if state.batch_idx % phase.interval == 0
    ]
    if all(taken):
        update_ema(state.G_ema, state.G, ema_decay(options, state.cur_nimg))
        state.skipped_in_a_row = 0
    else:
        state.skipped_steps += 1
        state.skipped_in_a_row += 1
    state.cur_nimg += options.batch_size
    state.batch_idx += 1
    if state.ada is not None:
        state.ada.update(state.batch_idx)
    if state.skipped_in_a_row >= MOST_SKIPPED_STEPS:
        raise UserError(f"losses or gradients must be finite, they were not in {state.skipped_in_a_row} steps in a "
                        f"row, the last at {state.cur_nimg / 1000:.1f} kimg")


def seed_draws(random_seed: int, nimg: int, purpose: int, index: int) -> None:
    """Set the random state of Python, numpy and torch to one that follows from the arguments alone.

    purpose: 0 for reading data, k + 1 for phase k.  index: of the process that reads, of the part of the batch.
    """
    key = [random_seed % 2**64, nimg, purpose, index]
    python_seed, numpy_seed, torch_seed = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(python_seed)
    np.random.seed(numpy_seed)
    torch.manual_seed(torch_seed)


def run_phase(
    state: TrainingState,
    number: int,             # of the phase
    real_img: torch.Tensor,  # [N, C, H, W]
    real_c: torch.Tensor,    # [N, c_dim]
    data: TrainingData,
    options: StepOptions,
) -> bool:
    """Accumulate the gradients of one phase and take an optimizer step. False, and no step, if they are not finite."""
    phase = state.phases[number]
    loss = state.loss if state.graphs is None else state.graphs
    means = SharedMeans(state.running_means())
    with phase.timer, recomputing(state.recomputed):
        phase.opt.zero_grad(set_to_none=True)
        phase.module.requires_grad_(True)
        for i in range(options.num_rounds):
            seed_draws(options.random_seed, state.cur_nimg, number + 1, options.rank + i * options.num_gpus)
            loss.accumulate_gradients(
                phase=phase.name, real_img=real_img[i :: options.num_rounds], real_c=real_c[i :: options.num_rounds],
                gen_z=torch.randn([options.batch_gpu, state.G.z_dim], device=real_img.device),
                gen_c=data.random_labels(options.batch_gpu), sync=(i == options.num_rounds - 1), gain=phase.interval,
            )
            means.end_part()
        phase.module.requires_grad_(False)
        grads = [param.grad for param in phase.module.parameters() if param.grad is not None]
        finite = average_parts(grads + means.sums, options.num_gpus, options.num_rounds)
        means.end_phase(keep=not finite)
        if finite:
            phase.opt.step()
        phase.opt.zero_grad(set_to_none=True)  # frees the memory for the phases to come
    return finite


class SharedMeans:
    """Makes running means independent of how a batch is split.

    Every part of the batch moves them from where they were before the phase; where a phase leaves them is the mean over
    its parts, which `average_parts` turns `sums` into.
    """

    def __init__(self, means: list[torch.Tensor]):
        self._means = means
        self._before = [mean.clone() for mean in means]
        self.sums = [torch.zeros_like(mean) for mean in means]

    def end_part(self) -> None:
        """Another part has passed through the networks."""
        for mean, before, total in zip(self._means, self._before, self.sums):
            total.add_(mean)
            mean.copy_(before)

    def end_phase(self, keep: bool) -> None:
        """Take over the mean over all parts, unless the old values are to be kept."""
        for mean, total in zip(self._means, self.sums):
            if not keep:
                mean.copy_(total)


@torch.no_grad()
def average_parts(sums: Sequence[torch.Tensor], num_gpus: int = 1, num_rounds: int = 1) -> bool:
    """Turn sums over the parts of a batch on this process into means over all parts, in place.

    Returns whether they are finite, which is the same on every process. On a GPU this waits for the phase to finish.
    """
    if not sums:
        return True
    if num_gpus > 1:
        sum_over_processes(sums)
    if num_gpus * num_rounds > 1:
        for total in sums:
            total.div_(num_gpus * num_rounds)
    return are_finite(sums)


def are_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Are all numbers finite? On the CPU their sum must be, too, which numbers near 1e38 make overflow."""
    if tensors[0].device.type == "cuda":
        return are_finite_at_once(tensors)
    return bool(torch.stack([tensor.sum() for tensor in tensors]).isfinite().all())


def are_finite_at_once(tensors: Sequence[torch.Tensor]) -> bool:
    """The same with a copy of all: a GPU makes it in less time than it takes to launch an operation for each tensor."""
    return bool(torch.cat([tensor.flatten() for tensor in tensors]).isfinite().all())


def sum_over_processes(tensors: Sequence[torch.Tensor]) -> None:
    """Replace every tensor by its sum over all processes, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))


def ema_decay(options: StepOptions, cur_nimg: int) -> float:
    """Weight of the old value in the moving average: one half after `ema_kimg` thousand images."""
    half_life = options.ema_kimg * 1000
    if options.ema_rampup is not None:
        half_life = min(half_life, cur_nimg * options.ema_rampup)
    return 0.5 ** (options.batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(G_ema: torch.nn.Module, G: torch.nn.Module, decay: float) -> None:
    """Move the parameters of `G_ema` towards those of `G`, and copy the buffers."""
    get_ema_multi_avg_fn(decay)(list(G_ema.parameters()), list(G.parameters()), None)
    for ema_buffer, buffer in zip(G_ema.buffers(), G.buffers()):
        ema_buffer.copy_(buffer)


def make_phases(
    G: torch.nn.Module,
    D: torch.nn.Module,
    G_opt_kwargs: Mapping[str, Any],
    D_opt_kwargs: Mapping[str, Any],
    G_reg_interval: int | None,  # steps between two regularisation phases; None: main and regularisation in one phase
    D_reg_interval: int | None,
    device: torch.device,
) -> list[Phase]:
    """Gmain, Greg, Dmain, Dreg, or Gboth and Dboth where an interval is None, with their optimizers.

    A lazy phase adds optimizer steps: with m = interval / (interval + 1), the learning rate lr * m and the decay rates
    beta ** m keep the speed and the memory per image what they would be without it (Karras et al. 2020, appendix B).
    """
    phases = []
    for name, module, opt_kwargs, interval in [
        ("G", G, G_opt_kwargs, G_reg_interval),
        ("D", D, D_opt_kwargs, D_reg_interval),
    ]:
        if interval is not None and interval < 1:
            raise UserError(f"{name}_reg_interval must be at least 1 or None, got {interval}")
        opt = make_optimizer(module, opt_kwargs, 1.0 if interval is None else interval / (interval + 1))
        intervals = {"both": 1} if interval is None else {"main": 1, "reg": interval}
        phases += [Phase(name + kind, module, opt, every, PhaseTimer(device)) for kind, every in intervals.items()]
    return phases


def make_optimizer(module: torch.nn.Module, opt_kwargs: Mapping[str, Any], ratio: float = 1.0) -> torch.optim.Optimizer:
    """The optimizer that `opt_kwargs` describes, with the learning rate times and the betas to the power of `ratio`.

    The fused implementation is used where this torch has one for the class and the device: the fastest one, on the
    CPU by a factor of three to five.
    """
    kwargs = dict(opt_kwargs)
    if "lr" in kwargs:
        kwargs["lr"] *= ratio
    if "betas" in kwargs:
        kwargs["betas"] = tuple(float(beta) ** ratio for beta in kwargs["betas"])  # Adam refuses ints next to floats
    params = list(module.parameters())
    if "fused" not in kwargs and "foreach" not in kwargs:
        try:
            return dnnlib.util.construct_class_by_name(params, fused=True, **kwargs)
        except (TypeError, RuntimeError):  # no such argument; not for this device
            pass
    return dnnlib.util.construct_class_by_name(params, **kwargs)


@torch.no_grad()
def share_weights(*modules: torch.nn.Module) -> None:
    """Give every process the parameters and buffers of rank 0."""
    for module in modules:
        for tensor in misc.params_and_buffers(module):
            values = tensor.detach().contiguous()
            torch.distributed.broadcast(values, src=0)
            tensor.copy_(values)
