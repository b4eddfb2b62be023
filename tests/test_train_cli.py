"""train.py as a command: dry run, refusals, the run folder. The training loop itself is replaced."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import train

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with two 16x16 images in `photos`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        PIL.Image.fromarray(np.full([16, 16, 3], 90 * i, dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path


@pytest.fixture
def calls(monkeypatch):
    """Replaces the training loop; lists the arguments of its calls."""
    calls = []

    def training_loop(**kwargs):
        print("training starts")
        calls.append(kwargs)

    monkeypatch.setattr("training.training_loop.training_loop", training_loop)
    return calls


def run(*args):
    return CliRunner().invoke(train.main, [str(arg) for arg in args])


def test_dry_run_prints_the_tree_and_creates_nothing(folder, calls):
    before = sorted(folder.rglob("*"))
    result = run("--outdir=out", "--data=photos", "--cfg=ssn", "--blocks=2x2", "--dry-run")
    assert result.exit_code == 0
    desc, args = train.setup_training_loop_kwargs(data="photos", cfg="ssn", blocks="2x2")
    assert json.loads(result.stdout) == args
    assert desc in result.stderr and "2 images of 16x16 in photos" in result.stderr
    assert calls == []
    assert sorted(folder.rglob("*")) == before


def test_a_run_gets_a_numbered_folder_with_its_options_and_its_log(folder, calls):
    (folder / "out" / "00041-older").mkdir(parents=True)
    (folder / "out" / "notes").mkdir()
    result = run("--outdir=out", "--data=photos", "--cfg=ssn", "--kimg=3", "--metrics=none")
    assert result.exit_code == 0, result.output
    run_dir = folder / "out" / "00042-photos-ssn-blocks4x4-lambda100-kimg3"
    saved = json.loads((run_dir / "training_options.json").read_text())
    assert calls == [saved]
    assert list(saved)[-1] == "run_dir" and Path(saved["run_dir"]).resolve() == run_dir
    assert saved["total_kimg"] == 3
    log = (run_dir / "log.txt").read_text()
    assert '"total_kimg": 3' in log
    assert log.endswith("training starts\n")


def test_runs_are_numbered_from_zero(folder):
    assert Path(train.make_run_dir("out", "a")).name == "00000-a"
    assert Path(train.make_run_dir("out", "b")).name == "00001-b"


def test_two_runs_that_start_at_once_get_a_folder_each(folder, monkeypatch):
    mkdir = os.mkdir
    rivals: list[str] = []

    def slower_mkdir(path, *args):
        if "00000" in path and not rivals:
            rivals.append(path)
            mkdir(path)  # the other run was faster
        mkdir(path, *args)

    monkeypatch.setattr(os, "mkdir", slower_mkdir)
    assert Path(train.make_run_dir("out", "a")).name == "00001-a"
    assert rivals


@pytest.mark.parametrize(("args", "message"), [
    (["--gpus=3"], "Error: --gpus must be a power of two, or 0 for the CPU, got 3"),
    (["--gpus=2"], "Error: --gpus must be 0 or 1 in this version, which trains in one process, got 2"),
    (["--cfg=ssn", "--blocks=3x3"], "Error: grid 3x3 does not divide the 16x16 image"),
    (["--blocks=4x4"], "Error: --blocks can only be given with --cfg=ssn, got --cfg=auto"),
    (["--lambda=-2", "--cfg=ssn"], "Error: --lambda must be at least 0, got -2"),
    (["--data=nowhere"], "Error: --data: "),
    (["--resume=lost.pkl"], "Error: --resume must be an existing file, a URL, noresume or one of ffhq256, ffhq512, "
                            "ffhq1024, celebahq256, lsundog256, got lost.pkl"),
    (["--kimg=ten"], "Error: Invalid value for '--kimg': 'ten' is not a valid integer."),
    (["--cfg=huge"], "Error: Invalid value for '--cfg': 'huge' is not one of"),
])
def test_a_refused_run_ends_with_one_line_and_exit_code_2_and_leaves_no_folder(folder, calls, args, message):
    result = run("--outdir=out", "--data=photos", "--metrics=none", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert calls == []
    assert not (folder / "out").exists()


def test_an_outdir_that_is_a_file_is_refused(folder, calls):
    result = run("--outdir=photos/0.png", "--data=photos", "--metrics=none")
    assert (result.exit_code, result.stderr) == (2, "Error: --outdir must be a folder, got photos/0.png\n")
    assert calls == []


def test_metrics_that_cannot_be_had_are_refused_before_the_folder_exists(folder, calls, monkeypatch):
    def no_network(metrics, rank):
        raise OSError(f"cannot download the detector of {metrics[0]}")

    monkeypatch.setattr("training.construction.load_metrics", no_network)
    result = run("--outdir=out", "--data=photos")
    assert (result.exit_code, result.stderr) == (2, "Error: cannot download the detector of fid50k_full\n")
    assert calls == []
    assert not (folder / "out").exists()


@pytest.mark.parametrize(("given", "expected"), [
    ("none", []), ("", []), ("fid50k_full", ["fid50k_full"]), ("kid50k,is50k", ["kid50k", "is50k"]),
])
def test_metrics_are_separated_by_commas_and_none_means_none(folder, given, expected):
    result = run("--outdir=out", "--data=photos", "--dry-run", f"--metrics={given}")
    assert json.loads(result.stdout)["metrics"] == expected


def test_help_ends_with_two_commands_that_run(folder):
    result = run("--help")
    commands = [shlex.split(line) for line in result.output.splitlines()[-2:]]
    assert all(command[:2] == ["python", "train.py"] for command in commands)
    assert any("--cfg=ssn" in command for command in commands)
    (folder / "photos").rename(folder / "castles.zip")  # a folder serves as well as a zip
    for command in commands:
        assert run(*command[2:], "--dry-run").exit_code == 0


def test_the_script_itself_prints_a_refusal_without_a_traceback(folder):
    command = [sys.executable, str(ROOT / "train.py"), "--outdir=out", "--data=photos", "--snap=0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "Error: --snap must be at least 1, got 0\n"
