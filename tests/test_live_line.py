"""dnnlib.terminal and training.run.live_line: progress at the bottom of the terminal."""

from __future__ import annotations

import contextlib
import io
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest

import dnnlib
from dnnlib.terminal import ProgressLine, describe_progress
from metrics.progress import ProgressMonitor
from training.run.live_line import LiveLine


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
    with LiveLine(1000) as live, ProgressLine(total=3) as line:
        live.update(10)
        line.update(1)
        assert not live.is_live and not line.is_live
    assert capsys.readouterr() == ("", "")


def test_a_progress_line_shows_what_is_done_how_fast_and_for_how_long(terminal, clock):
    with redirect_stderr(terminal), ProgressLine("Searching", 100, "steps") as line:
        clock.now += 2
        line.update(19)
        line.step("0.25")   # too soon to be shown
        assert terminal.screen() == ["Searching   19/100   9.5 steps/s   9s left"]
        clock.now += 2
        line.step("0.125")
        assert terminal.screen() == ["Searching   21/100   5.2 steps/s   15s left   0.125"]
    assert terminal.screen() == [""]


def test_progress_tells_the_total_time_at_the_end():
    assert describe_progress(100, 400, seconds=10) == "100/400   10.0 images/s   30s left"
    assert describe_progress(400, 400, seconds=40) == "400/400   10.0 images/s   took 40s"


def test_the_line_of_a_metric_that_is_done_stays(terminal, clock):
    with redirect_stderr(terminal):
        monitor = ProgressMonitor(verbose=True).sub(tag="features", num_items=20)
        for done in (10, 20):
            clock.now += 5
            monitor.update(done)
    assert terminal.screen() == ["features             20/20   2.0 images/s   took 10s", ""]


def test_metrics_leave_no_control_characters_in_a_log_file(terminal, clock, tmp_path):
    with redirect_stdout(terminal), redirect_stderr(terminal), dnnlib.util.Logger(str(tmp_path / "log.txt")):
        monitor = ProgressMonitor(verbose=True).sub(tag="features", num_items=20)
        for done in (10, 20):
            clock.now += 5
            monitor.update(done)
    assert (tmp_path / "log.txt").read_text() == "features             20/20   2.0 images/s   took 10s\n"


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_closed_terminal_ends_nothing(terminal, monkeypatch, stream):
    if stream == "closed":
        terminal.close()
    monkeypatch.setattr("sys.stderr", None if stream is None else terminal)
    with ProgressLine(total=2) as line:
        line.step()
    ProgressMonitor(verbose=True).sub(tag="features", num_items=1).update(1)


def test_a_terminal_that_goes_away_ends_nothing(terminal, clock):
    with redirect_stderr(terminal), ProgressLine(total=2) as line:
        clock.now += 1
        line.step()
        terminal.close()
        clock.now += 1
        line.step()
    assert not line.is_live
