"""training.run.live_line: progress at the bottom of the terminal."""

from __future__ import annotations

import contextlib
import io
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest

import dnnlib
from training.run.live_line import LiveLine, find_terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """The lines that a person sees."""
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part):]
            lines.append(shown.rstrip())
        return lines


@pytest.fixture
def terminal(monkeypatch):
    """A terminal 60 characters wide; use it as `with redirect_stdout(terminal)`, inside pytest's own redirection."""
    monkeypatch.setenv("COLUMNS", "60")
    return Terminal()


@pytest.fixture
def clock(monkeypatch):
    """`clock.now` is what `time.perf_counter` returns, in seconds."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


def test_the_live_line_shows_progress_speed_and_time_left(terminal, clock):
    with redirect_stdout(terminal), LiveLine(10_000) as live:
        for step in range(1, 51):
            clock.now += 0.2
            live.update(step * 20)
        assert terminal.screen() == ["kimg 1.0/10   100 images/s   1m 30s left"]
    assert terminal.screen() == [""]


def test_the_live_line_is_written_twice_a_second(terminal, clock):
    with redirect_stdout(terminal):
        live = LiveLine(10**6)
        for step in range(1000):    # ten seconds
            clock.now += 0.01
            live.update(step)
    assert 18 <= terminal.getvalue().count("kimg") <= 21


def test_pauses_do_not_count_towards_the_speed(clock):
    live = LiveLine(10**6)
    for nimg in range(100, 2000, 100):
        clock.now += 1
        live.update(nimg)
        clock.now += 1000
        live.resume(nimg)
    assert "100 images/s" in live.text()


def test_lines_that_stay_replace_the_live_line(terminal):
    with redirect_stdout(terminal), LiveLine(10**6) as live:
        for tick in (1, 2):
            live.update(10)
            live.clear()
            print("tick", tick)
    assert terminal.screen() == ["tick 1", "tick 2", ""]


def test_the_live_line_never_wraps(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    with redirect_stdout(terminal):
        LiveLine(10**6).update(10)
    assert terminal.screen() == ["kimg 0.0/10"]


def test_the_live_line_reaches_the_terminal_but_not_the_log(terminal, tmp_path):
    log = tmp_path / "log.txt"
    with redirect_stdout(terminal), dnnlib.util.Logger(str(log)), LiveLine(10**6) as live:
        live.update(10)
        live.clear()
        print("tick 0")
    assert "kimg" in terminal.getvalue() and terminal.screen() == ["tick 0", ""]
    assert log.read_text() == "tick 0\n"


def test_an_error_gets_a_line_of_its_own(terminal):
    with redirect_stdout(terminal), contextlib.suppress(OSError), LiveLine(10**6) as live:
        live.update(10)
        raise OSError
    assert terminal.screen() == [""]


def test_without_a_terminal_nothing_is_written(capsys):
    assert find_terminal() is None
    with LiveLine(1000) as live:
        live.update(10)
    assert capsys.readouterr().out == ""
