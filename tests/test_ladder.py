"""benchmarks/ladder.py: what it measures, reports and refuses. Its runs are those of train.py."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from metric_fixtures import forget_detectors, tiny_generator, write_images, write_snapshot

from benchmarks import ladder
from benchmarks.pareto import Workers
from training.lineage import networks

SETTINGS = ["--kimg=2", "--grow-kimg=0.2", "--channels=2", "--channels-max=4", "--images=20", "--snapshots=2"]


@pytest.fixture(autouse=True)
def without_packages(monkeypatch, tmp_path):
    """Scores that need no pretrained network."""
    forget_detectors(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(type(ladder.efficientnet_lite0.WEIGHTS), "find", lambda _self: None)


def test_a_flat_image_has_detail_at_no_resolution_and_a_chessboard_at_its_own():
    side = 16
    row, col = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for cell, level in ((1, "16"), (2, "8"), (4, "4")):
        board = ((row // cell + col // cell) % 2 * 2.0 - 1)[None, None]
        assert {name for name, value in ladder.bands(board).items() if value > 1e-6} == {level}
    assert set(ladder.bands(torch.ones([1, 3, side, side])).values()) == {0}


def test_shares_of_resolutions_sum_to_one_and_skip_networks_have_those_of_their_outputs(tmp_path):
    shares = ladder.usage(write_snapshot(tmp_path / "skip.pkl", tiny_generator(), None), 4)
    assert set(shares) == {"bands", "outputs"}
    assert all(sum(values.values()) == pytest.approx(1) and set(values) == {"4", "8", "16"}
               for values in shares.values())
    G = networks.ProGANGenerator(8, 0, 8, 16, 3, synthesis_kwargs=dict(channel_base=64, channel_max=8))
    G.synthesis.stage.fill_(1)
    grown = ladder.usage(write_snapshot(tmp_path / "grown.pkl", G, None), 4)
    assert set(grown) == {"bands"} and grown["bands"]["16"] == 0, "a network that has grown to 8x8 has no finer detail"


def fake_run(_workers, command, log):
    """Makes the files of train.py."""
    options = dict(word.lstrip("-").split("=", 1) for word in command[2:])
    run = log.parent / "00000-run"
    run.mkdir(parents=True)
    (run / "training_options.json").write_text("{}")
    (run / "stats.jsonl").write_text(json.dumps({"Timing/total_sec": dict(mean=60)}) + "\n")
    for kimg in (1, int(options["kimg"])):
        write_snapshot(run / f"network-snapshot-{kimg:06d}.pkl", tiny_generator(), None)
    log.write_text(json.dumps(options))


def run(data, outdir, *options):
    return CliRunner().invoke(ladder.main, [f"--data={data}", f"--outdir={outdir}", *SETTINGS, *options])


def test_rungs_are_trained_measured_and_reported_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Workers, "run", fake_run)
    data, outdir = write_images(tmp_path / "d.zip", 24), tmp_path / "out"
    result = run(data, outdir, "--only=progan,stylegan2-f")
    assert result.exit_code == 0, result.output
    assert "| Progressive GAN |" in result.output and "| F  + large networks |" in result.output
    given = {cfg: json.loads((outdir / cfg / "train.log").read_text()) for cfg in ("progan", "stylegan2-f")}
    assert given["progan"]["grow-kimg"] == "0.2" and "grow-kimg" not in given["stylegan2-f"]
    assert [given[cfg]["grow-channels"] for cfg in given] == ["2", "4"]
    scores = json.loads((outdir / "progan" / "scores.json").read_text())["scores"]
    assert set(scores) == {"rfid", "minutes"} and scores["minutes"] == 1
    assert (outdir / "usage.png").stat().st_size > 1000
    monkeypatch.setattr(Workers, "run", lambda *_args: pytest.fail("trained again"))
    monkeypatch.setattr(ladder, "measure", lambda *_args: pytest.fail("measured again"))
    assert run(data, outdir, "--only=progan").exit_code == 0
    result = run(data, outdir, "--train-options=--batch=8")
    assert result.exit_code == 2 and "was made with other settings" in result.output


@pytest.mark.parametrize(("option", "message"), [
    ("--only=stylegan3", "--only must be some of progan, msggan"), ("--data=nowhere.zip", "--data does not exist")])
def test_bad_options_are_one_line(tmp_path, option, message):
    result = run(write_images(tmp_path / "d.zip", 4), tmp_path / "out", option)
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1
    assert not (tmp_path / "out").exists()
