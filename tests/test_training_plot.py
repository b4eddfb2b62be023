"""Promises of training.run.training_plot: what is drawn of a run, and that damaged files do not stop it."""

from __future__ import annotations

import builtins
import json

import PIL.Image
import pytest

from training.run import training_plot
from training.run.training_plot import choose_panels, draw_training_plot, read_metrics, read_stats


def tick(kimg, **means):
    values = {"Progress/kimg": kimg, **{name.replace("__", "/"): mean for name, mean in means.items()}}
    return json.dumps({name: dict(num=1, mean=mean, std=0.0) for name, mean in values.items()} | {"timestamp": 1.0})


def write_stats(folder, *lines):
    (folder / "stats.jsonl").write_text("\n".join(lines) + "\n")


def write_metric(folder, metric, *lines):
    rows = [json.dumps(dict(results=results, metric=metric, snapshot_pkl=snapshot)) for results, snapshot in lines]
    (folder / f"metric-{metric}.jsonl").write_text("\n".join(rows) + "\n")


def pixels(path):
    with PIL.Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_a_run_becomes_a_picture_that_every_value_changes(tmp_path):
    pytest.importorskip("matplotlib")
    ticks = [dict(Loss__G__loss=2.0, Loss__D__loss=1.0, Loss__signs__real=0.5, Progress__augment=0.1,
                  Loss__ssn__distortion=0.01) for _ in range(3)]
    pictures = set()
    for changed in [None, *ticks[1]]:
        ticks[1].update({changed: 0.3} if changed else {})
        write_stats(tmp_path, *(tick(kimg, **means) for kimg, means in enumerate(ticks)))
        path = draw_training_plot(str(tmp_path))
        assert path == str(tmp_path / "training.png")
        pictures.add(pixels(path))
    write_metric(tmp_path, "fid50k", ({"fid50k": 9.0}, "network-snapshot-000001.pkl"))
    draw_training_plot(str(tmp_path))
    pictures.add(pixels(tmp_path / "training.png"))
    assert len(pictures) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metric-fid50k.jsonl", "stats.jsonl", "training.png"]


@pytest.mark.parametrize("end", ['{"Progress/kimg": {"mea', "\0\xff", "[1]", "{}", '{"Progress/kimg": {"mean": NaN}}'])
def test_lines_that_are_not_whole_are_passed_over(tmp_path, end):
    write_stats(tmp_path, tick(0.1, Loss__G__loss=2.0), tick(4, Loss__G__loss=1.0))
    with open(tmp_path / "stats.jsonl", "ab") as file:
        file.write(end.encode("latin-1"))
    assert read_stats(str(tmp_path))["Loss/G/loss"] == {0.1: 2.0, 4: 1.0}
    (tmp_path / "training_options.json").write_text(end)
    pytest.importorskip("matplotlib")
    assert draw_training_plot(str(tmp_path)) is not None


def test_values_that_cannot_be_drawn_are_left_out(tmp_path):
    write_stats(tmp_path, tick(1, Loss__G__loss=float("nan")), tick(2, Loss__G__loss=float("inf")), tick(3))
    assert read_stats(str(tmp_path)) == {"Progress/kimg": {1: 1, 2: 2, 3: 3}}
    pytest.importorskip("matplotlib")
    assert draw_training_plot(str(tmp_path)) is not None


def test_what_a_resumed_run_repeats_replaces_what_was_written_before(tmp_path):
    write_stats(tmp_path, *(tick(kimg, Loss__G__loss=kimg) for kimg in (4, 8, 12)), tick(8, Loss__G__loss=5.0))
    assert read_stats(str(tmp_path))["Loss/G/loss"] == {4: 4, 8: 5.0}


def test_results_belong_to_their_snapshot_and_the_latest_counts(tmp_path):
    write_metric(
        tmp_path, "is50k", ({"is50k_mean": 3.0}, "network-snapshot-000200.pkl"),
        ({"is50k_mean": 2.0, "is50k_std": 0.1}, "network-snapshot-000100.pkl"),
        ({"is50k_mean": 4.0}, "network-snapshot-000200.pkl"), ({"is50k_mean": 9.0}, "best.pkl"),
    )
    curves = read_metrics(str(tmp_path))["is50k"]
    assert curves == {"is50k_mean": {100: 2.0, 200: 4.0}, "is50k_std": {100: 0.1}}
    assert list(curves["is50k_mean"]) == [100, 200]


def test_every_metric_has_its_panel_and_its_interval_is_a_band():
    results = {"ssn_x1k": {1: 2.0}, "ssn_x1k_low": {1: 1.5}, "ssn_x1k_high": {1: 2.5}, "ssn_x1k_floor": {1: 1.0}}
    panels = choose_panels({"Loss/G/loss": {1: 1.0}}, {"ssn_x1k": results, "fid50k": {"fid50k": {1: 9.0}}}, {})
    assert [panel.title for panel in panels] == ["Losses", "ssn_x1k", "fid50k"]
    assert panels[1].curves == {"ssn_x1k": {1: 2.0}, "floor": {1: 1.0}}
    assert panels[1].bands == {"ssn_x1k": ({1: 1.5}, {1: 2.5})}


def test_the_augmentation_is_drawn_where_there_is_one():
    stats = {"Loss/signs/real": {1: 0.5}, "Progress/augment": {1: 0.0}}
    (without,) = choose_panels(stats, {}, {})
    assert list(without.curves) == ["real images"] and without.level is None
    (adaptive,) = choose_panels(stats, {}, dict(ada_target=0.6, augment_kwargs={}))
    assert list(adaptive.curves) == ["real images", "p of the augmentation"]
    assert adaptive.level == ("target for real images", 0.6)


def test_terms_of_a_plugin_are_drawn_under_their_own_name():
    stats = {"Loss/ssn/distortion": {1: 0.1}, "Loss/other/term": {1: 1.0}, "Loss/scores/real": {1: 2.0}}
    ssn, other = choose_panels(stats, {}, {})
    assert list(ssn.curves) == ["outside the block (distortion)"] and (other.title, list(other.curves)) == (
        "other", ["term"])


def test_there_is_no_picture_without_ticks_or_without_matplotlib(tmp_path, monkeypatch):
    assert draw_training_plot(str(tmp_path)) is None
    write_stats(tmp_path, tick(1))
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert draw_training_plot(str(tmp_path)) is None
    assert not (tmp_path / "training.png").exists()


def test_a_failed_write_keeps_the_picture_before(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    write_stats(tmp_path, tick(1))
    draw_training_plot(str(tmp_path))
    before = pixels(tmp_path / "training.png")

    class BrokenFigure:
        def savefig(self, file, format):
            file.write(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_plot, "draw_figure", lambda *args: BrokenFigure())
    with pytest.raises(OSError):
        draw_training_plot(str(tmp_path))
    assert pixels(tmp_path / "training.png") == before and len(list(tmp_path.iterdir())) == 2


def test_two_thousand_ticks_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    names = [f"Loss__{name}" for name in ("G__loss", "D__loss", "G__reg", "D__reg", "signs__real", "ssn__distortion")]
    write_stats(tmp_path, *(tick(4 * i, **{name: 1 + i % 7 for name in names}) for i in range(2000)))
    draw_training_plot(str(tmp_path))
    PIL.Image.open(tmp_path / "training.png").verify()
