"""The command, run as users run it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import warm_python
from click.testing import CliRunner
from metric_fixtures import (
    dataset_kwargs,
    forget_detectors,
    tiny_generator,
    write_detectors,
    write_images,
    write_snapshot,
)

import calc_metrics
from metrics import detectors
from ssn_plugin.networks import SSNGenerator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    forget_detectors(monkeypatch, tmp_path / "cache")


@pytest.fixture
def data(tmp_path):
    return write_images(tmp_path / "d.zip", 24)


@pytest.fixture
def network(tmp_path, data):
    return write_snapshot(tmp_path / "net.pkl", tiny_generator(), dataset_kwargs(data, use_labels=False))


@pytest.fixture
def ssn(tmp_path):
    G = SSNGenerator(
        block_z_dim=4, c_dim=0, block_w_dim=4, img_resolution=16, img_channels=3, block_grid=[[2, 2]],
        mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=4))
    return write_snapshot(tmp_path / "ssn.pkl", G.eval().requires_grad_(False), None)


def run(*args):
    return CliRunner().invoke(calc_metrics.main, [str(arg) for arg in args])


def refused(*args):
    """The one line with which a command is refused."""
    result = run(*args)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Calculating")]
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    return lines[0]


def results_of(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_results_are_json_lines_on_stdout_and_progress_is_on_stderr(network, tmp_path):
    folder = write_detectors(tmp_path / "detectors")
    result = run(f"--network={network}", "--metrics=kid10_full,is10", f"--detectors={folder}")
    kid, inception = results_of(result)
    assert kid["metric"] == "kid10_full" and kid["provenance"]["num_real"] == 24
    assert set(inception["results"]) == {"is10_mean", "is10_std"}
    assert "Calculating kid10_full" in result.stderr and "images/s" in result.stderr
    silent = run(f"--network={network}", "--metrics=kid10_full", f"--detectors={folder}", "--verbose=0")
    assert silent.stderr == ""
    assert results_of(silent)[0]["results"] == kid["results"]


def test_results_of_a_training_run_are_collected_in_its_folder(ssn, tmp_path):
    (tmp_path / "training_options.json").write_text("{}")
    assert run(f"--network={ssn}", "--metrics=ssn_distortion8").exit_code == 0
    (line,) = (tmp_path / "metric-ssn_distortion8.jsonl").read_text().splitlines()
    assert json.loads(line)["snapshot_pkl"] == "ssn.pkl"


def test_files_go_to_the_output_folder(ssn, tmp_path):
    result = run(f"--network={ssn}", "--metrics=ssn_leak8", f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(tmp_path / "out")) == [
        "metric-ssn_leak8.jsonl", "ssn_leak8-ci95.npy", "ssn_leak8.npy", "ssn_leak8.png"]


def test_path_length_histogram_goes_to_the_output_folder(network, tmp_path):
    result = run(f"--network={network}", "--metrics=ppl10_wend", "--ppl-histogram", f"--outdir={tmp_path / 'out'}",
                 f"--detectors={write_detectors(tmp_path / 'detectors')}")
    assert result.exit_code == 0, result.output
    assert len(np.load(tmp_path / "out" / "ppl10_wend-distances.npy")) == 10
    assert (tmp_path / "out" / "ppl10_wend-highest.png").is_file()


def test_another_data_set_and_mirroring_can_be_named(network, tmp_path):
    other = write_images(tmp_path / "other.zip", 15, seed=3)
    plain, mirrored, default = (
        results_of(run(f"--network={network}", "--metrics=swd100", "--json", *args))[0]["provenance"]["num_real"]
        for args in ([f"--data={other}"], [f"--data={other}", "--mirror=1"], []))
    assert (plain, mirrored, default) == (15, 30, 24)


def test_the_batch_size_does_not_change_a_result(network):
    values = [results_of(run(f"--network={network}", "--metrics=rkid20", f"--batch={size}"))[0]["results"]["rkid20"]
              for size in (1, 7, 64)]
    np.testing.assert_allclose(values, values[0], rtol=1e-3)   # a rounding flip of one pixel in thousands


def test_two_processes_give_the_result_of_one(network, ssn, tmp_path):
    """Spawned processes need the real command, not a runner inside this one."""
    def measure(*args):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = warm_python.run(args, cwd=ROOT, env=env, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for path, names, launcher, gpus in ((network, "rfid11_full,swd9", [], 2),
                                        (ssn, "ssn_distortion9,ssn_leak9", torchrun, 0)):
        one = results_of(run(f"--network={path}", f"--metrics={names}", "--gpus=0"))
        two = measure(*launcher, "calc_metrics.py", f"--network={path}", f"--metrics={names}", f"--gpus={gpus}")
        assert [line["num_gpus"] for line in two] == [2, 2]
        for a, b in zip(one, two):
            assert a["results"] == pytest.approx(b["results"], rel=1e-4)


def test_a_launcher_decides_on_the_number_of_processes(network, monkeypatch):
    for name, value in dict(RANK=0, WORLD_SIZE=3).items():
        monkeypatch.setenv(name, str(value))
    result = run(f"--network={network}", "--metrics=swd8", "--gpus=2")
    assert result.exit_code == 2 and result.stderr == (
        "Error: --gpus must be 0 for the CPU or 3, the number of processes that were launched, got 2\n")


def test_results_can_be_compared(network, tmp_path):
    for folder in ("a", "b"):
        assert run(f"--network={network}", "--metrics=swd8", f"--outdir={tmp_path / folder}").exit_code == 0
    result = run("report", tmp_path / "a" / "metric-swd8.jsonl", tmp_path / "b" / "metric-swd8.jsonl")
    assert result.exit_code == 0 and "swd8: comparable" in result.stdout
    other = write_images(tmp_path / "other.zip", 9, seed=3)
    assert run(f"--network={network}", "--metrics=swd8", f"--data={other}", f"--outdir={tmp_path / 'c'}").exit_code == 0
    result = run("report", tmp_path / "a" / "metric-swd8.jsonl", tmp_path / "c" / "metric-swd8.jsonl")
    assert result.exit_code == 1 and "not comparable" in result.stdout and "data set" in result.stdout


def test_terminal_gets_a_table(ssn, monkeypatch):
    monkeypatch.setattr(calc_metrics, "wants_table", lambda as_json: not as_json)
    result = run(f"--network={ssn}", "--metrics=ssn_distortion8")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ssn_distortion8 ") and "[" in lines[0] and len(lines) == 3
    assert len(results_of(run(f"--network={ssn}", "--metrics=ssn_distortion8", "--json"))) == 1


# Refusals: one line, before the work


def test_a_network_is_required_and_must_exist():
    assert "--network is required" in refused("--metrics=fid50k_full")
    assert "network nowhere.pkl is not an existing file" in refused("--network=nowhere.pkl", "--metrics=rfid10")


def test_an_unknown_metric_is_refused_before_the_network_is_opened():
    assert "got 'fid50x'" in refused("--network=nowhere.pkl", "--metrics=fid50x")
    assert "got ''" in refused("--network=nowhere.pkl", "--metrics=")


def test_a_histogram_needs_a_folder(network, tmp_path):
    folder = write_detectors(tmp_path / "detectors")
    args = (f"--network={network}", "--metrics=ppl10_wend", "--ppl-histogram", f"--detectors={folder}")
    assert "--outdir" in refused(*args)


def test_a_leak_matrix_without_a_folder_is_warned_about(ssn):
    result = run(f"--network={ssn}", "--metrics=ssn_leak8")
    assert result.exit_code == 0 and "Warning: the leak matrix is not saved" in result.stderr


def test_a_missing_detector_is_refused_with_its_url_and_place(network, tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("unreachable")
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    line = refused(f"--network={network}", "--metrics=rfid5,fid50k_full")
    assert detectors.INCEPTION_URL in line and "--detectors" in line
    assert f"into {tmp_path}" in refused(f"--network={network}", "--metrics=ppl2_wend", f"--detectors={tmp_path}")


def test_a_grid_metric_of_a_plain_network_says_that_there_is_no_grid(network):
    assert "no block grid" in refused(f"--network={network}", "--metrics=ssn_distortion8")


@pytest.mark.parametrize(("shape", "words"), [(dict(resolution=32), "32x32"), (dict(channels=1), "[1, 16, 16]")])
def test_a_data_set_of_another_shape_is_refused(network, tmp_path, shape, words):
    other = write_images(tmp_path / "other.zip", 5, **shape)
    line = refused(f"--network={network}", "--metrics=rfid5", f"--data={other}")
    assert words in line and "other" in line


def test_a_data_set_of_one_image_and_an_empty_one_are_refused(network, tmp_path):
    one, none = write_images(tmp_path / "one.zip", 1), write_images(tmp_path / "none.zip", 0)
    assert "at least 2" in refused(f"--network={network}", "--metrics=rfid5", f"--data={one}")
    assert "contains no image" in refused(f"--network={network}", "--metrics=rfid5", f"--data={none}")
    assert "does not exist" in refused(f"--network={network}", "--metrics=rfid5", f"--data={tmp_path / 'no.zip'}")


def test_a_network_without_a_data_set_asks_for_one(ssn):
    assert "--data" in refused(f"--network={ssn}", "--metrics=rfid5")


def test_a_network_file_cannot_choose_what_is_called(tmp_path):
    path = write_snapshot(tmp_path / "net.pkl", tiny_generator(), dict(class_name="os.system", command="true"))
    assert "data set class os.system" in refused(f"--network={path}", "--metrics=swd5")
