"""training.run.status: the tick line and the files of statistics."""

from __future__ import annotations

import json
import re
import time
from types import SimpleNamespace

import pytest
import torch

from torch_utils import training_stats
from training.run.status import TICK_LINE, TickReporter, format_tick
from training.run.step import PhaseTimer

CPU = torch.device("cpu")
FIELDS = ["tick", "kimg", "time", "sec/tick", "sec/kimg", "maintenance", "cpumem", "gpumem", "augment"]


def make_state(nimg, pipe=None):
    phase = SimpleNamespace(name="Gmain", timer=PhaseTimer(CPU))
    with phase.timer:
        pass
    return SimpleNamespace(cur_nimg=nimg, augment_pipe=pipe, phases=[phase], skipped_steps=3)


def test_the_tick_line_has_the_fields_of_the_host_in_order(tmp_path, capsys):
    reporter = TickReporter(str(tmp_path), CPU)
    reporter.end_tick(make_state(1234, SimpleNamespace(p=torch.tensor(0.25))))
    (line,) = capsys.readouterr().out.strip().split("\n")
    values = dict(zip(FIELDS, re.fullmatch(r"\s+".join(f"{name} +(.+?)" for name in FIELDS), line).groups()))
    assert values["tick"] == "0" and values["kimg"] == "1.2" and values["augment"] == "0.250"
    assert 0.01 < float(values["cpumem"]) < 100 and values["gpumem"] == "0.00"


def test_tick_lines_have_fixed_columns_and_never_run_together():
    names = [name for _, name, _, _ in TICK_LINE]
    short, long = format_tick(dict.fromkeys(names, 1.0)), format_tick(dict.fromkeys(names, 123456.0))
    assert short.startswith("tick 1     kimg 1.0      time 1s          sec/tick 1.0     sec/kimg 1.00 ")
    assert long.startswith("tick 123456  kimg 123456.0  time 1d 10h 17m  sec/tick 123456.0  sec/kimg 123456.00  ")


def test_the_event_file_is_finished_also_after_an_error(tmp_path, monkeypatch):
    closed = []
    tracker = SimpleNamespace(close=lambda: closed.append(True))
    monkeypatch.setattr("training.run.status.open_trackers", lambda run_dir, names: [tracker])
    with pytest.raises(OSError), TickReporter(str(tmp_path), CPU) as reporter:
        raise OSError
    reporter.close()    # once is enough
    assert closed == [True]


def test_the_first_tick_ends_with_the_first_step_and_later_ones_by_images(tmp_path):
    reporter = TickReporter(str(tmp_path), CPU)
    assert reporter.tick_is_due(32, kimg_per_tick=1)
    assert reporter.end_tick(make_state(32)) == 0
    reporter.start_tick()
    assert not reporter.tick_is_due(1000, kimg_per_tick=1)
    assert reporter.tick_is_due(1032, kimg_per_tick=1)


def test_every_tick_appends_all_statistics_to_the_file(tmp_path, capsys):
    reporter = TickReporter(str(tmp_path), CPU)
    for nimg in (500, 1500):
        training_stats.report("Test/value", torch.tensor([1.0, 3.0]))
        reporter.end_tick(make_state(nimg))
        reporter.write_stats(nimg)
        reporter.start_tick()
    first, second = (json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines())
    assert first["Test/value"] == dict(num=2, mean=2.0, std=1.0)
    assert second["Progress/tick"]["mean"] == 1 and second["Progress/kimg"]["mean"] == 1.5
    assert second["timestamp"] >= first["timestamp"]
    for name in ("Timing/total_sec", "Timing/sec_per_tick", "Timing/sec_per_kimg", "Timing/maintenance_sec",
                 "Resources/cpu_mem_gb", "Resources/peak_gpu_mem_gb", "Progress/augment", "Timing/total_hours",
                 "Timing/total_days", "Timing/Gmain", "Progress/skipped_steps"):
        assert first[name]["num"] == 1, name


def test_the_set_up_before_the_first_tick_counts_as_time_and_maintenance(tmp_path):
    reporter = TickReporter(str(tmp_path), CPU, start_time=time.time() - 50)
    reporter.end_tick(make_state(100))
    reporter.write_stats(100)
    stats = json.loads((tmp_path / "stats.jsonl").read_text())
    assert stats["Timing/total_sec"]["mean"] >= 50 and stats["Timing/maintenance_sec"]["mean"] >= 50
    assert stats["Timing/sec_per_tick"]["mean"] < 40


def test_event_files_hold_means_and_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TickReporter(str(tmp_path), CPU) as reporter:
        training_stats.report("Test/value", torch.tensor([1.0, 3.0]))
        reporter.end_tick(make_state(7900))
        reporter.write_stats(7900)
        reporter.write_metrics(7900, {"fid50k_full": 12.5})
    events = EventAccumulator(str(tmp_path)).Reload()
    (loss,), (metric,) = events.Scalars("Test/value"), events.Scalars("Metrics/fid50k_full")
    assert (loss.step, loss.value) == (7, 2.0) and (metric.step, metric.value) == (7, 12.5)
    assert 0 <= loss.wall_time < 100


def test_other_processes_print_and_write_nothing(tmp_path, capsys):
    reporter = TickReporter(str(tmp_path), CPU, rank=1)
    reporter.end_tick(make_state(100))
    reporter.write_stats(100)
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


def test_a_reporter_goes_on_in_the_middle_of_a_tick(tmp_path):
    former = TickReporter(str(tmp_path), CPU, start_time=time.time() - 50)
    former.end_tick(make_state(100))
    former.write_stats(100)
    former.start_tick()
    training_stats.report("Test/value", torch.tensor([1.0]))
    training_stats.synchronise()
    saved = former.state_dict()
    assert saved["tick"] == 1 and saved["maintenance_sec"] < 50

    saved.update(tick_sec=20.0, total_sec=1000.0)
    reporter = TickReporter(str(tmp_path), CPU, start_time=time.time() - 7, saved=saved)
    training_stats.report("Test/value", torch.tensor([3.0]))
    assert not reporter.tick_is_due(1099, kimg_per_tick=1) and reporter.tick_is_due(1100, kimg_per_tick=1)
    assert reporter.end_tick(make_state(1100)) == 1
    reporter.write_stats(1100)
    stats = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[-1])
    assert stats["Test/value"] == dict(num=2, mean=2.0, std=1.0)
    assert 20 <= stats["Timing/sec_per_tick"]["mean"] < 25 and 1007 <= stats["Timing/total_sec"]["mean"] < 1012
    assert 7 <= stats["Timing/maintenance_sec"]["mean"] < 12


def test_a_disk_that_is_full_is_named(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            pass

        def write(self, text):
            raise OSError(28, "No space left on device")

    reporter = TickReporter(str(tmp_path), CPU)
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: Full())
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "stats.jsonl"))):
        reporter.write_stats(100)
