"""A line at the bottom of the terminal that shows how far training is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from dnnlib.terminal import TerminalLine
from dnnlib.util import format_time


class LiveLine(TerminalLine):
    """Progress, speed and time left, rewritten twice a second. The speed is that of the recent past, without pauses."""

    def __init__(self, total_nimg: int, enabled: bool = True, half_life: float = 10,
                 seconds_left: Callable[[int, float], float] | None = None):
        super().__init__(sys.stdout if enabled else None, period=0.5)
        self._total_nimg = total_nimg
        self._seconds_left = seconds_left or self._rest  # from images so far, and images per second
        self._half_life = half_life          # seconds after which a measurement of the speed counts half
        self._nimg = 0
        self._images = self._seconds = 0.0   # of the recent past, for the speed
        self._last = time.perf_counter()

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
        if self.is_due():
            self.show(self.text())

    def _rest(self, nimg: int, speed: float) -> float:
        return max(self._total_nimg - nimg, 0) / speed

    def text(self) -> str:
        """Progress in thousands of images, images per second, time left."""
        speed = self._images / self._seconds if self._seconds > 0 else 0
        done = f"kimg {self._nimg / 1000:.1f}/{self._total_nimg / 1000:g}"
        if speed == 0:
            return done
        left = format_time(self._seconds_left(self._nimg, speed))
        return f"{done}   {speed:.3g} images/s   {left} left"
