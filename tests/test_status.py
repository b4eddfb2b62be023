"""training.status: the tick line, the live line and the files of statistics."""

from __future__ import annotations

import contextlib
import io
import json
import re
import time
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest
import torch

import dnnlib
from torch_utils import training_stats
from training.status import LiveLine, TickReporter, find_terminal
from training.step import PhaseTimer

CPU = torch.device("cpu")
FIELDS = ["tick", "kimg", "time", "sec/tick", "sec/kimg", "maintenance", "cpumem", "gpumem", "augment"]


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


def make_state(nimg, pipe=None):
    phase = SimpleNamespace(name="Gmain", timer=PhaseTimer(CPU))
    with phase.timer:
        pass
    return SimpleNamespace(cur_nimg=nimg, augment_pipe=pipe, phases=[phase])


def test_the_tick_line_has_the_fields_of_the_host_in_order(tmp_path, capsys):
    reporter = TickReporter(str(tmp_path), CPU)
    reporter.end_tick(make_state(1234, SimpleNamespace(p=torch.tensor(0.25))))
    (line,) = capsys.readouterr().out.strip().split("\n")
    values = dict(zip(FIELDS, re.fullmatch(r"\s+".join(f"{name} +(.+?)" for name in FIELDS), line).groups()))
    assert values["tick"] == "0" and values["kimg"] == "1.2" and values["augment"] == "0.250"
    assert 0.01 < float(values["cpumem"]) < 100 and values["gpumem"] == "0.00"


def test_the_first_tick_ends_with_the_first_step_and_later_ones_by_images(tmp_path):
    reporter = TickReporter(str(tmp_path), CPU)
    assert reporter.tick_is_due(32, kimg_per_tick=1)
    reporter.start_tick(32)
    assert not reporter.tick_is_due(1000, kimg_per_tick=1)
    assert reporter.tick_is_due(1032, kimg_per_tick=1)


def test_every_tick_appends_all_statistics_to_the_file(tmp_path, capsys):
    reporter = TickReporter(str(tmp_path), CPU)
    for nimg in (500, 1500):
        training_stats.report("Test/value", torch.tensor([1.0, 3.0]))
        reporter.end_tick(make_state(nimg))
        reporter.write_stats(nimg, {})
        reporter.start_tick(nimg)
    first, second = (json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines())
    assert first["Test/value"] == dict(num=2, mean=2.0, std=1.0)
    assert second["Progress/tick"]["mean"] == 1 and second["Progress/kimg"]["mean"] == 1.5
    assert second["timestamp"] >= first["timestamp"]
    for name in ("Timing/total_sec", "Timing/sec_per_tick", "Timing/sec_per_kimg", "Timing/maintenance_sec",
                 "Resources/cpu_mem_gb", "Resources/peak_gpu_mem_gb", "Progress/augment", "Timing/total_hours",
                 "Timing/total_days", "Timing/Gmain"):
        assert first[name]["num"] == 1, name


def test_the_set_up_before_the_first_tick_counts_as_time_and_maintenance(tmp_path):
    reporter = TickReporter(str(tmp_path), CPU, start_time=time.time() - 50)
    reporter.end_tick(make_state(100))
    reporter.write_stats(100, {})
    stats = json.loads((tmp_path / "stats.jsonl").read_text())
    assert stats["Timing/total_sec"]["mean"] >= 50 and stats["Timing/maintenance_sec"]["mean"] >= 50
    assert stats["Timing/sec_per_tick"]["mean"] < 40


def test_event_files_hold_means_and_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reporter = TickReporter(str(tmp_path), CPU)
    training_stats.report("Test/value", torch.tensor([1.0, 3.0]))
    reporter.end_tick(make_state(7900))
    reporter.write_stats(7900, {"fid50k_full": 12.5})
    events = EventAccumulator(str(tmp_path)).Reload()
    (loss,), (metric,) = events.Scalars("Test/value"), events.Scalars("Metrics/fid50k_full")
    assert (loss.step, loss.value) == (7, 2.0) and (metric.step, metric.value) == (7, 12.5)
    assert 0 <= loss.wall_time < 100


def test_other_processes_print_and_write_nothing(tmp_path, capsys):
    reporter = TickReporter(str(tmp_path), CPU, rank=1)
    reporter.end_tick(make_state(100))
    reporter.write_stats(100, {})
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


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
