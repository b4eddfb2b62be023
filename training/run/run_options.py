"""What a run is told: the arguments of `training.training_loop.training_loop`, and those of them that a step needs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dnnlib.util import UserError

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What stays the same in every step."""

    batch_size: int = 4              # images per step, all processes together
    batch_gpu: int = 4               # images of a part: one process handles them at a time
    num_gpus: int = 1                # number of processes
    rank: int = 0                    # which of them this is
    random_seed: int = 0
    ema_kimg: float = 10             # half-life of the moving average of the generator, in thousands of images
    ema_rampup: float | None = None  # limits the half-life to this fraction of the images seen so far

    def __post_init__(self):
        if self.batch_gpu < 1 or self.num_gpus < 1:
            raise UserError(f"batch_gpu and num_gpus must be at least 1, got {self.batch_gpu} and {self.num_gpus}")
        if self.batch_size < 1 or self.batch_size % (self.batch_gpu * self.num_gpus) != 0:
            raise UserError(f"batch_size must be a multiple of batch_gpu * num_gpus = {self.batch_gpu} * "
                            f"{self.num_gpus}, got {self.batch_size}")

    @property
    def local_batch(self) -> int:
        """Images per step on this process."""
        return self.batch_size // self.num_gpus

    @property
    def num_rounds(self) -> int:
        """Parts of a batch that this process handles, one after the other."""
        return self.local_batch // self.batch_gpu


def none() -> Any:
    """The default of a field that holds keyword arguments."""
    return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The arguments of the training loop in the order of its signature; the run folder keeps them as JSON.

    Raises UserError where the number of images in a step cannot be split as told.
    """

    run_dir: str = "."                               # existing folder for all files
    training_set_kwargs: Mapping[str, Any] = none()  # `class_name` and its arguments, as in most *_kwargs
    data_loader_kwargs: Mapping[str, Any] = none()   # for torch.utils.data.DataLoader
    G_kwargs: Mapping[str, Any] = none()
    D_kwargs: Mapping[str, Any] = none()
    G_opt_kwargs: Mapping[str, Any] = none()
    D_opt_kwargs: Mapping[str, Any] = none()
    augment_kwargs: Mapping[str, Any] | None = None  # None: no augmentation
    loss_kwargs: Mapping[str, Any] = none()
    metrics: Sequence[str] = ()                      # computed for every network snapshot
    random_seed: int = 0
    num_gpus: int = 1                                # number of processes
    rank: int = 0                                    # which of them this is
    batch_size: int = 4                              # images per step, all processes together
    batch_gpu: int = 4                               # images that one process handles at a time
    ema_kimg: float = 10                             # half-life of the generator's moving average
    ema_rampup: float | None = None                  # limits it to this fraction of the images so far; None: no limit
    G_reg_interval: int | None = 4                   # steps between path length phases; None: part of the main phase
    D_reg_interval: int | None = 16                  # steps between R1 phases; None: part of the main phase
    augment_p: float = 0                             # initial strength of the augmentation
    ada_target: float | None = None                  # what the strength adapts to; None: the strength stays
    ada_interval: int = 4                            # steps between two changes of the strength
    ada_kimg: float = 500                            # thousands of images in which it may go from 0 to 1
    total_kimg: float = 25000
    kimg_per_tick: float = 4
    image_snapshot_ticks: int | None = 50            # None: no images
    network_snapshot_ticks: int | None = 50          # None: no networks
    resume_pkl: str | None = None                    # network file, path or URL, to start from
    cudnn_benchmark: bool = True
    allow_tf32: bool = False
    abort_fn: Callable[[], bool] | None = None       # asked once per tick whether to stop
    progress_fn: Callable[[int, float], None] | None = None  # told (kimg, total_kimg) at the start and once per tick
    device: torch.device | str | None = None         # None: the GPU numbered as the rank, or the CPU if there is none
    preview_size: Sequence[int] | None = None        # most columns and rows of the preview; None: 32x32 or 8K
    trust_pickle: bool = False                       # let resume_pkl run the code that it carries
    resume_run: bool = False                         # carry on from the newest state in run_dir, if there is one
    keep: int | None = None                          # newest network snapshots to keep; None: all
    keep_best: str | None = None                     # metric whose best snapshot is kept, too
    cuda_graphs: bool = False                        # capture phases as CUDA graphs and replay them
    checkpoint_activations: bool = False             # compute activations again for the backward pass
    bf16: bool = False                               # half precision on a CPU with the instructions for it
    trackers: Sequence[str] = ()                     # of `training.run.trackers`, beside TensorBoard
    resume_partial: bool = False                     # take from resume_pkl what fits, though not everything does
    stop_after: float | None = None                  # seconds after which this call stops and saves; None: never
    snapshot_seconds: float | None = None            # between snapshots, in the place of ticks; None: ticks count
    sheets: Sequence[Mapping[str, Any]] = ()         # further pictures for every snapshot: `class_name` and arguments
    compile: bool = False                            # compile phases without second derivatives with torch.compile

    step: StepOptions = dataclasses.field(init=False)  # those that a step needs

    def __post_init__(self) -> None:
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(StepOptions)}
        object.__setattr__(self, "step", StepOptions(**shared))

    @property
    def total_nimg(self) -> int:
        """Length of the training in images."""
        return int(self.total_kimg * 1000)

    def path(self, name: str) -> str:
        """A file in the run folder."""
        return os.path.join(self.run_dir, name)
