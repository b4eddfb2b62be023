"""training.training_loop: tiny runs from start to end."""

from __future__ import annotations

import json
import re

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_run import ADAM, loop_kwargs, read_lines, write_zip

import dnnlib
import legacy
from training.run.clock import RunClock
from training.training_loop import training_loop


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run a tiny training in a new folder below tmp_path and return that folder. Nothing is drawn, which takes long."""
    monkeypatch.setattr("training.training_loop.draw_training_plot", lambda run_dir: None)

    def run(name="run", data=None, **options):
        data = dict(data or {})
        zip_path = tmp_path / f"{name}.zip"
        write_zip(zip_path, **data)
        run_dir = tmp_path / name
        run_dir.mkdir()
        kwargs = loop_kwargs(run_dir, zip_path, use_labels="num_classes" in data)
        training_loop(**{**kwargs, **options})
        return run_dir

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)   # networks this small are faster without helpers
    yield run
    torch.set_num_threads(num_threads)


def read_stats(run_dir):
    return read_lines(run_dir / "stats.jsonl")


def losses(run_dir):
    """Statistics that depend on the computation, not on the clock."""
    return [{name: value for name, value in stats.items() if name.startswith(("Loss/", "Progress/")) and value["num"]}
            for stats in read_stats(run_dir)]


def load(run_dir, kimg=0):
    with open(run_dir / f"network-snapshot-{kimg:06d}.pkl", "rb") as file:
        return legacy.load_network_pkl(file)


def test_a_run_leaves_the_files_of_the_host(train, capsys):
    run_dir = train()
    names = {path.name for path in run_dir.iterdir() if "tfevents" not in path.name}
    assert names == {"reals.png", "fakes_init.png", "fakes000000.png", "network-snapshot-000000.pkl", "stats.jsonl",
                     "training-state-000000.pt"}
    for name in ("reals.png", "fakes_init.png", "fakes000000.png"):
        assert PIL.Image.open(run_dir / name).size == (32, 16)
    ticks = re.findall(r"^tick (\d+) +kimg ([\d.]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert [tick for tick, _ in ticks] == ["0", "1", "2", "3"]
    kimgs = [stats["Progress/kimg"]["mean"] for stats in read_stats(run_dir)]
    assert kimgs == pytest.approx([0.004, 0.012, 0.020, 0.024])   # after the first step, every 8 images, at the end


def test_every_term_and_phase_is_in_the_statistics(train):
    run_dir = train()
    stats = losses(run_dir)[0]
    expected = ["scores/fake", "signs/fake", "scores/real", "signs/real", "G/loss", "D/loss", "pl_penalty", "G/reg",
                "r1_penalty", "D/reg"]
    assert {name for name in stats if name.startswith("Loss/")} == {f"Loss/{name}" for name in expected}
    assert all(np.isfinite(stats[f"Loss/{name}"]["mean"]) for name in expected)
    assert {f"Timing/{phase}" for phase in ("Gmain", "Greg", "Dmain", "Dreg")} <= set(read_stats(run_dir)[0])


def test_the_snapshot_holds_what_the_preview_shows(train):
    run_dir = train()
    data = load(run_dir)
    z = torch.randn([8, 8], generator=torch.Generator().manual_seed(0))
    img = data["G_ema"](z, None, noise_mode="const")
    shown = np.asarray(PIL.Image.open(run_dir / "fakes000000.png")).astype(int)
    expected = (img.detach().numpy() * 127.5 + 127.5).clip(0, 255)
    expected = expected.reshape(2, 4, 3, 8, 8).transpose(0, 3, 1, 4, 2).reshape(16, 32, 3)
    assert np.abs(shown - expected).max() <= 0.51


def test_training_changes_the_networks_and_the_average_stays_between(train):
    first, last = load(train("short", total_kimg=0.004)), load(train("long"))
    assert not torch.equal(first["G"].synthesis.b8.conv1.weight, last["G"].synthesis.b8.conv1.weight)
    assert not torch.equal(first["D"].b8.conv0.weight, last["D"].b8.conv0.weight)
    assert not torch.equal(last["G"].synthesis.b8.conv1.weight, last["G_ema"].synthesis.b8.conv1.weight)
    assert torch.equal(last["G"].mapping.w_avg, last["G_ema"].mapping.w_avg)
    assert all(param.isfinite().all() for param in last["G"].parameters())


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train):
    runs = [train("a"), train("b"), train("c", random_seed=1)]
    assert losses(runs[0]) == losses(runs[1]) != losses(runs[2])
    weights = [load(run_dir)["G"].synthesis.b8.conv1.weight for run_dir in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_snapshots_do_not_change_the_course_of_training(train):
    often = train("often")
    never = train("never", image_snapshot_ticks=None, network_snapshot_ticks=None)
    assert losses(often) == losses(never)
    assert {path.name for path in never.iterdir() if "tfevents" not in path.name} == {"stats.jsonl"}


def test_a_conditional_run_with_adaptive_augmentation_raises_p(train):
    run_dir = train(
        data=dict(num_classes=3), augment_kwargs=dict(class_name="training.augment.AugmentPipe", xflip=1, brightness=1),
        ada_target=-1.5, ada_interval=1, ada_kimg=0.1, total_kimg=0.02)   # signs are always above -1.5
    assert read_stats(run_dir)[-1]["Progress/augment"]["mean"] == pytest.approx(0.2)
    data = load(run_dir)
    assert float(data["augment_pipe"].p) == pytest.approx(0.2) and data["G"].c_dim == data["D"].c_dim == 3


def test_a_fixed_strength_stays_and_no_strength_means_no_augmentation(train):
    pipe = dict(class_name="training.augment.AugmentPipe", xflip=1)
    assert float(load(train("fixed", augment_kwargs=pipe, augment_p=0.3))["augment_pipe"].p) == pytest.approx(0.3)
    assert load(train("none", augment_kwargs=pipe))["augment_pipe"] is None


def test_gray_images_without_lazy_regularisation_in_rounds(train):
    run_dir = train(data=dict(channels=1), G_reg_interval=None, D_reg_interval=None, batch_gpu=2)
    assert {"Timing/Gboth", "Timing/Dboth"} <= set(read_stats(run_dir)[0])
    assert PIL.Image.open(run_dir / "reals.png").mode == "L"


def test_resuming_starts_from_the_weights_of_the_snapshot(train, tmp_path):
    first = train("first")
    pkl = str(first / "network-snapshot-000000.pkl")
    frozen = dict(ADAM, lr=0.0)
    second = train("second", resume_pkl=pkl, G_opt_kwargs=frozen, D_opt_kwargs=frozen, random_seed=5)
    for name in ("G", "D"):
        old, new = load(first)[name], load(second)[name]
        assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters()))


def test_a_snapshot_of_another_size_is_refused_by_the_name_of_its_parameter(train):
    pkl = str(train("first") / "network-snapshot-000000.pkl")
    small = dict(class_name="training.networks.Generator", z_dim=4, w_dim=8, mapping_kwargs=dict(num_layers=2),
                 synthesis_kwargs=dict(channel_base=64, channel_max=8))
    rule = r"does not fit this run: G\.mapping\.fc0\.weight has shape .* and \[8, 4\] here"
    with pytest.raises(ValueError, match=rule):
        train("second", resume_pkl=pkl, G_kwargs=small)


def test_the_caller_is_told_of_progress_and_can_stop(train, capsys):
    told = []
    answers = iter([False, True])
    run_dir = train(total_kimg=5, progress_fn=lambda *args: told.append(args), abort_fn=lambda: next(answers))
    assert told == [(0, 5)] * 3
    assert len(read_stats(run_dir)) == 2 and "Stopping early" in capsys.readouterr().out
    assert load(run_dir)["G"] is not None


def test_a_call_whose_time_is_over_saves_and_shows_everything(train, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(RunClock, "is_over", property(lambda clock: len(seen) > 1))
    monkeypatch.setattr("training.training_loop.PreviewGrid.save_fakes", lambda grid, G_ema, path: seen.append(path))
    run_dir = train(kimg_per_tick=0.012, image_snapshot_ticks=1, network_snapshot_ticks=50)
    assert "Stopping, since the time is over" in capsys.readouterr().out
    assert len(seen) == 3  # before the first step, with the first tick, and at the end
    assert len(read_stats(run_dir)) == 1 and load(run_dir)["G"] is not None


def test_the_clock_decides_on_snapshots_in_the_place_of_ticks(train, monkeypatch):
    written = []
    monkeypatch.setattr("training.training_loop.write_snapshot", lambda *args: written.append(args))
    train("by_clock", snapshot_seconds=1e9)
    assert len(written) == 1  # at the end
    train("by_ticks")
    assert len(written) == 1 + 4


def test_a_sheet_of_a_plugin_is_written_beside_the_preview(train):
    run_dir = train(sheets=[dict(class_name="test_training_loop.BlackSheet")])
    assert PIL.Image.open(run_dir / "black000000.png").size == (7, 5)


class BlackSheet:
    name = "black"

    def draw(self, G_ema):
        return np.zeros([5, 7, 3], dtype=np.uint8)


def test_a_batch_that_does_not_split_is_refused_before_anything_is_read(train, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be a multiple"):
        train(batch_size=6, training_set_kwargs=dict(class_name="no.such.Dataset"))


def test_an_unknown_metric_is_refused_before_training(train, tmp_path):
    with pytest.raises(ValueError, match="no_such_metric"):
        train(metrics=["no_such_metric"])
    assert list((tmp_path / "run").iterdir()) == []


def test_a_metric_without_its_detector_is_refused_before_training(train, tmp_path, monkeypatch):
    detectors = pytest.importorskip("metrics.detectors")
    pytest.importorskip("metrics.metric_main")

    def unreachable(url, verbose=False):
        raise OSError(f"cannot download {url}")

    monkeypatch.setattr(detectors, "fetch", unreachable)
    with pytest.raises(OSError, match="inception-2015-12-05.pt"):
        train(metrics=["fid50k_full"])
    assert list((tmp_path / "run").iterdir()) == []


def test_metrics_are_computed_for_every_snapshot_and_reported(train, monkeypatch):
    metric_main = pytest.importorskip("metrics.metric_main")

    def image_mean(opts):
        img = opts.G(torch.zeros([1, opts.G.z_dim]), None)
        opts.G.synthesis.b4.const.data.fill_(0)   # a metric may change its network
        return dict(image_mean=float(img.mean()), num=len(dnnlib.util.construct_class_by_name(**opts.dataset_kwargs)))

    monkeypatch.setitem(metric_main._metrics, "image_mean", image_mean)
    run_dir = train(metrics=["image_mean"])
    lines = [json.loads(line) for line in (run_dir / "metric-image_mean.jsonl").read_text().splitlines()]
    assert [line["snapshot_pkl"] for line in lines] == ["network-snapshot-000000.pkl"] * 4
    assert lines[0]["results"]["num"] == 20
    assert load(run_dir)["G_ema"].synthesis.b4.const.any()
