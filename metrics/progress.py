"""The live line of a long computation: items done, items per second, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import dnnlib

REDRAW_SECONDS = 0.2   # on a terminal, where the line replaces itself
LOG_SECONDS = 10.0     # elsewhere, where every update is a line of its own


class ProgressMonitor:
    """Tells a person on stderr, and a caller through `progress_fn`, how far a computation is.

    `progress_fn(position, pfn_total)` receives a position that moves from `pfn_lo` to `pfn_hi` with the items.
    """

    def __init__(
        self,
        tag: str | None = None,            # what is being done; nothing is printed without it
        num_items: int | None = None,
        flush_interval: int | None = 1000,   # report to `progress_fn` every so many items; None: only at the end
        verbose: bool = False,
        progress_fn: Callable[[int, int], None] | None = None,
        pfn_lo: float = 0,
        pfn_hi: float = 1000,
        pfn_total: int = 1000,
    ):
        self.tag = tag
        self.num_items = num_items
        self.flush_interval = flush_interval
        self.verbose = verbose
        self.progress_fn = progress_fn
        self.pfn_lo = pfn_lo
        self.pfn_hi = pfn_hi
        self.pfn_total = pfn_total
        self.start_time = time.monotonic()
        self._printed_at = self.start_time
        self._reported = 0
        if progress_fn is not None:
            progress_fn(round(pfn_lo), pfn_total)

    def update(self, cur_items: int) -> None:
        """Say that `cur_items` items are done, counted from the start."""
        done = self.num_items is not None and cur_items >= self.num_items
        due = self.flush_interval is not None and cur_items >= self._reported + self.flush_interval
        if self.progress_fn is not None and self.num_items and (done or due):
            position = self.pfn_lo + (self.pfn_hi - self.pfn_lo) * min(cur_items / self.num_items, 1)
            self.progress_fn(round(position), self.pfn_total)
            self._reported = cur_items
        if self.verbose and self.tag is not None:
            self._print(cur_items, done)

    def _print(self, cur_items: int, done: bool) -> None:
        now = time.monotonic()
        live = sys.stderr.isatty()
        if not done and now - self._printed_at < (REDRAW_SECONDS if live else LOG_SECONDS):
            return
        self._printed_at = now
        line = f"{self.tag:<22}" + describe_progress(cur_items, self.num_items, now - self.start_time)
        if live:
            # Erase to the end of the line: the one before may have been longer.
            line = f"\r{line}\x1b[K" + ("\n" if done else "")
        else:
            line += "\n"
        sys.stderr.write(line)
        sys.stderr.flush()

    def sub(
        self,
        tag: str | None = None,
        num_items: int | None = None,
        flush_interval: int | None = 1000,
        rel_lo: float = 0,
        rel_hi: float = 1,
    ) -> ProgressMonitor:
        """A monitor of one part, which covers `rel_lo` to `rel_hi` of this one's range."""
        span = self.pfn_hi - self.pfn_lo
        return ProgressMonitor(
            tag=tag, num_items=num_items, flush_interval=flush_interval, verbose=self.verbose,
            progress_fn=self.progress_fn, pfn_lo=self.pfn_lo + span * rel_lo, pfn_hi=self.pfn_lo + span * rel_hi,
            pfn_total=self.pfn_total)


def describe_progress(cur_items: int, num_items: int | None, seconds: float) -> str:
    """`1000/5000   31.2 images/s   2m 08s left`, or the total time at the end."""
    rate = cur_items / max(seconds, 1e-9)
    if num_items is None:
        return f"{cur_items}   {rate:.1f} images/s"
    if cur_items >= num_items:
        return f"{num_items}/{num_items}   {rate:.1f} images/s   took {dnnlib.util.format_time(seconds)}"
    left = (num_items - cur_items) / max(rate, 1e-9)
    left_text = f"{dnnlib.util.format_time(left)} left" if cur_items else "starting"
    return f"{cur_items}/{num_items}   {rate:.1f} images/s   {left_text}"
