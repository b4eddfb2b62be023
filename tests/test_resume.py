"""Nothing lost: a run that was interrupted ends as if it had not been."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from tiny_run import computed_stats, differences, loop_kwargs, read_lines, write_zip

import legacy
from dnnlib.util import UserError
from metrics import metric_main
from training import training_loop
from training.loss import StyleGAN2Loss
from training.run import run_state, saving
from training.run.batches import DataError
from training.run.saving import BackgroundWriter, BestSnapshot
from training.run.stopping import StopSignals

NUM_STEPS = 12
KILLED_AFTER = sorted(np.random.RandomState(3).choice(np.arange(1, NUM_STEPS), size=10, replace=False).tolist())


@pytest.fixture(scope="module")
def zip_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.zip"
    write_zip(path, num_classes=3)
    return path


@pytest.fixture
def kwargs(tmp_path, zip_path, monkeypatch):
    """A run with everything that has a state: labels, adaptive augmentation, lazy phases, a metric; snapshots after
    steps 1, 7 and 12."""
    monkeypatch.setattr(training_loop, "draw_training_plot", lambda run_dir: None)
    monkeypatch.setattr("training.run.status.open_trackers", lambda run_dir, names: [])
    monkeypatch.setitem(metric_main._metrics, "image_mean", image_mean)
    (tmp_path / "run").mkdir()
    return dict(
        loop_kwargs(tmp_path / "run", zip_path, use_labels=True), metrics=["image_mean"], keep_best="image_mean",
        augment_kwargs=dict(class_name="training.augment.AugmentPipe", xflip=1, brightness=1), ada_target=-1.5,
        ada_interval=2, ada_kimg=0.5, total_kimg=4 * NUM_STEPS / 1000, kimg_per_tick=0.012,
        network_snapshot_ticks=2, image_snapshot_ticks=2)


def image_mean(opts):
    img = opts.G(torch.zeros([1, opts.G.z_dim]), torch.eye(3)[:1], noise_mode="const")
    return dict(image_mean=float(img.mean()))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return {}


def reference(uninterrupted, kwargs, tmp_path):
    """Folder of the run that nobody interrupts; computed once."""
    if not uninterrupted:
        run_dir = tmp_path / "uninterrupted"
        run_dir.mkdir()
        assert training_loop.training_loop(**dict(kwargs, run_dir=str(run_dir)))
        uninterrupted["run_dir"] = run_dir
    return uninterrupted["run_dir"]


def after_step(monkeypatch, number, act):
    """Let `act()` happen at the end of the step of this number, counted from 1."""
    taken = []
    train_step = training_loop.train_step

    def counting(*args):
        train_step(*args)
        taken.append(1)
        if len(taken) == number:
            act()

    monkeypatch.setattr(training_loop, "train_step", counting)


def in_a_fork(job):
    """Run in a copy of this process. Returns the number of the signal that ended it, 0 for none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no thread of ours holds a lock here
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            job()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def final_state(run_dir):
    """The last state, without what depends on the clock and without the lengths of the files, which hold times."""
    saved = run_state.load(run_state.state_paths(str(run_dir))[0])
    reporter = {key: value for key, value in saved["reporter"].items() if not key.endswith("_sec")}
    for kept in ("pending", "moments"):
        reporter["stats"][kept] = {
            name: value for name, value in reporter["stats"][kept].items() if name.startswith(("Loss/", "Progress/"))}
    return {**{key: value for key, value in saved.items() if key not in ("files", "reporter")}, "reporter": reporter}


def assert_same_run(run_dir, expected):
    assert differences(final_state(run_dir), final_state(expected)) == []
    assert differences(computed_stats(run_dir), computed_stats(expected)) == []
    names = {path.name for path in expected.iterdir() if "tfevents" not in path.name}
    assert {path.name for path in run_dir.iterdir() if "tfevents" not in path.name} == names
    for name in names:
        if name.endswith(".png"):
            assert (run_dir / name).read_bytes() == (expected / name).read_bytes(), name
    lines = [[(line["results"], line["snapshot_pkl"]) for line in read_lines(folder / "metric-image_mean.jsonl")]
             for folder in (run_dir, expected)]
    assert lines[0] == lines[1]
    networks = []
    for folder in (run_dir, expected):
        with open(folder / "network-snapshot-000000.pkl", "rb") as file:
            networks.append(legacy.load_network_pkl(file)["G_ema"].state_dict())
    assert differences(*networks) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a copy of a process cannot differentiate where there is a GPU")
@pytest.mark.parametrize("number", KILLED_AFTER)
def test_a_run_killed_after_any_step_ends_as_if_it_had_not_been(number, kwargs, uninterrupted, tmp_path, monkeypatch):
    expected = reference(uninterrupted, kwargs, tmp_path)
    with monkeypatch.context() as patch:
        after_step(patch, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert in_a_fork(lambda: training_loop.training_loop(**kwargs)) == signal.SIGKILL
    assert training_loop.training_loop(**kwargs, resume_run=True)
    assert_same_run(tmp_path / "run", expected)


def test_a_run_stopped_in_the_middle_of_a_tick_saves_and_goes_on_there(
    kwargs, uninterrupted, tmp_path, monkeypatch, capsys
):
    expected = reference(uninterrupted, kwargs, tmp_path)
    with monkeypatch.context() as patch:
        after_step(patch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert training_loop.training_loop(**kwargs) is False
    assert "Stopping, as a signal asked ...\n\nStopped at 0.0 kimg" in capsys.readouterr().out
    assert run_state.load(run_state.state_paths(str(tmp_path / "run"))[0])["cur_nimg"] == 36
    assert training_loop.training_loop(**kwargs, resume_run=True)
    assert_same_run(tmp_path / "run", expected)


def test_a_finished_run_stays_as_it_is(kwargs, uninterrupted, tmp_path, capsys):
    run_dir = reference(uninterrupted, kwargs, tmp_path)
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    assert training_loop.training_loop(**dict(kwargs, run_dir=str(run_dir)), resume_run=True)
    after = {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name in before}
    assert before == after and "tick " not in capsys.readouterr().out


def test_metrics_that_were_under_way_are_computed_when_the_run_goes_on(kwargs, uninterrupted, tmp_path, monkeypatch):
    expected = reference(uninterrupted, kwargs, tmp_path)
    with monkeypatch.context() as patch:
        measured = []

        def killed_in_the_third(opts):
            measured.append(1)
            if len(measured) == 3:
                raise KeyboardInterrupt
            return image_mean(opts)

        patch.setitem(metric_main._metrics, "image_mean", killed_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            training_loop.training_loop(**kwargs)
    assert len(read_lines(tmp_path / "run" / "metric-image_mean.jsonl")) == 2
    assert training_loop.training_loop(**kwargs, resume_run=True)
    assert_same_run(tmp_path / "run", expected)


def test_the_state_of_a_smaller_network_is_refused_by_the_name_of_its_tensor(kwargs, tmp_path):
    training_loop.training_loop(**dict(kwargs, total_kimg=0.004))
    kwargs["D_kwargs"] = dict(kwargs["D_kwargs"], channel_max=4)
    with pytest.raises(ValueError, match=r"saved state is that of another run: D\.\S+ has shape"):
        training_loop.training_loop(**kwargs, resume_run=True)


def flip_a_bit(data):
    position = len(data) // 2  # in the middle of a tensor
    return data[:position] + bytes([data[position] ^ 16]) + data[position + 1:]


@pytest.mark.parametrize("damage", [lambda data: data[:5000], flip_a_bit], ids=["cut", "a flipped bit"])
def test_a_damaged_state_is_passed_over_for_the_one_before(
    damage, kwargs, uninterrupted, tmp_path, monkeypatch, capsys
):
    expected = reference(uninterrupted, kwargs, tmp_path)
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_step(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        training_loop.training_loop(**kwargs)
    (run_dir / "training-state-000001.pt").write_bytes(damage((run_dir / "training-state-000000.pt").read_bytes()))
    training_loop.training_loop(**kwargs, resume_run=True)
    assert "training-state-000001.pt is damaged or no training state" in capsys.readouterr().out
    os.remove(run_dir / "training-state-000001.pt")
    assert differences(computed_stats(run_dir)[-1], computed_stats(expected)[-1]) == []


def test_where_no_state_can_be_read_nothing_is_overwritten(kwargs, tmp_path):
    (tmp_path / "run" / "training-state-000000.pt").write_bytes(b"damaged")
    (tmp_path / "run" / "stats.jsonl").write_text("{}\n")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match="no training state of .* can be read, so nothing was changed there: .*damaged"):
        training_loop.training_loop(**kwargs, resume_run=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
    path = str(tmp_path / "training-state-000000.pt")
    run_state.save(dict(version=run_state.VERSION, moments=torch.zeros([3])), path)

    def allocate(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", allocate)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run_state.load(path)


@pytest.mark.parametrize("number", [1, 3])
def test_a_run_killed_between_state_and_networks_goes_on_and_completes_both(
    number, kwargs, uninterrupted, tmp_path, monkeypatch
):
    expected = reference(uninterrupted, kwargs, tmp_path)
    with monkeypatch.context() as patch:
        written = []

        def save(networks, path):
            written.append(path)
            if len(written) == number:
                raise KeyboardInterrupt
            save_networks(networks, path)

        save_networks = training_loop.save_network_snapshot
        patch.setattr(training_loop, "save_network_snapshot", save)
        with pytest.raises(KeyboardInterrupt):
            training_loop.training_loop(**kwargs)
    assert (tmp_path / "run" / "network-snapshot-000000.pkl").exists() == (number > 1)  # if so, an older one
    assert training_loop.training_loop(**kwargs, resume_run=True)
    assert_same_run(tmp_path / "run", expected)


# What ends a run


class Vanishing:
    """A data set that cannot be read any more after some images."""

    def __init__(self, dataset, num):
        self.dataset, self.num = dataset, num

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, idx):
        self.num -= 1
        if self.num < 0:
            raise FileNotFoundError(2, "No such file or directory", f"photos/{idx}.png")
        return self.dataset[idx]


def test_a_vanished_data_set_ends_the_run_with_one_line_and_loses_no_step(
    kwargs, uninterrupted, tmp_path, monkeypatch
):
    expected = reference(uninterrupted, kwargs, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "PreviewGrid", lambda *args: None)
        load = training_loop.construction.load_training_set
        patch.setattr(training_loop.construction, "load_training_set", lambda *a, **k: Vanishing(load(*a, **k), 30))
        with pytest.raises(DataError) as caught:
            training_loop.training_loop(**dict(kwargs, image_snapshot_ticks=None))
    assert str(caught.value).startswith("cannot read the training set data: [Errno 2] No such file or directory: ")
    assert "\n" not in str(caught.value)
    assert run_state.load(run_state.state_paths(str(tmp_path / "run"))[0])["cur_nimg"] == 28
    training_loop.training_loop(**dict(kwargs, image_snapshot_ticks=None), resume_run=True)
    assert differences(final_state(tmp_path / "run"), final_state(expected)) == []


def test_a_full_disk_ends_the_run_with_the_name_of_the_file_and_keeps_the_former_state(
    kwargs, uninterrupted, tmp_path, monkeypatch
):
    expected = reference(uninterrupted, kwargs, tmp_path)
    save, saved = torch.save, []

    def save_until_full(obj, file, **options):
        saved.append(isinstance(obj, dict) and "version" in obj)  # a state, not a tensor of a network
        if sum(saved) == 3:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(obj, file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_until_full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            training_loop.training_loop(**kwargs)
    assert caught.value.filename.endswith("training-state-000000.pt")
    assert not list((tmp_path / "run").glob(".tmp*"))
    assert training_loop.training_loop(**kwargs, resume_run=True)
    assert_same_run(tmp_path / "run", expected)


def test_a_disk_that_fills_up_while_torch_writes_is_reported_as_such(tmp_path):
    class Full:
        def __init__(self, file):
            self.file, self.left = file, 2000

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    @contextlib.contextmanager
    def open_full(path, mode):
        with open(path, mode) as file:
            yield Full(file)

    path = str(tmp_path / "training-state-000000.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnnlib.util.open_atomic", open_full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            run_state.save(dict(weights=torch.zeros([10000])), path)
    assert caught.value.filename == path


def test_losses_that_stay_not_finite_end_the_run_with_the_last_good_state(kwargs, tmp_path, monkeypatch):
    monkeypatch.setattr("training.run.step.MOST_SKIPPED_STEPS", 3)
    kwargs["loss_kwargs"] = dict(class_name="test_resume.LossThatBreaks")
    with pytest.raises(ValueError, match="must be finite, they were not in 3 steps in a row"):
        training_loop.training_loop(**kwargs)
    saved = run_state.load(run_state.state_paths(str(tmp_path / "run"))[0])
    assert saved["skipped_in_a_row"] == 0
    tensors = [value for tensors in saved["networks"].values() for value in tensors.values()]
    assert all(value.isfinite().all() for value in tensors)


class LossThatBreaks:
    """Fine for three steps."""

    def __init__(self, G_synthesis, D, **kwargs):
        self.G_synthesis, self.D, self.calls, self.settings = G_synthesis, D, 0, kwargs

    def accumulate_gradients(self, phase, gain, **kwargs):
        self.calls += 1
        module = self.G_synthesis if phase[0] == "G" else self.D
        factor = math.nan if self.calls > 8 else 1e-3
        sum(param.square().sum() for param in module.parameters()).mul(factor).backward()


def test_numbers_that_training_moves_in_a_loss_are_part_of_the_state_and_its_settings_are_not():
    loss, other = (StyleGAN2Loss(torch.device("cpu"), None, None, None) for _ in range(2))
    loss.pl_mean.fill_(2)
    assert loss.state_dict() == dict(pl_mean=torch.tensor(2.0))
    mean = other.pl_mean
    other.load_state_dict(dict(loss.state_dict(), r1_gamma=99.0))  # states of earlier versions hold settings as well
    assert mean == 2 and other.pl_mean is mean and other.r1_gamma != 99
    with pytest.raises(ValueError, match="the saved state is that of another run: it has no loss.pl_mean"):
        other.load_state_dict({})


def test_anything_but_a_state_is_refused_in_one_line(tmp_path):
    path = tmp_path / "training-state-000000.pt"
    for content in (b"", b"half a file", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="training-state-000000.pt is damaged or no training state") as caught:
            run_state.load(str(path))
        assert "\n" not in str(caught.value)
    torch.save(dict(version=99), path)
    with pytest.raises(ValueError, match="must be a training state of version 1"):
        run_state.load(str(path))


# Files that grow


def test_lines_that_were_written_after_the_state_are_cut_off(tmp_path):
    stats, metric = tmp_path / "stats.jsonl", tmp_path / "metric-fid.jsonl"
    stats.write_text('{"a": 1}\n')
    metric.write_text(metric_line(4))
    sizes = run_state.file_sizes(str(tmp_path))
    stats.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    metric.write_text(metric_line(4) + metric_line(8) + metric_line(2) + metric_line(12) + '{"res')
    for path in (stats, metric):
        run_state.rewind(str(path), sizes[path.name], 8)
    assert stats.read_text() == '{"a": 1}\n'
    assert metric.read_text() == metric_line(4) + metric_line(2) + metric_line(8)  # 2: measured by hand meanwhile
    assert run_state.read_measured(str(tmp_path), sizes, 8) == dict(fid=dict(fid=8))


def metric_line(kimg):
    snapshot = f"network-snapshot-{kimg:06d}.pkl"
    return json.dumps(dict(metric="fid", results=dict(fid=kimg), snapshot_pkl=snapshot)) + "\n"


# Which files stay


def make_files(folder, kimgs):
    for kimg in kimgs:
        (folder / f"network-snapshot-{kimg:06d}.pkl").touch()
        (folder / f"training-state-{kimg:06d}.pt").touch()


def kept(folder, kind):
    return sorted(int(path.stem.split("-")[-1]) for path in folder.glob(f"{kind}-*"))


def test_the_newest_two_states_and_all_networks_stay(tmp_path):
    make_files(tmp_path, [0, 200, 1000, 1000000])
    saving.prune(str(tmp_path), keep=None, best=None)
    assert kept(tmp_path, "training-state") == [1000, 1000000]
    assert kept(tmp_path, "network-snapshot") == [0, 200, 1000, 1000000]


def test_keep_leaves_the_newest_networks_and_the_best_one(tmp_path):
    make_files(tmp_path, [0, 200, 400, 600])
    (tmp_path / "network-snapshot-mine.pkl").touch()
    saving.prune(str(tmp_path), keep=2, best="network-snapshot-000200.pkl")
    assert sorted(path.name for path in tmp_path.glob("network-snapshot-*")) == [
        "network-snapshot-000200.pkl", "network-snapshot-000400.pkl", "network-snapshot-000600.pkl",
        "network-snapshot-mine.pkl"]


@pytest.mark.parametrize(("metric", "values", "best"), [
    ("fid5k_full", [9.0, 3.0, math.nan, 5.0], 1), ("is50k", [9.0, 3.0, math.nan, 12.0], 3),
    ("ppl2_wend", [1.0, 1.0], 0),
])
def test_the_best_snapshot_has_the_lowest_distance_or_the_highest_score(metric, values, best, tmp_path):
    record = BestSnapshot(metric, str(tmp_path))
    for i, value in enumerate(values):
        record.update(f"{i}.pkl", {f"{metric}_mean": value, f"{metric}_std": -1.0})
    expected = dict(metric=metric, value=values[best], snapshot=f"{best}.pkl")
    assert json.loads((tmp_path / f"best-{metric}.json").read_text()) == expected == record.record
    assert BestSnapshot(metric, str(tmp_path), saved=expected).record == expected


def test_of_the_leak_the_change_outside_counts(tmp_path):
    record = BestSnapshot("ssn_leak1k", str(tmp_path))
    record.update("a.pkl", dict(ssn_leak1k_inside=9.0, ssn_leak1k_outside=0.5))
    assert record.record["value"] == 0.5


def test_the_best_network_survives_a_run_that_keeps_one(kwargs, tmp_path, monkeypatch):
    values = iter([5.0, 1.0, 4.0, 3.0])
    monkeypatch.setitem(metric_main._metrics, "image_mean", lambda opts: dict(image_mean=next(values)))
    training_loop.training_loop(**dict(
        kwargs, batch_size=500, batch_gpu=500, total_kimg=3, kimg_per_tick=1, network_snapshot_ticks=1, keep=1,
        image_snapshot_ticks=None, ada_target=None))
    assert kept(tmp_path / "run", "network-snapshot") == [1, 3]      # after 0.5, 1.5, 2.5 and 3 kimg
    assert kept(tmp_path / "run", "training-state") == [2, 3]


# Writing in the background


def test_jobs_run_in_order_beside_the_caller():
    done = []
    may_go_on = threading.Event()
    with BackgroundWriter() as writer:
        writer.submit(lambda: (may_go_on.wait(), done.append(1)))  # a caller that waited for it would never get on
        writer.submit(lambda: done.append(2))
        writer.check()
        assert done == []
        may_go_on.set()
        writer.wait()
        assert done == [1, 2]


def test_an_error_of_a_job_is_raised_at_the_next_check():
    def fail():
        raise OSError("disk full")

    with BackgroundWriter() as writer:
        writer.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            for _ in range(1000):
                writer.check()
                time.sleep(0.005)


def test_what_is_being_written_is_finished_and_the_first_error_is_told():
    done = []

    def fail():
        done.append(1)
        raise OSError("disk full")

    with pytest.raises(ValueError, match="first"), BackgroundWriter() as writer:
        writer.submit(fail)
        raise ValueError("first")
    assert done == [1]
    with pytest.raises(OSError, match="disk full"), BackgroundWriter() as writer:
        writer.submit(fail)


# Signals


def test_signals_are_noted_and_a_second_interrupt_much_later_interrupts(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("training.run.stopping.time.monotonic", lambda: clock[0])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has tests in the background ignore
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        clock[0] += 0.5
        os.kill(os.getpid(), signal.SIGINT)  # a launcher passes on what the terminal has sent already
        clock[0] += 10
        os.kill(os.getpid(), signal.SIGTERM)
        if hasattr(signal, "SIGHUP"):
            os.kill(os.getpid(), signal.SIGHUP)  # the terminal is lost
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == former


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_under_nohup_a_lost_terminal_does_not_stop_a_run():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, former)
