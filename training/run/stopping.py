"""Asking a run to stop: SIGTERM from a scheduler, SIGINT from the keyboard, SIGHUP when the terminal is lost."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # Windows: no SIGHUP
ONE_PRESS = 1.0  # seconds within which several SIGINT count as one: a launcher passes on what the terminal sent too


class StopSignals:
    """Notes `SIGNALS` in the time of a `with` block, so that a step can end and the run be saved.

    A second SIGINT does what it would do without this: it interrupts at once. What is ignored when the block begins
    stays ignored, such as SIGHUP under nohup.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first_press: float | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # which alone may handle signals
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        self._first_press = now if self._first_press is None else self._first_press
        if now - self._first_press > ONE_PRESS:
            signal.default_int_handler(number, frame)
