"""Promises of training.run.trackers, with a stand-in for the library of Weights & Biases."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types

import pytest

from training.run import trackers
from training.run.trackers import check_trackers, close_trackers, open_trackers


class FakeRun:
    """Records what a run of wandb is told."""

    def __init__(self, **options):
        self.options = options
        self.metrics, self.lines, self.is_finished = [], [], False

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, scalars, step):
        self.lines.append((step, scalars))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A module `wandb` whose runs are in its list `runs`."""
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.runs, module.Error = [], type("Error", (Exception,), {})

    def init(**options):
        module.runs.append(FakeRun(**options))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def board(monkeypatch):
    """A stand-in for TensorBoard's writer, whose calls are in its list."""
    calls = []

    class Writer:
        def __init__(self, run_dir, purge_step):
            calls.append(("open", run_dir, purge_step))

        def add_scalar(self, name, value, global_step, walltime):
            calls.append((name, value, global_step, walltime))

        def flush(self):
            calls.append("flush")

        def close(self):
            calls.append("close")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return calls


def test_tensorboard_gets_every_value_at_its_thousands_of_images(board, tmp_path):
    (tracker,) = open_trackers(str(tmp_path))
    tracker.log({"Loss/G/loss": 1.5, "Metrics/fid50k": 9.0}, nimg=7999, seconds=60.5)
    tracker.close()
    assert board == [("open", str(tmp_path), 7), ("Loss/G/loss", 1.5, 7, 60.5), ("Metrics/fid50k", 9.0, 7, 60.5),
                     "flush", "close"]


def test_a_resumed_run_takes_the_place_of_what_it_does_again_in_tensorboard(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for value, steps in [(1.0, range(5)), (2.0, range(3, 6))]:
        (tracker,) = open_trackers(str(tmp_path))
        for step in steps:
            tracker.log({"Loss/G/loss": value}, nimg=step * 1000, seconds=100 * value + step)
        tracker.close()
        if value == 1:  # files are read in the order of the seconds in their names
            (first,) = tmp_path.iterdir()
            first.rename(tmp_path / "events.out.tfevents.1000000000.host.1.0")
    curves = accumulators.EventAccumulator(str(tmp_path)).Reload()
    found = [(event.step, event.value) for event in curves.Scalars("Loss/G/loss")]
    assert found == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_without_tensorboard_training_goes_on_and_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # an ImportError for who imports it
    assert open_trackers(str(tmp_path)) == []
    assert capsys.readouterr().out == "TensorBoard is not installed: no event files are written.\n"


def test_wandb_gets_name_options_and_every_value_against_kimg(wandb, board, tmp_path):
    run_dir = tmp_path / "00003-cars-auto1"
    run_dir.mkdir()
    (run_dir / "training_options.json").write_text(json.dumps(dict(batch_size=8)))
    opened = open_trackers(str(run_dir), ["wandb"])
    for nimg in (500, 1500):
        opened[0].log({}, nimg=nimg, seconds=1.0)
        opened[1].log({"Loss/G/loss": nimg / 100}, nimg=nimg, seconds=1.0)
    close_trackers(opened)
    (run,) = wandb.runs
    assert run.options["name"] == "00003-cars-auto1" and run.options["config"] == dict(batch_size=8)
    assert run.options["dir"] == str(run_dir) and run.metrics == [("*", "Progress/kimg")]
    assert run.lines == [(500, {"Loss/G/loss": 5.0, "Progress/kimg": 0.5}),
                         (1500, {"Loss/G/loss": 15.0, "Progress/kimg": 1.5})]
    assert run.is_finished and board[-1] == "close" and opened == []


def test_a_resumed_run_continues_its_curves_at_wandb_and_another_run_does_not(wandb, board, tmp_path):
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        open_trackers(str(tmp_path / folder), ["wandb"])
    first, again, other = (run.options for run in wandb.runs)
    assert first["id"] == again["id"] != other["id"] and first["resume"] == "allow"


def test_wandb_without_a_key_is_one_line_and_leaves_nothing_open(wandb, board, tmp_path):
    def init(**options):
        raise wandb.Error("api_key not configured\n(no-tty)")

    wandb.init = init
    with pytest.raises(ValueError, match=r"^--log=wandb: api_key not configured \(no-tty\); WANDB_") as err:
        open_trackers(str(tmp_path), ["wandb"])
    assert "\n" not in str(err.value) and board == []


def test_what_cannot_be_logged_to_is_told_before_training(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="^--log=wandb needs the package wandb, which is not installed"):
        check_trackers(["wandb"])
    with pytest.raises(ValueError, match="^--log must be one of wandb, got mlflow$"):
        check_trackers(["mlflow"])
    check_trackers([])
