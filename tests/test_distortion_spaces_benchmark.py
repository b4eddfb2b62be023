"""benchmarks/distortion_spaces.py: what it measures and draws. Its runs are those of train.py."""

from __future__ import annotations

import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from benchmarks import distortion_spaces as benchmark
from metrics import metric_main
from ssn_plugin.config import SPACES
from ssn_plugin.networks import SSNGenerator


@pytest.fixture
def G(monkeypatch):
    monkeypatch.setattr(type(benchmark.efficientnet_lite0.WEIGHTS), "find", lambda _self: None)
    torch.manual_seed(0)
    return SSNGenerator(4, 0, 4, 16, 3, [[2, 2]], synthesis_kwargs=dict(channel_base=64, channel_max=8)).eval()


def test_the_numbers_in_pixels_are_those_of_the_metric(G):
    scores = benchmark.measure(G, 4)
    results = metric_main.calc_metric("ssn_distortion4", G=G, device=torch.device("cpu")).results
    assert set(scores) == {"pixels", "features", "wasserstein", "inside"} and min(scores.values()) > 0
    assert scores["pixels"] == pytest.approx(results["ssn_distortion4"], rel=1e-4)
    assert scores["inside"] == pytest.approx(results["ssn_distortion4_diversity"], rel=1e-4)


def test_the_sheet_has_a_row_for_each_network(G, tmp_path):
    benchmark.draw_sheet(dict(pixels=G, features=G), 3, tmp_path / "sheet.png")
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 28 + 6 * 70, 2 * 28 + 2 * 90)


def test_every_space_has_a_weight_and_its_command(tmp_path):
    assert set(benchmark.WEIGHTS) == set(SPACES)
    settings = dict(outdir=tmp_path, data="d.zip", kimg=3, lambda_=100.0, source=None, train_options=["--batch=8"])
    command = benchmark.train_command("wasserstein", settings)
    assert "--distortion-space=wasserstein" in command and "--lambda=240" in command and "--batch=8" in command


def test_an_unknown_space_is_one_line(tmp_path):
    line = ["compare", "--data=d.zip", f"--outdir={tmp_path}", "--spaces=colours"]
    result = CliRunner().invoke(benchmark.main, line)
    assert result.exit_code == 2 and "--spaces must be some of pixels, features" in result.output
