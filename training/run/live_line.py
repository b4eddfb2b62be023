"""A line at the bottom of the terminal that shows how far training is."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

import dnnlib


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
        stream = stream.console
    return stream if stream is not None and stream.isatty() else None
