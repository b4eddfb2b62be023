"""The clock on the wall in a training run: how long it may go on, when to save, and when it will have ended."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable

from dnnlib.util import UserError, format_time

UNITS = dict(s=1, m=60, h=3600, d=86400)  # seconds
LONG = 2 * UNITS["d"]                     # a training that takes longer deserves a warning


def parse_duration(text: str | float) -> float:
    """`90s`, `10m`, `2h`, `1.5h`, `1h30m` or `1d`, -> seconds. A number is one of seconds already."""
    if isinstance(text, (int, float)):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d*)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UserError(f"a time must look like 90s, 10m, 2h, 1h30m or 1d, got {text}")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


class RunClock:
    """Says when the time of a run is over, when the next snapshot is due, and once how long the training will take."""

    def __init__(
        self,
        total_nimg: int,
        stop_after: float | None = None,           # seconds that this call may take; None: no limit
        snapshot_seconds: float | None = None,     # between snapshots; None: they are not a matter of time
        start: float | None = None,                # when the call began; None: now
        now: Callable[[], float] = time.time,
        probe_seconds: float = 10,                 # of training, beyond the first step, before there is an estimate
    ):
        self._now = now
        self._total_nimg = total_nimg
        begun = now() if start is None else start
        self._end = None if stop_after is None else begun + stop_after
        self._snapshot_seconds = snapshot_seconds
        self._last_snapshot = begun
        self._probe_seconds = probe_seconds
        self._probe: tuple[float, int] | None = None
        self._is_estimated = False

    @property
    def is_over(self) -> bool:
        """Has the call taken the time that it may take?"""
        return self._end is not None and self._now() >= self._end

    @property
    def counts_snapshots(self) -> bool:
        """Does the clock decide when to save, in the place of the number of ticks?"""
        return self._snapshot_seconds is not None

    @property
    def snapshot_is_due(self) -> bool:
        return self._snapshot_seconds is not None and self._now() - self._last_snapshot >= self._snapshot_seconds

    def snapshot_taken(self) -> None:
        self._last_snapshot = self._now()

    def seconds_left(self, nimg: int, speed: float) -> float:
        """Until the end, at `speed` images a second: that of the training or of the time, whichever comes first."""
        left = max(self._total_nimg - nimg, 0) / speed
        return left if self._end is None else min(left, max(self._end - self._now(), 0))

    def estimate(self, nimg: int) -> list[str]:
        """Lines that say when training will end: once, when enough steps were taken to know; otherwise none.

        nimg: after the step that was just taken. The first step of a call takes longer than others and does not count.
        """
        if self._is_estimated:
            return []
        if self._probe is None:
            self._probe = self._now(), nimg
            return []
        since, first = self._probe
        if self._now() - since < self._probe_seconds or nimg == first:
            return []
        self._is_estimated = True
        return self.describe_end(nimg, (nimg - first) / (self._now() - since))

    def describe_end(self, nimg: int, speed: float) -> list[str]:
        """When training will end at `speed` images a second, how far it gets, and a warning if that takes days."""
        needed = max(self._total_nimg - nimg, 0) / speed
        left = self.seconds_left(nimg, speed)
        end = datetime.datetime.fromtimestamp(self._now() + left).strftime("%a %d %b, %H:%M")
        if left < needed:
            reached = (nimg + left * speed) / 1000
            return [f"{speed:.3g} images/s: {reached:.3g} of {self._total_nimg / 1000:g} kimg in {format_time(left)}, "
                    f"until {end}."]
        lines = [f"{speed:.3g} images/s: {self._total_nimg / 1000:g} kimg will take {format_time(needed)} more, "
                 f"until {end}."]
        if needed > LONG:
            lines.append(f"Warning: that is {needed / UNITS['d']:.0f} days. Ctrl-C saves everything; --for=8h or "
                         "--kimg stops earlier; smaller images, fewer channels or a GPU are faster.")
        return lines
