"""The training loop."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import dnnlib
from torch_utils import misc, training_stats
from training.network_files import save_network_snapshot
from training.run import batches, construction, processes, run_state
from training.run.batches import DataError, TrainingData
from training.run.live_line import LiveLine
from training.run.saving import BackgroundWriter, BestSnapshot, prune
from training.run.snapshot import (
    PreviewGrid,
    network_snapshot,
    resume_networks,
    save_image_grid,
    setup_snapshot_image_grid,
)
from training.run.status import TickReporter
from training.run.step import StepOptions, TrainingState, seed_draws, share_weights, train_step
from training.run.stopping import StopSignals
from training.run.training_plot import draw_training_plot

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
    resume_run: bool = False,                        # carry on from the newest state in run_dir, if there is one
    keep: int | None = None,                         # newest network snapshots to keep; None: all
    keep_best: str | None = None,                    # metric whose best snapshot is kept, too
    cuda_graphs: bool = False,                       # capture phases as CUDA graphs and replay them
    trackers: Sequence[str] = (),                    # of `training.run.trackers`, beside TensorBoard
) -> bool:
    """Train a generator and a discriminator; write snapshots and statistics to `run_dir`.

    With several processes, `torch.distributed` and `training_stats` must be initialised, and every process calls this
    with its rank. Raises ValueError or OSError, before training begins, for what cannot be used.
    Returns whether training is complete, or was stopped by SIGTERM, SIGINT or `abort_fn` with its state saved.
    """
    start_time = time.time()
    options = StepOptions(batch_size, batch_gpu, num_gpus, rank, random_seed, ema_kimg, ema_rampup)
    metric_main = construction.load_metrics(metrics, rank)
    device = construction.choose_device(device, rank)
    construction.configure_torch(random_seed, cudnn_benchmark, allow_tf32)
    saved = processes.share(run_state.load_newest(run_dir) if resume_run and rank == 0 else None)

    training_set = construction.load_training_set(training_set_kwargs, verbose=(rank == 0))
    state = construction.make_state(
        training_set, device, G_kwargs, D_kwargs, G_opt_kwargs, D_opt_kwargs, loss_kwargs, batch_size, augment_kwargs,
        augment_p, ada_target, ada_interval, ada_kimg, G_reg_interval, D_reg_interval, cuda_graphs)
    if cuda_graphs and state.graphs is None and rank == 0:
        print("CUDA graphs need a GPU: training goes on without.")
    if saved is not None:
        run_state.restore(saved, state)
    else:
        start_networks(state, resume_pkl, trust_pickle, options)
        if rank == 0:
            construction.print_summaries(state.G, state.D, batch_gpu, device)

    seed_draws(random_seed, state.cur_nimg, 0, rank)  # worker processes of the data loader take their seeds from here
    data = TrainingData(training_set, options.local_batch, device, rank, num_gpus, random_seed, data_loader_kwargs,
                        start=state.cur_nimg)
    plan = Plan(run_dir, training_set_kwargs, metrics, total_kimg, kimg_per_tick, image_snapshot_ticks,
                network_snapshot_ticks, keep, abort_fn, progress_fn)
    preview = None
    if rank == 0 and image_snapshot_ticks is not None:
        preview = PreviewGrid(training_set, state.G.z_dim, device, batch_gpu, random_seed, preview_size)
    best = BestSnapshot(keep_best, run_dir, saved["best"] if saved else None) if keep_best and rank == 0 else None
    with (
        TickReporter(run_dir, device, rank, start_time, trackers, saved["reporter"] if saved else None) as reporter,
        LiveLine(plan.total_nimg, enabled=(rank == 0)) as live,
        BackgroundWriter() as writer,
        StopSignals() as stop,
        batches.named_worker_loss(),
    ):
        run = Run(plan, state, data, options, metric_main, preview, best, reporter, live, writer, stop)
        run.begin(saved)
        run.train()
        writer.wait()
    if rank == 0:
        duration = dnnlib.util.format_time(time.time() - start_time)
        print(f"\n{'Finished' if run.is_complete else 'Stopped'} at {state.cur_nimg / 1000:.1f} kimg after {duration}.")
    return run.is_complete


def start_networks(state: TrainingState, resume_pkl: str | None, trust: bool, options: StepOptions) -> None:
    """Give the networks of all processes the weights of a file, or those that the first process has drawn."""
    networks = {"G": state.G, "D": state.D, "G_ema": state.G_ema}
    if resume_pkl is not None and options.rank == 0:
        print(f"Resuming from {resume_pkl}")
        resume_networks(resume_pkl, networks, trust=trust)
    if options.num_gpus > 1:
        share_weights(*networks.values())


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run takes, what it writes, and when."""

    run_dir: str
    training_set_kwargs: Mapping[str, Any]
    metrics: Sequence[str]
    total_kimg: float
    kimg_per_tick: float
    image_snapshot_ticks: int | None
    network_snapshot_ticks: int | None
    keep: int | None
    abort_fn: Callable[[], bool] | None
    progress_fn: Callable[[int, float], None] | None

    @property
    def total_nimg(self) -> int:
        return int(self.total_kimg * 1000)

    def path(self, name: str) -> str:
        """A file in the run folder."""
        return os.path.join(self.run_dir, name)


@dataclasses.dataclass
class Run:
    """A run on its way from its first step, or from a saved state, to its end."""

    plan: Plan
    state: TrainingState
    data: TrainingData
    options: StepOptions
    metric_main: Any             # the module `metrics.metric_main`
    preview: PreviewGrid | None  # None on other processes than the first
    best: BestSnapshot | None    # likewise
    reporter: TickReporter
    live: LiveLine
    writer: BackgroundWriter
    stop: StopSignals
    is_stopping: bool = False

    @property
    def is_complete(self) -> bool:
        return self.state.cur_nimg >= self.plan.total_nimg

    @property
    def snapshot_name(self) -> str:
        """File of the current networks."""
        return f"network-snapshot-{self.state.cur_nimg // 1000:06d}.pkl"

    def say(self, text: str) -> None:
        """Print, once for all processes."""
        if self.options.rank == 0:
            self.live.clear()
            print(text)

    def begin(self, saved: Mapping[str, Any] | None) -> None:
        """Show what there is before the first step, or finish what was under way when a state was saved."""
        if saved is not None:
            self.say(f"Carrying on from {self.state.cur_nimg / 1000:.1f} kimg.")
        self.say(f"Training for {self.plan.total_kimg:g} kimg on {self.data.device} ...\n")
        if saved is None and self.preview is not None:
            self.preview.save_reals(self.plan.path("reals.png"))
            self.preview.save_fakes(self.state.G_ema, self.plan.path("fakes_init.png"))
        self.tell_progress()
        if saved is not None and saved["between_ticks"]:
            self.measure(saved["measured"])
            self.reporter.start_tick()

    def train(self) -> None:
        """Take steps until training is complete or somebody asks to stop."""
        while not (self.is_complete or self.is_stopping):
            try:
                train_step(self.state, self.data, self.options)
            except DataError:
                if self.options.num_gpus == 1:  # several processes would have to save together
                    self.save(between_ticks=False)
                raise
            self.live.update(self.state.cur_nimg)
            if self.is_complete or self.reporter.tick_is_due(self.state.cur_nimg, self.plan.kimg_per_tick):
                self.end_tick()
            if processes.anywhere(self.stop.requested) and not (self.is_complete or self.is_stopping):
                self.is_stopping = True
                self.say("Stopping, as a signal asked ...")
                self.save(between_ticks=False)

    def end_tick(self) -> None:
        """Report a tick, and write what is due."""
        self.live.clear()
        self.writer.check()
        tick = self.reporter.end_tick(self.state)
        if not self.is_complete and self.plan.abort_fn is not None and processes.anywhere(self.plan.abort_fn()):
            self.is_stopping = True
            self.say("Stopping early, as asked ...")
        is_last = self.is_complete or self.is_stopping
        if self.preview is not None and is_due(self.plan.image_snapshot_ticks, tick, is_last):
            self.preview.save_fakes(self.state.G_ema, self.plan.path(f"fakes{self.state.cur_nimg // 1000:06d}.png"))
        self.reporter.write_stats(self.state.cur_nimg)
        if is_due(self.plan.network_snapshot_ticks, tick, is_last):
            self.save(between_ticks=True)
            self.measure({})
        self.tell_progress()
        self.reporter.start_tick()
        self.live.resume(self.state.cur_nimg)

    def tell_progress(self) -> None:
        if self.plan.progress_fn is not None:
            self.plan.progress_fn(self.state.cur_nimg // 1000, self.plan.total_kimg)

    def save(self, between_ticks: bool) -> None:
        """Copy the networks and the state; they are written while training goes on.

        between_ticks: a tick has ended and its metrics are yet to come; otherwise a tick is under way.
        """
        state, plan = self.state, self.plan
        self.writer.wait()  # one copy in memory at a time
        training_stats.synchronise()
        if self.options.num_gpus > 1:
            for module in (state.G, state.D, state.G_ema):
                misc.check_ddp_consistency(module)
        if self.options.rank != 0:
            return
        networks = network_snapshot(state.G, state.D, state.G_ema, state.augment_pipe, plan.training_set_kwargs)
        saved = dict(
            run_state.capture(state, networks), between_ticks=between_ticks, reporter=self.reporter.state_dict(),
            files=run_state.file_sizes(plan.run_dir), best=self.best.record if self.best is not None else None)
        network_path = plan.path(self.snapshot_name)
        self.writer.submit(functools.partial(write_snapshot, networks, network_path, saved, plan.keep))

    def measure(self, measured: Mapping[str, Mapping[str, float]]) -> None:
        """Compute the metrics of the current networks, but for those that are `measured`, and draw how the run went."""
        results: dict[str, float] = {}
        for metric in self.plan.metrics:
            values = measured[metric] if metric in measured else self.calc_metric(metric)
            results |= values
            if self.best is not None and self.best.metric == metric:
                self.best.update(self.snapshot_name, values)
        self.reporter.write_metrics(self.state.cur_nimg, results)
        if self.options.rank == 0:
            self.writer.submit(functools.partial(draw, self.plan.run_dir))

    def calc_metric(self, metric: str) -> dict[str, float]:
        """Compute a metric and report it in the run folder. Returns result key -> value."""
        result = self.metric_main.calc_metric(
            metric=metric, G=copy.deepcopy(self.state.G_ema),  # a metric may change the network
            dataset_kwargs=dict(self.plan.training_set_kwargs), num_gpus=self.options.num_gpus, rank=self.options.rank,
            device=self.data.device, outdir=self.plan.run_dir)
        if self.options.rank == 0:
            self.metric_main.report_metric(result, self.plan.run_dir, self.plan.path(self.snapshot_name))
        return dict(result.results)


def is_due(interval: int | None, tick: int, is_last: bool) -> bool:
    """Is it time for something that happens at every `interval`-th tick and at the end? Never with None."""
    return interval is not None and (is_last or tick % interval == 0)


def write_snapshot(
    networks: Mapping[str, Any], network_path: str, saved: Mapping[str, Any], keep: int | None
) -> None:
    """Write networks and state, then remove what is not to be kept: a full disk leaves the former state."""
    run_dir = os.path.dirname(network_path)
    with dnnlib.util.naming(network_path):
        save_network_snapshot(networks, network_path)
    run_state.save(saved, run_state.state_path(run_dir, saved["cur_nimg"]))
    prune(run_dir, keep, saved["best"]["snapshot"] if saved["best"] is not None else None)


def draw(run_dir: str) -> None:
    """Draw training.png. That it cannot be drawn is no reason to end a run."""
    try:
        draw_training_plot(run_dir)
    except Exception as err:
        print(f"training.png was not drawn: {type(err).__name__}: {err}")
