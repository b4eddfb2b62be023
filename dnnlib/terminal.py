"""Progress on a terminal: one line that replaces itself. Log files and pipes never see it."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from typing import TextIO, TypeVar

from dnnlib.util import Logger, format_time

Line = TypeVar("Line", bound="TerminalLine")


def find_terminal(stream: TextIO | None) -> TextIO | None:
    """The terminal that a stream writes to, also behind a `Logger`; None if there is none, or it is closed."""
    while isinstance(stream, Logger):
        stream = stream.console
    with contextlib.suppress(ValueError, OSError):   # closed
        if stream is not None and stream.isatty():
            return stream
    return None


class TerminalLine:
    """A line at the bottom of a terminal that is rewritten in place.

    Where the stream is no terminal, nothing is written; nor any more once the terminal is gone. Use it in a `with`
    statement, so that an error message gets a line of its own.
    """

    def __init__(self, stream: TextIO | None, period: float = 0.2):
        self._terminal = find_terminal(stream)
        self._period = period   # least seconds between two updates
        self._shown = 0.0       # when the line was last written
        self._width = 0         # characters to clear

    def __enter__(self: Line) -> Line:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()

    @property
    def is_live(self) -> bool:
        """Is there a terminal to write to?"""
        return self._terminal is not None

    def is_due(self) -> bool:
        """Is it time to show something?"""
        return self._terminal is not None and time.perf_counter() - self._shown >= self._period

    def show(self, text: str) -> None:
        """Replace the line."""
        self._shown = time.perf_counter()
        text = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be taken back
        self._write("\r" + " " * self._width + "\r" + text)
        self._width = len(text)

    def clear(self) -> None:
        """Make room for lines that stay."""
        if self._width > 0:
            self.show("")

    def _write(self, text: str) -> None:
        if self._terminal is None:
            return
        try:
            self._terminal.write(text)
            self._terminal.flush()
        except (OSError, ValueError):   # the terminal went away; what is being done goes on
            self._terminal = None


class ProgressLine(TerminalLine):
    """How far a computation is: items done, items per second, time left. On stderr."""

    def __init__(self, label: str = "", total: int | None = None, unit: str = "images", period: float = 0.2):
        super().__init__(sys.stderr, period)
        self.label = label
        self.total = total   # items; None: not known
        self.unit = unit
        self.done = 0
        self._start = time.perf_counter()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say that `done` items are done. Costs a microsecond unless it is time to show."""
        self.done = done
        self.total = self.total if total is None else total
        if self.is_due():
            self.show(self.text(note))

    def step(self, note: str = "") -> None:
        """One more item is done."""
        self.update(self.done + 1, note=note)

    def text(self, note: str = "") -> str:
        progress = describe_progress(self.done, self.total, time.perf_counter() - self._start, self.unit)
        return "   ".join(filter(None, [self.label, progress, note]))


def describe_progress(done: int, total: int | None, seconds: float, unit: str = "images") -> str:
    """`1000/5000   31.2 images/s   2m 08s left`, or the total time at the end."""
    rate = done / max(seconds, 1e-9)
    if total is None:
        return f"{done}   {rate:.1f} {unit}/s"
    if done >= total:
        return f"{total}/{total}   {rate:.1f} {unit}/s   took {format_time(seconds)}"
    left = f"{format_time((total - done) / max(rate, 1e-9))} left" if done else "starting"
    return f"{done}/{total}   {rate:.1f} {unit}/s   {left}"
