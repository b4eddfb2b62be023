"""The training loop."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import os
import time
from collections.abc import Mapping
from typing import Any

import torch

import dnnlib
from torch_utils import half, misc, training_stats
from training.dataset import Dataset
from training.network_files import save_network_snapshot
from training.run import batches, construction, processes, run_state
from training.run.batches import DataError, TrainingData
from training.run.clock import RunClock
from training.run.live_line import LiveLine
from training.run.resuming import resume_networks
from training.run.run_options import RunOptions
from training.run.saving import BackgroundWriter, BestSnapshot, prune
from training.run.snapshot import (
    PreviewGrid,
    Sheet,
    network_snapshot,
    save_image_grid,
    save_sheet,
    setup_snapshot_image_grid,
)
from training.run.status import TickReporter
from training.run.step import TrainingState, seed_draws, share_weights, train_step
from training.run.stopping import StopSignals
from training.run.training_plot import draw_training_plot

__all__ = ["save_image_grid", "setup_snapshot_image_grid", "training_loop"]


def training_loop(*args: Any, **kwargs: Any) -> bool:
    """Train a generator and a discriminator; write snapshots and statistics to `run_dir`.

    The arguments are the fields of `training.run.run_options.RunOptions`. With several processes, `torch.distributed`
    and `training_stats` must be initialised, and every process calls this with its rank. Raises ValueError or OSError,
    before training begins, for what cannot be used.
    Returns whether training is complete, or was stopped by SIGTERM, SIGINT or `abort_fn` with its state saved.
    """
    start_time = time.time()
    options = RunOptions(*args, **kwargs)
    is_first = options.rank == 0
    construction.load_metrics(options.metrics, options.rank)
    device = construction.choose_device(options.device, options.rank)
    construction.configure_torch(options.random_seed, options.cudnn_benchmark, options.allow_tf32)
    obstacle = half.use_bf16(options.bf16, device)
    if obstacle is not None and is_first:
        print(obstacle)
    saved = processes.share(run_state.load_newest(options.run_dir) if options.resume_run and is_first else None)

    training_set = construction.load_training_set(options.training_set_kwargs, verbose=is_first)
    state = begin_state(options, training_set, device, saved)
    # Worker processes of the data loader take their seeds from here.
    seed_draws(options.random_seed, state.cur_nimg, 0, options.rank)
    data = TrainingData(
        training_set, options.step.local_batch, device, rank=options.rank, num_gpus=options.num_gpus,
        random_seed=options.random_seed, data_loader_kwargs=options.data_loader_kwargs, start=state.cur_nimg)
    preview = best = None
    sheets: list[Sheet] = []
    clock = RunClock(options.total_nimg, options.stop_after, options.snapshot_seconds, start_time)
    if is_first and options.image_snapshot_ticks is not None:
        preview = PreviewGrid(
            training_set, state.G.z_dim, device, options.batch_gpu, options.random_seed, options.preview_size)
        sheets = [dnnlib.util.construct_class_by_name(**kwargs) for kwargs in options.sheets]
    if is_first and options.keep_best:
        best = BestSnapshot(options.keep_best, options.run_dir, saved["best"] if saved else None)
    kept_report = saved["reporter"] if saved else None
    with (
        TickReporter(
            options.run_dir, device, options.rank, start_time, options.trackers, kept_report) as reporter,
        LiveLine(options.total_nimg, enabled=is_first, seconds_left=clock.seconds_left) as live,
        BackgroundWriter() as writer,
        StopSignals() as stop,
        batches.one_line_for_dead_workers(),
    ):
        run = Run(options, state, data, preview, sheets, best, reporter, live, writer, stop, clock)
        run.begin(saved)
        run.train()
        writer.wait()
    if is_first:
        duration = dnnlib.util.format_time(time.time() - start_time)
        print(f"\n{'Finished' if run.is_complete else 'Stopped'} at {state.cur_nimg / 1000:.1f} kimg after {duration}.")
    return run.is_complete


training_loop.__signature__ = inspect.signature(RunOptions)  # type: ignore[attr-defined]  # what help() shows


def begin_state(
    options: RunOptions, training_set: Dataset, device: torch.device, saved: Mapping[str, Any] | None
) -> TrainingState:
    """The state of a run before its next step: the one that was saved, or a new one."""
    state = construction.make_state(options, training_set, device)
    is_first = options.rank == 0
    if options.cuda_graphs and state.graphs is None and is_first:
        print("CUDA graphs need a GPU: training goes on without.")
    if saved is not None:
        run_state.restore(saved, state)
        return state
    start_networks(state, options)
    if is_first:
        construction.print_summaries(state.G, state.D, options.batch_gpu, device)
    return state


def start_networks(state: TrainingState, options: RunOptions) -> None:
    """Give the networks of all processes the weights of a file, or those that the first process has drawn."""
    networks = {"G": state.G, "D": state.D, "G_ema": state.G_ema}
    if options.resume_pkl is not None and options.rank == 0:
        print(f"Resuming from {options.resume_pkl}")
        resume_networks(options.resume_pkl, networks, options.trust_pickle, options.resume_partial)
    if options.num_gpus > 1:
        share_weights(*networks.values())


@dataclasses.dataclass
class Run:
    """A run on its way from its first step, or from a saved state, to its end."""

    options: RunOptions
    state: TrainingState
    data: TrainingData
    preview: PreviewGrid | None  # None in all processes but the first
    sheets: list[Sheet]          # none in all processes but the first
    best: BestSnapshot | None    # None in all processes but the first
    reporter: TickReporter
    live: LiveLine
    writer: BackgroundWriter
    stop: StopSignals
    clock: RunClock
    is_stopping: bool = False

    @property
    def is_complete(self) -> bool:
        return self.state.cur_nimg >= self.options.total_nimg

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
            self.complete_snapshot()
        self.say(f"Training for {self.options.total_kimg:g} kimg on {self.data.device} ...\n")
        if saved is None and self.preview is not None:
            self.preview.save_reals(self.options.path("reals.png"))
            self.preview.save_fakes(self.state.G_ema, self.options.path("fakes_init.png"))
        self.tell_progress()
        if saved is not None and saved["between_ticks"]:
            self.measure(saved["measured"])
            self.reporter.start_tick()

    def complete_snapshot(self) -> None:
        """Write the networks of the state that the run carries on from, if the run ended between the two files."""
        path = self.options.path(self.snapshot_name)
        state_path = run_state.state_path(self.options.run_dir, self.state.cur_nimg)
        if self.options.rank != 0 or is_newer(path, state_path):
            return
        state = self.state
        networks = network_snapshot(
            state.G, state.D, state.G_ema, state.augment_pipe, self.options.training_set_kwargs)
        self.writer.submit(functools.partial(write_networks, networks, path))

    def train(self) -> None:
        """Take steps until training is complete or somebody asks to stop."""
        while not (self.is_complete or self.is_stopping):
            try:
                train_step(self.state, self.data, self.options.step)
            except DataError:
                if self.options.num_gpus == 1:  # several processes would have to save together
                    self.save(between_ticks=False)
                raise
            self.live.update(self.state.cur_nimg)
            for line in self.clock.estimate(self.state.cur_nimg):
                self.say(line)
            by_clock = self.clock.counts_snapshots and processes.anywhere(self.clock.snapshot_is_due)
            if (self.is_complete or by_clock
                    or self.reporter.tick_is_due(self.state.cur_nimg, self.options.kimg_per_tick)):
                self.end_tick(by_clock)
            asked, over = processes.anywhere(self.stop.requested), processes.anywhere(self.clock.is_over)
            if (asked or over) and not (self.is_complete or self.is_stopping):
                self.is_stopping = True
                self.say("Stopping, as a signal asked ..." if asked else "Stopping, since the time is over ...")
                self.stop_between_ticks()

    def stop_between_ticks(self) -> None:
        """Save everything, then show what there is: whoever stops a run wants to see how far it came."""
        self.save(between_ticks=False)
        self.save_pictures()
        if self.options.rank == 0 and self.reporter.tick > 0:
            self.writer.submit(functools.partial(draw, self.options.run_dir))

    def save_pictures(self) -> None:
        """Write what the generator makes now: the preview, and the sheets of plugins."""
        if self.preview is None:
            return
        nimg = self.state.cur_nimg
        self.preview.save_fakes(self.state.G_ema, self.options.path(f"fakes{nimg // 1000:06d}.png"))
        for sheet in self.sheets:
            image = sheet.draw(self.state.G_ema)
            save_sheet(image, self.options.path(f"{sheet.name}{nimg // 1000:06d}.png"))
            self.reporter.write_image(sheet.name, image, nimg)

    def end_tick(self, by_clock: bool) -> None:
        """Report a tick, and write what is due.

        by_clock: the clock says that a snapshot is due. Where it decides, the number of ticks does not.
        """
        self.live.clear()
        self.writer.check()
        tick = self.reporter.end_tick(self.state)
        if not self.is_complete and self.options.abort_fn is not None and processes.anywhere(self.options.abort_fn()):
            self.is_stopping = True
            self.say("Stopping early, as asked ...")
        is_last = self.is_complete or self.is_stopping
        if self.is_due(self.options.image_snapshot_ticks, tick, is_last, by_clock):
            self.save_pictures()
        self.reporter.write_stats(self.state.cur_nimg)
        if self.is_due(self.options.network_snapshot_ticks, tick, is_last, by_clock):
            self.save(between_ticks=True)
            self.measure({})
            self.clock.snapshot_taken()
        self.tell_progress()
        self.reporter.start_tick()
        self.live.resume(self.state.cur_nimg)

    def is_due(self, interval: int | None, tick: int, is_last: bool, by_clock: bool) -> bool:
        """Is it time to save, by the number of ticks or by the clock, whichever decides? Never with None."""
        if self.clock.counts_snapshots:
            return interval is not None and (is_last or by_clock)
        return is_due(interval, tick, is_last)

    def tell_progress(self) -> None:
        if self.options.progress_fn is not None:
            self.options.progress_fn(self.state.cur_nimg // 1000, self.options.total_kimg)

    def save(self, between_ticks: bool) -> None:
        """Copy the networks and the state; they are written while training goes on.

        between_ticks: a tick has ended and its metrics are yet to come; otherwise a tick is under way.
        """
        state, options = self.state, self.options
        self.writer.wait()  # one copy in memory at a time
        training_stats.synchronise()
        if options.num_gpus > 1:
            for module in (state.G, state.D, state.G_ema):
                misc.check_ddp_consistency(module)
        if options.rank != 0:
            return
        networks = network_snapshot(state.G, state.D, state.G_ema, state.augment_pipe, options.training_set_kwargs)
        saved = dict(
            run_state.capture(state, networks), between_ticks=between_ticks, reporter=self.reporter.state_dict(),
            files=run_state.file_sizes(options.run_dir), best=self.best.record if self.best is not None else None)
        network_path = options.path(self.snapshot_name)
        self.writer.submit(functools.partial(write_snapshot, networks, network_path, saved, options.keep))

    def measure(self, measured: Mapping[str, Mapping[str, float]]) -> None:
        """Compute the metrics of the current networks, but for those that are `measured`, and draw how the run went."""
        results: dict[str, float] = {}
        for metric in self.options.metrics:
            values = measured[metric] if metric in measured else self.calc_metric(metric)
            results |= values
            if self.best is not None and self.best.metric == metric:
                self.best.update(self.snapshot_name, values)
        self.reporter.write_metrics(self.state.cur_nimg, results)
        if self.options.rank == 0:
            self.writer.submit(functools.partial(draw, self.options.run_dir))

    def calc_metric(self, metric: str) -> dict[str, float]:
        """Compute a metric and report it in the run folder. Returns result key -> value."""
        from metrics import metric_main  # takes seconds, which a run without metrics saves

        result = metric_main.calc_metric(
            metric=metric, G=copy.deepcopy(self.state.G_ema),  # a metric may change the network
            dataset_kwargs=dict(self.options.training_set_kwargs), num_gpus=self.options.num_gpus,
            rank=self.options.rank, device=self.data.device, outdir=self.options.run_dir)
        if self.options.rank == 0:
            metric_main.report_metric(result, self.options.run_dir, self.options.path(self.snapshot_name))
        return dict(result.results)


def is_due(interval: int | None, tick: int, is_last: bool) -> bool:
    """Is it time for something that happens at every `interval`-th tick and at the end? Never with None."""
    return interval is not None and (is_last or tick % interval == 0)


def write_snapshot(
    networks: Mapping[str, Any], network_path: str, saved: Mapping[str, Any], keep: int | None
) -> None:
    """Write state and networks, then remove what is not to be kept: a full disk leaves the former state.

    The state comes first: it holds all that the networks do, so that a run which is killed in between carries on from
    there, and writes them when it does.
    """
    run_dir = os.path.dirname(network_path)
    run_state.save(saved, run_state.state_path(run_dir, saved["cur_nimg"]))
    write_networks(networks, network_path)
    prune(run_dir, keep, saved["best"]["snapshot"] if saved["best"] is not None else None)


def write_networks(networks: Mapping[str, Any], path: str) -> None:
    with dnnlib.util.naming(path):
        save_network_snapshot(networks, path)


def is_newer(path: str, other: str) -> bool:
    """Was the file written after the other? False where it is missing."""
    return os.path.exists(path) and os.path.getmtime(path) >= os.path.getmtime(other)


def draw(run_dir: str) -> None:
    """Draw training.png. That it cannot be drawn is no reason to end a run."""
    try:
        draw_training_plot(run_dir)
    except Exception as err:
        print(f"training.png was not drawn: {type(err).__name__}: {err}")
