"""The training loop."""

from __future__ import annotations

import copy
import os
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import dnnlib
from torch_utils import misc
from training import construction
from training.batches import TrainingData
from training.live_line import LiveLine
from training.snapshot import (
    PreviewGrid,
    network_snapshot,
    resume_networks,
    save_image_grid,
    save_network_snapshot,
    setup_snapshot_image_grid,
)
from training.status import TickReporter
from training.step import (
    AdaController,
    StepOptions,
    TrainingState,
    make_phases,
    share_weights,
    train_step,
)

__all__ = ["save_image_grid", "setup_snapshot_image_grid", "training_loop"]

EMPTY: Mapping[str, Any] = types.MappingProxyType({})


def training_loop(
    run_dir: str = ".",                              # existing folder for all files
    training_set_kwargs: Mapping[str, Any] = EMPTY,  # `class_name` and its arguments, as in most *_kwargs
    data_loader_kwargs: Mapping[str, Any] = EMPTY,   # for torch.utils.data.DataLoader
    G_kwargs: Mapping[str, Any] = EMPTY,
    D_kwargs: Mapping[str, Any] = EMPTY,
    G_opt_kwargs: Mapping[str, Any] = EMPTY,
    D_opt_kwargs: Mapping[str, Any] = EMPTY,
    augment_kwargs: Mapping[str, Any] | None = None,  # None: no augmentation
    loss_kwargs: Mapping[str, Any] = EMPTY,
    metrics: Sequence[str] = (),                     # computed for every network snapshot
    random_seed: int = 0,
    num_gpus: int = 1,                               # number of processes
    rank: int = 0,                                   # which of them this is
    batch_size: int = 4,                             # images per step, all processes together
    batch_gpu: int = 4,                              # images that one process handles at a time
    ema_kimg: float = 10,                            # half-life of the generator's moving average
    ema_rampup: float | None = None,                 # limits it to this fraction of the images so far; None: no limit
    G_reg_interval: int | None = 4,                  # steps between path length phases; None: part of the main phase
    D_reg_interval: int | None = 16,                 # steps between R1 phases; None: part of the main phase
    augment_p: float = 0,                            # strength of the augmentation, at first
    ada_target: float | None = None,                 # of the adaptive strength; None: the strength stays
    ada_interval: int = 4,                           # steps between two changes of the strength
    ada_kimg: float = 500,                           # thousands of images in which it may go from 0 to 1
    total_kimg: float = 25000,
    kimg_per_tick: float = 4,
    image_snapshot_ticks: int | None = 50,           # None: no images
    network_snapshot_ticks: int | None = 50,         # None: no networks
    resume_pkl: str | None = None,                   # network pickle, path or URL, to start from
    cudnn_benchmark: bool = True,
    allow_tf32: bool = False,
    abort_fn: Callable[[], bool] | None = None,      # asked once per tick whether to stop
    progress_fn: Callable[[int, float], None] | None = None,  # told (kimg, total_kimg) at the start and once per tick
    device: torch.device | str | None = None,        # None: the GPU numbered as the rank, or the CPU if there is none
    preview_size: Sequence[int] | None = None,       # at most so many columns and rows of images; None: 32x32 or 8K
    trust_pickle: bool = False,                      # let resume_pkl run the code that it brings along
) -> None:
    """Train a generator and a discriminator; write snapshots and statistics to `run_dir`.

    With several processes, `torch.distributed` and `training_stats` must be initialised, and every process calls this
    with its rank. Raises ValueError or OSError, before training begins, for what cannot be used.
    """
    start_time = time.time()
    options = StepOptions(batch_size, batch_gpu, num_gpus, rank, random_seed, ema_kimg, ema_rampup)
    metric_main = construction.load_metrics(metrics, rank)
    device = construction.choose_device(device, rank)
    construction.configure_torch(random_seed * num_gpus + rank, cudnn_benchmark, allow_tf32)

    training_set = construction.load_training_set(training_set_kwargs, verbose=(rank == 0))
    G, D, G_ema = construction.build_networks(training_set, G_kwargs, D_kwargs, device)
    if resume_pkl is not None and rank == 0:
        print(f"Resuming from {resume_pkl}")
        resume_networks(resume_pkl, {"G": G, "D": D, "G_ema": G_ema}, trust=trust_pickle)
    if num_gpus > 1:
        share_weights(G, D, G_ema)
    augment_pipe = construction.build_augment_pipe(augment_kwargs, augment_p, ada_target, device)
    ada = None
    if augment_pipe is not None and ada_target is not None:
        ada = AdaController(augment_pipe, ada_target, batch_size, ada_interval, ada_kimg)
    loss = dnnlib.util.construct_class_by_name(
        device=device, G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, augment_pipe=augment_pipe, **loss_kwargs)
    phases = make_phases(G, D, G_opt_kwargs, D_opt_kwargs, G_reg_interval, D_reg_interval, device)
    state = TrainingState(G, D, G_ema, augment_pipe, loss, phases, ada)

    preview = None
    if rank == 0:
        construction.print_summaries(G, D, batch_gpu, device)
        if image_snapshot_ticks is not None:
            preview = PreviewGrid(training_set, G.z_dim, device, batch_gpu, random_seed, preview_size)
            preview.save_reals(os.path.join(run_dir, "reals.png"))
            preview.save_fakes(G_ema, os.path.join(run_dir, "fakes_init.png"))
    data = TrainingData(training_set, options.local_batch, device, rank, num_gpus, random_seed, data_loader_kwargs)
    if progress_fn is not None:
        progress_fn(0, total_kimg)
    if rank == 0:
        print(f"Training for {total_kimg:g} kimg on {device} ...\n")
    total_nimg = int(total_kimg * 1000)
    done = False
    with (
        TickReporter(run_dir, device, rank, start_time) as reporter,
        LiveLine(total_nimg, enabled=(rank == 0)) as live,
    ):
        while not done:
            train_step(state, data, options)
            live.update(state.cur_nimg)
            done = state.cur_nimg >= total_nimg
            if not done and not reporter.tick_is_due(state.cur_nimg, kimg_per_tick):
                continue

            live.clear()
            reporter.end_tick(state)
            if not done and abort_fn is not None and abort_fn():
                done = True
                if rank == 0:
                    print("Stopping early, as asked ...")
            kimg = state.cur_nimg // 1000
            if preview is not None and is_due(image_snapshot_ticks, reporter.tick, done):
                preview.save_fakes(G_ema, os.path.join(run_dir, f"fakes{kimg:06d}.png"))
            results = {}
            if is_due(network_snapshot_ticks, reporter.tick, done):
                fname = os.path.join(run_dir, f"network-snapshot-{kimg:06d}.pkl")
                save_networks(state, fname, training_set_kwargs, options)
                results = measure(metrics, metric_main, G_ema, fname, training_set_kwargs, options, device)
            reporter.write_stats(state.cur_nimg, results)
            if progress_fn is not None:
                progress_fn(kimg, total_kimg)
            reporter.start_tick(state.cur_nimg)
            live.resume(state.cur_nimg)
    if rank == 0:
        duration = dnnlib.util.format_time(time.time() - start_time)
        print(f"\nFinished at {state.cur_nimg / 1000:.1f} kimg after {duration}.")


def is_due(interval: int | None, tick: int, done: bool) -> bool:
    """Is it time for something that happens at every `interval`-th tick and at the end? Never with None."""
    return interval is not None and (done or tick % interval == 0)


def save_networks(
    state: TrainingState, fname: str, training_set_kwargs: Mapping[str, Any], options: StepOptions
) -> None:
    """Write the network pickle, after a check that all processes hold the same networks."""
    if options.num_gpus > 1:
        for module in (state.G, state.D, state.G_ema):
            # Each process averages the styles of its own latents.
            misc.check_ddp_consistency(module, ignore_regex=r".*\.w_avg")
    if options.rank == 0:
        networks = network_snapshot(state.G, state.D, state.G_ema, state.augment_pipe, training_set_kwargs)
        save_network_snapshot(networks, fname)


def measure(
    metrics: Sequence[str],
    metric_main: Any,                          # the module `metrics.metric_main`
    G_ema: torch.nn.Module,
    snapshot_pkl: str,                         # named in the reports
    training_set_kwargs: Mapping[str, Any],
    options: StepOptions,
    device: torch.device,
) -> dict[str, float]:
    """Compute the metrics of a snapshot and report them beside it. Returns result key -> value."""
    results: dict[str, float] = {}
    for metric in metrics:
        G = copy.deepcopy(G_ema)  # a metric may change the network
        result = metric_main.calc_metric(
            metric=metric, G=G, dataset_kwargs=dict(training_set_kwargs), num_gpus=options.num_gpus,
            rank=options.rank, device=device)
        if options.rank == 0:
            metric_main.report_metric(result, run_dir=os.path.dirname(snapshot_pkl), snapshot_pkl=snapshot_pkl)
        results.update(result.results)
    return results
