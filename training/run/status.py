"""What a run tells about itself at every tick: a line on the console, `stats.jsonl`, and what trackers take."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import torch

import dnnlib
from torch_utils import training_stats
from training.run.step import TrainingState
from training.run.trackers import close_trackers, open_trackers

GIB = 2**30

TICK_LINE: list[tuple[str, str, Callable[[float], str], int]] = [
    # label, statistic, how to write it, characters to keep free for it
    ("tick", "Progress/tick", "{:.0f}".format, 4),
    ("kimg", "Progress/kimg", "{:.1f}".format, 7),
    ("time", "Timing/total_sec", dnnlib.util.format_time, 10),
    ("sec/tick", "Timing/sec_per_tick", "{:.1f}".format, 6),
    ("sec/kimg", "Timing/sec_per_kimg", "{:.2f}".format, 6),
    ("maintenance", "Timing/maintenance_sec", "{:.1f}".format, 5),
    ("cpumem", "Resources/cpu_mem_gb", "{:.2f}".format, 5),
    ("gpumem", "Resources/peak_gpu_mem_gb", "{:.2f}".format, 5),
    ("augment", "Progress/augment", "{:.3f}".format, 5),
]


def format_tick(values: Mapping[str, float]) -> str:
    """The console line of a tick, from statistic -> value."""
    fields = [f"{label} {write(values[name]).ljust(width)}" for label, name, write, width in TICK_LINE]
    return "  ".join(fields).rstrip()


class TickReporter:
    """Keeps the time of the ticks, and reports each on the console and to the files of the run folder.

    All processes call every method, since statistics are summed over them; only rank 0 prints and writes. Use it in a
    `with` statement, or call `close()`, so that the trackers are complete.
    """

    def __init__(
        self,
        run_dir: str,
        device: torch.device,
        rank: int = 0,
        start_time: float | None = None,        # of this process's work on the run; None: now
        trackers: Sequence[str] = (),           # of `training.run.trackers`, beside TensorBoard
        saved: Mapping[str, Any] | None = None,  # a `state_dict` to go on from
    ):
        self.tick = 0                           # number of the current or next tick
        self._run_dir = run_dir
        self._device = device
        self._is_first = rank == 0
        self._stats = training_stats.Collector(regex=".*")
        self._trackers = open_trackers(run_dir, trackers) if self._is_first else []
        self._tick_time = time.time()           # when the current tick began; between two, when the former ended
        self._tick_nimg = 0
        self._start_time = self._tick_time if start_time is None else start_time
        self._maintenance = self._tick_time - self._start_time  # seconds before this tick in which no step was taken
        if saved is not None:
            self._load(saved)

    def __enter__(self) -> TickReporter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what the trackers write."""
        close_trackers(self._trackers)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the current tick. All call `training_stats.synchronise` before."""
        now = time.time()
        return dict(
            tick=self.tick, tick_nimg=self._tick_nimg, tick_sec=now - self._tick_time, total_sec=now - self._start_time,
            maintenance_sec=self._maintenance, stats=self._stats.state_dict())

    def _load(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; the time between does not count, that of this process so far does."""
        self.tick, self._tick_nimg = saved["tick"], saved["tick_nimg"]
        self._tick_time -= saved["tick_sec"]
        self._start_time -= saved["total_sec"]
        self._maintenance += saved["maintenance_sec"]
        self._stats.load_state_dict(saved["stats"])

    def tick_is_due(self, nimg: int, kimg_per_tick: float) -> bool:
        """The first tick ends with the first step, later ones every `kimg_per_tick` thousand images."""
        return self.tick == 0 or nimg - self._tick_nimg >= kimg_per_tick * 1000

    def end_tick(self, state: TrainingState) -> int:
        """Report progress, times and resources as statistics, and print them as one line. Returns the tick's number."""
        now = time.time()
        total, seconds = now - self._start_time, now - self._tick_time
        kimg, tick_kimg = state.cur_nimg / 1000, (state.cur_nimg - self._tick_nimg) / 1000
        values = {
            "Progress/tick": self.tick,
            "Progress/kimg": kimg,
            "Progress/augment": augment_strength(state),
            "Progress/skipped_steps": state.skipped_steps,
            "Timing/sec_per_tick": seconds,
            "Timing/sec_per_kimg": seconds / tick_kimg,
            "Timing/maintenance_sec": self._maintenance,
            "Timing/total_sec": total,
            "Timing/total_hours": total / 3600,
            "Timing/total_days": total / 86400,
            "Resources/cpu_mem_gb": psutil.Process().memory_info().rss / GIB,
            "Resources/peak_gpu_mem_gb": take_peak_gpu_memory(self._device) / GIB,
        }
        for name, value in values.items():
            training_stats.report0(name, value)
        for phase in state.phases:
            training_stats.report0(f"Timing/{phase.name}", phase.timer.take_milliseconds())
        if self._is_first:
            print(format_tick(values))
        self.tick += 1
        self._tick_time, self._tick_nimg, self._maintenance = now, state.cur_nimg, 0
        return self.tick - 1

    def write_stats(self, nimg: int) -> None:
        """Append everything reported since the previous tick to the files."""
        self._stats.update()
        if not self._is_first:
            return
        stats = self._stats.as_dict()
        path = os.path.join(self._run_dir, "stats.jsonl")
        with dnnlib.util.naming(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(stats, timestamp=time.time())) + "\n")
        self._track({name: value.mean for name, value in stats.items()}, nimg)

    def write_metrics(self, nimg: int, metrics: Mapping[str, float]) -> None:
        """Tell the trackers the results of metrics."""
        self._track({f"Metrics/{name}": value for name, value in metrics.items()}, nimg)

    def write_image(self, name: str, image: np.ndarray, nimg: int) -> None:
        """Show the trackers a picture, uint8 [H, W, C]."""
        for tracker in self._trackers:
            tracker.log_image(name, image, nimg)

    def _track(self, scalars: Mapping[str, float], nimg: int) -> None:
        for tracker in self._trackers if scalars else ():
            tracker.log(scalars, nimg, time.time() - self._start_time)

    def start_tick(self) -> None:
        """Training goes on."""
        now = time.time()
        self._maintenance += now - self._tick_time
        self._tick_time = now


def augment_strength(state: TrainingState) -> float:
    """p of the augmentation, 0 without one."""
    return float(state.augment_pipe.p) if state.augment_pipe is not None else 0.0


def take_peak_gpu_memory(device: torch.device) -> int:
    """Largest number of bytes in tensors on the GPU since the last call; 0 on the CPU."""
    if device.type != "cuda":
        return 0
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak
