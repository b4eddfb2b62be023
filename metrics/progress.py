"""How far a metric is: for a person on stderr, for a caller by a callback."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from dnnlib.terminal import ProgressLine

LOG_SECONDS = 10.0   # where there is no terminal, and every update is a line of its own


class ProgressMonitor:
    """Tells a person on stderr, and a caller through `progress_fn`, how far a computation is.

    `progress_fn(position, pfn_total)` receives a position that moves from `pfn_lo` to `pfn_hi` with the items.
    """

    def __init__(
        self,
        tag: str | None = None,            # what is being done; nothing is printed without it
        num_items: int | None = None,
        flush_interval: int | None = 1000,   # items between two calls of `progress_fn`; None: only at the end
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
        self._line = ProgressLine(f"{tag or '':<18}", num_items)
        self._printed_at = time.perf_counter()
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
            self._line.update(cur_items)
            if done:
                self._line.clear()
            self._print_line(done)

    def _print_line(self, done: bool) -> None:
        """A line that stays: at the end, and where there is no terminal also now and then."""
        now = time.perf_counter()
        if done or (not self._line.is_live and now - self._printed_at >= LOG_SECONDS):
            self._printed_at = now
            with contextlib.suppress(OSError, ValueError, AttributeError):   # stderr is closed, or there is none
                sys.stderr.write(self._line.text() + "\n")
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
