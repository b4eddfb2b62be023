"""What a run tells about itself: the tick line, the live line, `stats.jsonl` and TensorBoard's event files."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import psutil
import torch

import dnnlib
from torch_utils import training_stats
from training.step import TrainingState

GIB = 2**30


class LiveLine:
    """A line at the bottom of the terminal that is rewritten twice a second: progress, speed and time left.

    Only for terminals: it goes past the log file, and where stdout is no terminal nothing is written. Use it in a
    `with` statement, so that an error message gets a line of its own.
    """

    def __init__(self, total_nimg: int, enabled: bool = True, period: float = 0.5, half_life: float = 10):
        self._terminal = find_terminal() if enabled else None
        self._total_nimg = total_nimg
        self._period = period        # seconds between two updates
        self._half_life = half_life  # seconds after which a measurement of the speed counts half
        self._width = 0              # characters to clear
        self._shown = 0.0            # when the line was last written
        self._nimg = 0
        self._images = self._seconds = 0.0   # of the recent past, for the speed
        self._last = time.perf_counter()

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()

    def resume(self, nimg: int) -> None:
        """Training goes on after a pause that does not count towards the speed."""
        self._nimg = nimg
        self._last = time.perf_counter()

    def update(self, nimg: int) -> None:
        """Another step is done. Costs a microsecond unless it is time to show."""
        now = time.perf_counter()
        forget = 0.5 ** ((now - self._last) / self._half_life)
        self._images = self._images * forget + (nimg - self._nimg)
        self._seconds = self._seconds * forget + (now - self._last)
        self._nimg, self._last = nimg, now
        if self._terminal is not None and now - self._shown >= self._period:
            self._shown = now
            self._write(self._terminal, self.text())

    def text(self) -> str:
        """Progress in thousands of images, images per second, time left."""
        speed = self._images / self._seconds if self._seconds > 0 else 0
        done = f"kimg {self._nimg / 1000:.1f}/{self._total_nimg / 1000:g}"
        if speed == 0:
            return done
        left = dnnlib.util.format_time(max(self._total_nimg - self._nimg, 0) / speed)
        return f"{done}   {speed:.3g} images/s   {left} left"

    def clear(self) -> None:
        """Make room for lines that stay."""
        if self._terminal is not None and self._width > 0:
            self._write(self._terminal, "")
            self._width = 0

    def _write(self, terminal: TextIO, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be taken back
        terminal.write("\r" + " " * self._width + "\r" + text)
        terminal.flush()
        self._width = len(text)


def find_terminal() -> TextIO | None:
    """The terminal that stdout writes to, also behind a `dnnlib.util.Logger`; None if there is none."""
    stream = sys.stdout
    while isinstance(stream, dnnlib.util.Logger):
        stream = stream.stdout
    return stream if stream is not None and stream.isatty() else None


class TickReporter:
    """Keeps the time of the ticks, and reports each on the console and to the files of the run folder.

    All processes call every method, since statistics are summed over them; only rank 0 prints and writes.
    """

    def __init__(self, run_dir: str, device: torch.device, rank: int = 0, start_time: float | None = None):
        self.tick = 0
        self._run_dir = run_dir
        self._device = device
        self._is_first = rank == 0
        self._stats = training_stats.Collector(regex=".*")
        self._events = open_event_file(run_dir) if self._is_first else None
        self._tick_time = time.time()
        self._tick_nimg = 0
        self._start_time = self._tick_time if start_time is None else start_time
        self._maintenance = self._tick_time - self._start_time  # seconds before this tick in which no step was taken

    def tick_is_due(self, nimg: int, kimg_per_tick: float) -> bool:
        """The first tick ends with the first step, later ones after so many thousand images."""
        return self.tick == 0 or nimg - self._tick_nimg >= kimg_per_tick * 1000

    def end_tick(self, state: TrainingState) -> None:
        """Report progress, times and resources as statistics, and print them as one line."""
        now, nimg = time.time(), state.cur_nimg
        seconds = now - self._tick_time
        report0 = training_stats.report0
        fields = [
            f"tick {report0('Progress/tick', self.tick):<5d}",
            f"kimg {report0('Progress/kimg', nimg / 1000):<8.1f}",
            f"time {dnnlib.util.format_time(report0('Timing/total_sec', now - self._start_time)):<12s}",
            f"sec/tick {report0('Timing/sec_per_tick', seconds):<7.1f}",
            f"sec/kimg {report0('Timing/sec_per_kimg', seconds / (nimg - self._tick_nimg) * 1000):<7.2f}",
            f"maintenance {report0('Timing/maintenance_sec', self._maintenance):<6.1f}",
            f"cpumem {report0('Resources/cpu_mem_gb', psutil.Process().memory_info().rss / GIB):<6.2f}",
            f"gpumem {report0('Resources/peak_gpu_mem_gb', take_peak_gpu_memory(self._device) / GIB):<6.2f}",
            f"augment {report0('Progress/augment', augment_strength(state)):.3f}",
        ]
        report0("Timing/total_hours", (now - self._start_time) / 3600)
        report0("Timing/total_days", (now - self._start_time) / 86400)
        for phase in state.phases:
            report0(f"Timing/{phase.name}", phase.timer.take_milliseconds())
        if self._is_first:
            print(" ".join(fields))
        self._tick_time = now

    def write_stats(self, nimg: int, metrics: Mapping[str, float]) -> None:
        """Append everything reported since the previous tick to the files; `metrics` go to the event file only."""
        self._stats.update()
        if not self._is_first:
            return
        now = time.time()
        stats = self._stats.as_dict()
        with open(os.path.join(self._run_dir, "stats.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(stats, timestamp=now)) + "\n")
        if self._events is not None:
            values = {name: value.mean for name, value in stats.items()}
            values.update((f"Metrics/{name}", value) for name, value in metrics.items())
            for name, value in values.items():
                self._events.add_scalar(name, value, global_step=nimg // 1000, walltime=now - self._start_time)
            self._events.flush()

    def start_tick(self, nimg: int) -> None:
        """Training goes on."""
        now = time.time()
        self._maintenance = now - self._tick_time
        self._tick_time, self._tick_nimg = now, nimg
        self.tick += 1


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


def open_event_file(run_dir: str) -> Any:
    """A TensorBoard writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, if it is there at all
    except ImportError:
        print("TensorBoard is not installed: no event files are written.")
        return None
    return SummaryWriter(run_dir)
